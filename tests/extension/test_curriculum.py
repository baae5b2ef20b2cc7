"""A curriculum of one's own: a task a step wider after each success."""

from __future__ import annotations

from tests.extension.support import trains_saves_loads_resumes

SOURCE = '''
from dataclasses import dataclass

import numpy as np

import marl
from marl.extend import Curriculum, Scheduler, register
from tests.support.tiny import Team

SIZE = {"height": 3, "distance": 1}


@register
@dataclass(frozen=True)
class Wider(Curriculum):
    """One column more for each episode that returned more than ``least``."""

    most: int = 6
    least: float = -0.5

    @property
    def target(self):
        return {"width": self.most}

    @property
    def success(self):
        return None

    @property
    def parameters(self):
        return frozenset(("width",))

    def check(self, steps):
        pass

    def build(self, space, seed) -> Scheduler:
        return Widening(self, np.random.default_rng(seed))


class Widening:
    def __init__(self, settings, random):
        self.settings, self.random, self.width, self.episodes = settings, random, 3, 0

    def draw(self, count, clock):
        widths = self.random.integers(3, self.width + 1, size=count).astype(float)
        return widths.astype(np.int64), {"width": widths}

    def learn(self, outcomes, clock):
        for outcome in outcomes:
            self.episodes += 1
            if outcome.values["return"] > self.settings.least:
                self.width = min(self.width + 1, self.settings.most)
        return False

    def metrics(self):
        return {"width": self.width}

    def state_dict(self):
        return {"width": self.width, "episodes": self.episodes, "random": self.random.bit_generator.state}

    def load_state_dict(self, state):
        self.width, self.episodes = state["width"], state["episodes"]
        self.random.bit_generator.state = state["random"]


def make():
    return {
        "agents": marl.ippo(rollout=8, minibatches=1, network=marl.MLP((8,))),
        "env": "marl/gridworld-v0",
        "env_kwargs": {"width": 6, "height": 3, "distance": 1, "max_cycles": 6},
        "num_envs": 2,
        "curriculum": Wider(),
    }
'''


def test_a_curriculum_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE, again=(), steps=128)
    scheduler = came.system.training.part("curriculum").curriculum_state.schedulers[None]
    assert type(scheduler) is came.module.Widening
    assert scheduler.episodes > 10
    assert scheduler.width == 6
    assert 3 <= min(came.history["curriculum/task/width"]) < 6
    assert came.system.target == {"width": 6}
