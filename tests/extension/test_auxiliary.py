"""An auxiliary loss of one's own: the encoded observation is to be read off the policy's features."""

from __future__ import annotations

import pytest

from tests.extension.support import trains_saves_loads_resumes

SOURCE = '''
from dataclasses import dataclass

from torch import nn

import marl
from marl.extend import Rows, StackedLinear, register
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Reconstruct:
    """Half the squared error of a linear layer that says the observation."""

    weight: float = 0.5

    def build(self, team, owner, width, generators):
        return Decoder(owner, width, team.obs.shape[0], generators)


class Decoder(nn.Module):
    def __init__(self, owner, width, out, generators):
        super().__init__()
        self.owner, self.out = owner, out
        self.layer = StackedLinear(owner, width, out, generators)

    def forward(self, features, seen, rows: Rows):
        said = self.owner.leave(self.layer(self.owner.enter(features)))  # (L, B, N, O)
        return 0.5 * (said - seen[..., : self.out]).square().sum(-1)  # (L, B, N)


def make():
    learner = LEARNER
    return {"agents": learner, "env": Team, "num_envs": 2}
'''
LEARNERS = {
    "ppo": "marl.ippo(rollout=8, minibatches=1, sharing='none', lr=1e-2, auxiliary=(Reconstruct(),))",
    "dqn": "marl.iql(batch=8, learning_starts=8, network=marl.MLP((8,)), lr=1e-2, auxiliary=(Reconstruct(),))",
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_an_auxiliary_loss_of_ones_own(learner, tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE.replace("LEARNER", LEARNERS[learner]), steps=192)
    told = came.history["auxiliary_loss"]
    assert told[-1] < told[0]
