"""Parameter sharing of one's own."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import marl
from tests.extension.support import trains_saves_loads_resumes
from tests.support.tiny import Team

SOURCE = '''
from dataclasses import dataclass

import marl
from marl.extend import TeamSpec, register
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Leaders:
    """The first agents have parameters of their own, the others share one set."""

    count: int = 1

    def owner_index(self, team: TeamSpec):
        return [*range(self.count)] + [9] * (team.num_agents - self.count)


def make():
    learner = LEARNER
    return {"agents": learner, "env": Team, "num_envs": 2}
'''
LEARNERS = {
    "ppo": "marl.PPO(sharing=Leaders(1), rollout=8, minibatches=1)",
    "dqn": "marl.DQN(sharing=Leaders(1), batch=8, learning_starts=8, network=marl.MLP((8,)))",
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_sharing_of_ones_own(name, tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE.replace("LEARNER", LEARNERS[name]))
    (learner,) = came.system.learners
    owner = learner.model.owner if name == "ppo" else learner.owner
    assert owner.index == (0, 1, 1)
    net = learner.model.actor if name == "ppo" else learner.net
    assert net.head.weight.shape[0] == 2
    assert not torch.equal(net.head.weight[0], net.head.weight[1])
    assert came.system.agents.sharing == came.module.Leaders(1)


@pytest.mark.parametrize("given", [[0, 1], [0, 1, "x"], [0, 1, 0.5], 3])
def test_a_sharing_that_does_not_number_every_agent_is_refused(given):
    @dataclasses.dataclass(frozen=True)
    class Wrong:
        def owner_index(self, team):
            return given

    with pytest.raises(marl.ConfigError, match=r"Wrong\.owner_index on team .* expected 3 whole numbers"):
        marl.MultiAgentSystem(marl.PPO(sharing=Wrong()), Team)
