"""A rule of one's own for deviating from the greedy action, with a memory."""

from __future__ import annotations

from tests.extension.support import trains_saves_loads_resumes

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

import marl
from marl.extend import Exploration, Explorer, register
from tests.support.tiny import Team


@register
@dataclass(frozen=True)
class Sticky(Exploration):
    """With probability ``p`` what the agent did last, else the greedy choice."""

    p: float = 0.5
    kinds: ClassVar[frozenset[str]] = frozenset(("discrete",))

    def build(self, action, num_envs, device):
        return Stuck(self.p, torch.zeros(num_envs, len(action.widths), dtype=torch.int64, device=device))


class Stuck:
    def __init__(self, p, last):
        self.p, self.last = p, last

    def __call__(self, scores, inputs, clock, generator):
        greedy = scores.argmax(-1)  # (E, N)
        stuck = torch.rand(greedy.shape, generator=generator, device=greedy.device) < self.p
        stuck &= ~inputs.started.unsqueeze(1)
        self.last = torch.where(stuck, self.last, greedy)
        return self.last

    def state_dict(self):
        return {"last": self.last}

    def load_state_dict(self, state):
        self.last = state["last"].clone()


def make():
    learner = marl.iql(
        exploration=Sticky(0.6), learning_starts=16, batch=8, buffer=400, network=marl.MLP((8,))
    )
    return {"agents": learner, "env": Team, "num_envs": 2}
'''


def test_an_exploration_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    (learner,) = came.system.learners
    assert type(learner.explorer) is came.module.Stuck
    assert learner.explorer.last.shape == (2, 3)
    assert came.system.agents.exploration == came.module.Sticky(0.6)
