"""Scopes of one's own: what critics read beside what the library knows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import marl
from tests.extension.support import trains_saves_loads_resumes
from tests.support.tiny import Team

SOURCE = '''
from dataclasses import dataclass

import numpy as np

import marl
from marl.extend import Scope, Spec, Step, TeamSpec, register
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Pooled(Scope):
    """The sum of the team's observations, beside the state if wanted."""

    state: bool = False

    @property
    def reads_state(self):
        return self.state

    def shape(self, spec: Spec, team: TeamSpec):
        return (team.obs.shape[0] + (spec.state_shape[0] if self.state else 0),)

    def gather(self, step: Step, place, successor, rows=None):
        team = step.teams[place]
        parts = [(team.next_obs if successor else team.obs).sum(1)]
        if self.state:
            parts.append(step.next_state if successor else step.state)
        joint = np.concatenate(parts, axis=1)
        return joint if rows is None else joint[rows]


@register
@dataclass(frozen=True)
class Rivals(Scope):
    """Observations of all teams, as far as they are the first number; critics read everybody's actions, too."""

    @property
    def other_teams(self):
        return True

    def shape(self, spec: Spec, team: TeamSpec):
        return (sum(other.num_agents for other in spec.teams),)

    def gather(self, step: Step, place, successor, rows=None):
        joint = np.concatenate([(t.next_obs if successor else t.obs)[..., 0] for t in step.teams], axis=1)
        return joint if rows is None else joint[rows]


Q = {"batch": 8, "learning_starts": 8, "network": marl.MLP((8,))}


def make():
    agents = AGENTS
    return {"agents": agents, "env": lambda: Team(length=5), "num_envs": 2}
'''
AGENTS = {
    "ppo": "marl.PPO(critic=Pooled(state=True), rollout=8, minibatches=1)",
    "coma": "marl.A2C(critic=Pooled(), credit=marl.Counterfactual(), rollout=8)",
    "td3": "marl.TD3(critic=Pooled(state=True), sharing='none', **Q)",
    "sac": "marl.SAC(critic=Pooled(), **Q)",
    "across": "{'agent_0': marl.DDPG(critic=Rivals(), **Q), 'agent_[12]': marl.DDPG(**Q)}",
}


@pytest.mark.parametrize("name", AGENTS)
def test_a_scope_of_ones_own(name, tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE.replace("AGENTS", AGENTS[name]))
    memory = came.system.learners[0].memory
    width = {"ppo": 12, "td3": 12}.get(name, 3)  # observations are 3 wide, the state 9
    assert memory.joint.shape[2:] == (width,)
    if name == "across":
        joint, first = memory.joint.numpy(), memory.obs.numpy()[:, :, 0, 0]
        assert np.array_equal(joint[..., 0], first)
        assert memory.others[0].shape[2:] == (2,)
    else:
        filled = memory.obs.numpy().sum(2)
        assert np.array_equal(memory.joint.numpy()[..., :3], filled)


def test_what_is_no_scope_is_refused_with_what_it_lacks():
    @dataclasses.dataclass(frozen=True)
    class Half:
        reads_state: bool = False

    with pytest.raises(marl.ConfigError, match=r"PPO\.critic: expected Scope .*; it has no gather, is_view, obs_of"):
        marl.PPO(critic=Half())
    with pytest.raises(marl.ConfigError, match=r"that is the class itself: write Joint\(\.\.\.\)"):
        marl.PPO(critic=marl.Joint)
    with pytest.raises(marl.ConfigError, match="no state of the team"):
        marl.MultiAgentSystem(marl.DQN(credit=local_mixer()), Team)


def local_mixer():
    @dataclasses.dataclass(frozen=True)
    class Blind(marl.extend.Mixing):
        def scope(self, spec):
            return marl.Local()

        def build(self, context):
            return context.state_width

    return Blind()
