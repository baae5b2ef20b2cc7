"""The two-step game in which value decomposition without a mixer fails (Rashid et al. 2018, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

START, SAFE, RISKY = 0, 1, 2


class State(NamedTuple):
    """Which of the three states each copy is in."""

    place: Array  # (E,) int64


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """At the start."""
    s.place[e] = START


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """First the first agent chooses the game; then 7 for everything in the safe one, or 0, 1, 1, 8 in the risky one."""
    if s.place[e] == START:
        s.place[e] = SAFE if action[e, 0] == 0 else RISKY
        gain, code = 0.0, RUNNING
    else:
        both = action[e, 0] + action[e, 1]
        gain, code = 7.0 if s.place[e] == SAFE else 8.0 if both == 2 else 1.0 * both, TERMINATED
    reward[e, 0] = gain
    reward[e, 1] = gain
    return code


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Both see the state, one-hot."""
    for i in range(2):
        for place in range(3):
            obs[e, i, place] = 1.0 if place == s.place[e] else 0.0


@kernel
def state(s: State, e: int, task: Array, out: Array) -> None:
    """The state, one-hot."""
    for place in range(3):
        out[e, place] = 1.0 if place == s.place[e] else 0.0


class TwoStep(World, name="two_step_v0"):
    """Two agents, two actions, two steps, one shared reward; the best return is 8, the tempting safe one 7."""

    kernels = Kernels(reset, step, observe, state=state)

    def __init__(self, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        names = ("agent_0", "agent_1")
        super().__init__(
            observation_spaces={name: Box(0, 1, (3,), np.float32) for name in names},
            action_spaces={name: Discrete(2) for name in names},
            max_cycles=2,
            state_space=Box(0, 1, (3,), np.float32),
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(np.zeros(num_envs, dtype=np.int64))

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """The three states."""
        return {"place": (START, RISKY)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """The state's name."""
        canvas.text(("start", "safe game", "risky game")[int(s.place[e])])
