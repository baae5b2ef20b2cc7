"""Mixers of one's own: a module that mixes in another way, and a team value with a loss of its own."""

from __future__ import annotations

import pytest
import torch

import marl
from tests.extension.support import trains_saves_loads_resumes
from tests.support.tiny import Team

MODULE = '''
from dataclasses import dataclass

import torch
from torch import nn

import marl
from marl.extend import Mixer, MixerContext, Mixing, Spec, TrackedMixer, mixer_scope, register
from tests.support.tiny import Team


class SoftWeights(Mixer):
    """``Q_tot = sum_i softmax_i(w(s)) Q_i + V(s)``, of plain layers that PyTorch initializes."""

    def __init__(self, agents, state_width):
        super().__init__()
        self.weight, self.value = nn.Linear(state_width, agents), nn.Linear(state_width, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, chosen, best, acting, state, action):
        weight = self.drop(self.weight(state)).softmax(-1)  # (..., N)
        return (weight * torch.where(acting, chosen, 0.0)).sum(-1) + self.value(state).squeeze(-1)


@register
@dataclass(frozen=True)
class Soft(Mixing):
    state: str = "auto"

    @property
    def reads_state(self):
        return self.state != "team"

    def scope(self, spec: Spec):
        return mixer_scope(self.state, spec)

    def build(self, context: MixerContext):
        return TrackedMixer(context, SoftWeights(context.team.num_agents, context.state_width))


def make():
    learner = LEARNER
    return {"agents": learner, "env": Team, "num_envs": 2, "seed": 3}
'''
LEARNERS = {
    "dqn": "marl.DQN(credit=Soft(), batch=8, learning_starts=8, network=marl.MLP((8,)))",
    "ddpg": "marl.DDPG(credit=Soft('team'), batch=8, learning_starts=8, network=marl.MLP((8,)))",
    "recurrent": "marl.DQN(credit=Soft(), batch=8, learning_starts=8, network=marl.GRU(8), sequence=4)",
}
LOSS = '''
from dataclasses import dataclass

import torch

import marl
from marl.extend import FlatParameters, MixerContext, Mixing, TrackedMixer, register
from tests.support.tiny import Team


class Learned(torch.nn.Module):
    def __init__(self, agents):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(agents))

    def forward(self, chosen, best, acting, state, action):
        return (self.weight * torch.where(acting, chosen, 0.0)).sum(-1)


class Even:
    """A weighted sum of values, whose loss keeps weights near 1 and learns less where the team is overestimated."""

    def __init__(self, settings, context):
        self.settings, self.inner = settings, TrackedMixer(context, Learned(context.team.num_agents))
        self.flats, self.parts_with_mode = self.inner.flats, self.inner.parts_with_mode
        self.now, self.track = self.inner.now, self.inner.track

    def saved_modules(self):
        return {"even": self.inner}

    def later(self, team):
        assert team.choices.index.shape == team.chosen.shape
        return self.inner.later(team)

    def loss(self, cost, team, total, target):
        cost = torch.where(total.detach() > target, self.settings.share * cost, cost)
        return cost + (self.inner.online.weight - 1).square().sum()


@register
@dataclass(frozen=True)
class Cautious(Mixing):
    """Overestimated joint actions count a share."""

    share: float = 0.5

    @property
    def compares_actions(self):
        return True

    def build(self, context: MixerContext):
        return Even(self, context)


def make():
    learner = marl.DQN(credit=Cautious(0.25), batch=8, learning_starts=8, network=marl.MLP((8,)))
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


@pytest.mark.parametrize("name", LEARNERS)
def test_a_mixer_of_ones_own(name, tmp_path):
    came = trains_saves_loads_resumes(tmp_path, MODULE.replace("LEARNER", LEARNERS[name]))
    (learner,) = came.system.learners
    mixer = learner.mixer
    assert type(mixer.online) is came.module.SoftWeights
    assert not torch.equal(mixer.online.weight.weight, mixer.target.weight.weight)
    assert mixer.online.weight.weight.shape == (3, 9)
    assert learner.memory.by_team
    assert not mixer.online.training


def test_parameters_of_plain_modules_follow_from_the_seed(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, MODULE.replace("LEARNER", LEARNERS["dqn"]), steps=16)
    made = came.module.make()

    def first(seed):
        with marl.MultiAgentSystem(**(made | {"seed": seed})) as system:
            return system.learners[0].mixer.online.weight.weight.detach().clone()

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_a_team_value_with_a_loss_of_its_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, LOSS)
    (learner,) = came.system.learners
    weight = learner.mixer.inner.online.weight
    assert set(learner.modules()) == {"net", "target", "even"}
    assert not torch.equal(weight, torch.ones(3))  # it learns
    cost, total = torch.ones(1, 2), torch.tensor([[0.0, 2.0]])
    loss = learner.mixer.loss(cost, None, total, torch.ones(1, 2)) - (weight - 1).square().sum()
    assert torch.allclose(loss, torch.tensor([[1.0, 0.25]]))
    with pytest.raises(marl.ConfigError, match="Cautious compares an agent's actions"):
        marl.MultiAgentSystem(marl.DDPG(credit=came.module.Cautious()), Team)
    with pytest.raises(marl.ConfigError, match=r"Cautious\(\) mixes values of actions; use DQN or DDPG"):
        marl.MultiAgentSystem(marl.PPO(credit=came.module.Cautious()), Team)
