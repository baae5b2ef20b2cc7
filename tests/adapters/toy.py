"""A batch in worker processes in which some actions are disasters."""

from __future__ import annotations

import os
import sys
import time

import gymnasium
import numpy as np

from marl.adapters.workers import WorkerBatch
from marl.types import (
    ActionSpec,
    EnvContractError,
    Episode,
    ObsSpec,
    Spec,
    TeamSpec,
    zeros_step,
)

RAISE, EXIT, HANG, BREACH, SYS_EXIT, ABORT, PRINT, FORK = range(10, 18)


class Toy:
    """A batch of two-agent copies whose observations are drawn from per-copy streams; some actions are disasters."""

    def __init__(self, length: int, count: int, first_copy: int) -> None:
        space = gymnasium.spaces.Box(-1.0, 1.0, (3,), dtype=np.float32)
        action = ActionSpec("discrete", (20,), (20, 20))
        agents = TeamSpec(
            "team", ("a", "b"), ObsSpec((3,), "float32", (3, 3)), action, (space,) * 2, (space,) * 2, True
        )
        self.spec = Spec("toy", (agents,), state_shape=(2,))
        self.num_envs = count
        self.length = length
        self.first = first_copy
        self.time = np.zeros(count, dtype=np.int64)
        self.total = np.zeros(count)
        self._step = zeros_step(self.spec, count)
        self._next = zeros_step(self.spec, count)

    def _observe(self, copies) -> None:
        for e in copies:
            self._step.teams[0].obs[e] = self.rngs[e].uniform(-1, 1, (2, 3))
            self._step.state[e] = (self.time[e], self.first + e)
            self._step.teams[0].action_mask[e, :, 0] = self.time[e] % 2 == 0

    def reset(self, seed, options=None):
        self.rngs = [np.random.default_rng((seed, self.first + e)) for e in range(self.num_envs)]
        self.time[:], self.total[:] = (options or {}).get("time", 0), 0
        self._observe(range(self.num_envs))
        step = self._step
        team = step.teams[0]
        team.reward[:], team.acting[:], team.terminated[:], team.truncated[:] = 0, True, False, False
        step.started[:], step.discarded[:] = True, False
        team.next_obs, step.next_state, step.finished = team.obs, step.state, ()
        return step

    def step(self, actions):
        (action,) = actions
        match int(action.max()):
            case 10:
                raise ValueError("the toy broke")
            case 11:
                os._exit(7)
            case 12:
                print("the toy hangs", file=sys.stderr, flush=True)
                time.sleep(600)
            case 13:
                raise EnvContractError("agent 'a': observation is NaN")
            case 14:
                sys.exit(1)
            case 15:
                os.abort()
            case 16:
                print("the toy prints")
            case 17:
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(9)
        step = self._step
        team = step.teams[0]
        self.time += 1
        team.reward[:] = action
        self.total += action.sum(1)
        self._observe(range(self.num_envs))
        ended = np.flatnonzero(self.time >= self.length)
        team.next_obs, step.next_state = team.obs, step.state
        team.truncated[:] = (self.time >= self.length)[:, None]
        step.started[:] = self.time >= self.length
        step.finished = tuple(
            Episode(self.first + int(e), {"a": float(self.total[e]), "b": 0.0}, int(self.time[e])) for e in ended
        )
        if len(ended):
            team.next_obs, step.next_state = self._next.teams[0].obs, self._next.state
            team.next_obs[:], step.next_state[:] = team.obs, step.state
            self.time[ended] = 0
            self.total[ended] = 0
            self._observe(ended)
        return step

    def state_dict(self):
        return {"time": self.time.copy(), "total": self.total.copy(), "rng": [r.bit_generator.state for r in self.rngs]}

    def load_state_dict(self, state):
        step = self.reset(0)
        self.time[:], self.total[:] = state["time"], state["total"]
        for rng, saved in zip(self.rngs, state["rng"], strict=True):
            rng.bit_generator.state = saved
        return step

    def close(self) -> None:
        pass


def build_toy(factory, count, patterns=None, *, first_copy=0, max_steps=None, on_bad_obs="error", env_kwargs=None):
    return Toy(factory(), count, first_copy)


def toy(num_envs=4, workers=2, length=5, **kwargs) -> WorkerBatch:
    return WorkerBatch(lambda: length, num_envs, workers=workers, build=build_toy, **kwargs)


def actions(num_envs=4, value=0, copy=None) -> list[np.ndarray]:
    action = np.zeros((num_envs, 2), dtype=np.int64)
    action[slice(None) if copy is None else copy] = value
    return [action]
