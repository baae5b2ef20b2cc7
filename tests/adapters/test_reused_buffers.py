"""Environments that change the arrays and dictionaries they have handed out: what is stored stays as it was."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

import marl
from tests.support.tiny import Team


class Fresh(Team):
    def __init__(self):
        super().__init__(length=5, die=(None, 3, None))


class Reused(Fresh):
    def __init__(self):
        super().__init__()
        self.rows = {agent: np.zeros(3, np.float32) for agent in self.possible_agents}
        self.tables, self.list, self.whole = [{} for _ in range(5)], [], np.zeros(9, np.float32)

    def again(self, *tables):
        for agent, row in tables[0].items():
            self.rows[agent][:] = row
        for table, new in zip(
            self.tables, ({agent: self.rows[agent] for agent in tables[0]}, *tables[1:]), strict=False
        ):
            table.clear()
            table.update(new)
        self.list[:] = self.agents
        self.agents = self.list
        return tuple(self.tables[: len(tables)])

    def reset(self, seed=None, options=None):
        return self.again(*super().reset(seed, options))

    def step(self, actions):
        return self.again(*super().step(actions))

    def state(self):
        self.whole[:] = super().state()
        return self.whole


class FreshWalk(gymnasium.Env):
    """A walk with masked choices, in episodes of four steps that are cut off."""

    observation_space = Dict({"observation": Box(-9, 9, (2,), np.float32), "action_mask": Box(0, 1, (3,), np.int8)})
    action_space = Discrete(3)

    def look(self):
        place = np.array([self.place, self.time], np.float32)
        return {"observation": place, "action_mask": np.array([1, self.time % 2, self.place < 3], np.int8)}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = float(self.np_random.uniform()), 0
        return self.look(), {}

    def step(self, action):
        self.place, self.time = self.place + int(action) - 1, self.time + 1
        return self.look(), self.place, False, self.time == 4, {}


class ReusedWalk(FreshWalk):
    def look(self):
        if not hasattr(self, "seen"):
            self.seen = super().look()
        for name, array in super().look().items():
            self.seen[name][:] = array
        return self.seen


def everything(env, learner, workers):
    """All that training leads to, as bytes."""
    with marl.MultiAgentSystem(learner, env, num_envs=3, workers=workers, seed=2) as system:
        system.train(steps=96)
        state = system.state_dict()
    state["history"].pop("steps_per_second")
    return dict(leaves(state))


def leaves(tree, name=""):
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, f"{name}/{key}")
    else:
        yield name, tree.numpy().tobytes() if isinstance(tree, torch.Tensor) else np.asarray(tree).tobytes()


@pytest.mark.parametrize(
    ("fresh", "reused", "learner", "workers"),
    [
        (Fresh, Reused, marl.mappo(rollout=8, minibatches=1), 0),
        (Fresh, Reused, marl.qmix(learning_starts=16, batch=8, buffer=400), 0),
        (FreshWalk, ReusedWalk, marl.ippo(rollout=8, minibatches=1), 2),
        (FreshWalk, ReusedWalk, marl.iql(learning_starts=16, batch=8, buffer=400, n_step=3), 0),
    ],
    ids=["mappo", "qmix", "ippo masked", "dqn masked"],
)
def test_arrays_that_are_used_again_change_nothing_that_was_seen(fresh, reused, learner, workers):
    one, other = everything(fresh, learner, workers), everything(reused, learner, workers)
    names = {name for name in one if not name.endswith("/env")}  # the environment's own name
    assert {name for name in names if one[name] != other[name]} == set()
