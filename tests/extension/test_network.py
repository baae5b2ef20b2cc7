"""A stacked network of one's own, recurrent, on names that are public."""

from __future__ import annotations

import torch

from tests.extension.support import trains_saves_loads_resumes

SOURCE = '''
from dataclasses import dataclass

import torch

import marl
from marl.extend import Body, Inputs, Network, StackedLinear, make_linear, register
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Average(Network):
    """A running mean of features: ``c <- (1 - a) c + a tanh(W x)``."""

    features: int = 16
    rate: float = 0.5

    @property
    def width(self):
        return self.features

    def build(self, owner, inputs, generators):
        return AverageBody(self, owner, inputs, generators)


class AverageBody(Body):
    def __init__(self, settings, owner, inputs: Inputs, generators):
        super().__init__()
        self.rate, self.width, self.carry_width = settings.rate, settings.features, settings.features
        (observed,) = inputs.shape
        self.layer = make_linear(owner, observed + inputs.extra, self.width, generators)
        self.out = StackedLinear(owner, self.width, self.width, generators)

    def forward(self, x, extra, carry, start, acting):
        x = x if extra is None else torch.cat((x, extra), dim=-1)
        fresh, carries = torch.tanh(self.layer(x)), []
        for t in range(x.shape[1]):
            carry = carry * (~start[:, t]).unsqueeze(-1)
            mixed = torch.lerp(carry, fresh[:, t], self.rate)
            carry = torch.where(acting[:, t].unsqueeze(-1), mixed, carry)
            carries.append(carry)
        carries = torch.stack(carries, dim=1)
        return torch.relu(self.out(carries)), carries


def make():
    learner = marl.ippo(rollout=8, minibatches=1, sharing="none", network=Average(8), critic_network=marl.MLP((8,)))
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


def test_a_network_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    (learner,) = came.system.learners
    body = learner.model.actor.body
    assert type(body) is came.module.AverageBody
    assert learner.carry_width == 8
    assert body.layer.weight.shape == (3, 3, 8)  # of each agent its own
    assert not torch.equal(body.layer.weight[0], body.layer.weight[1])
