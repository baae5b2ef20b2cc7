"""Catch a falling ball with a paddle: bsuite's Catch, the smallest game with a delayed reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, integers, kernel
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas


class State(NamedTuple):
    """Where the ball and the paddle are; the size of the board."""

    ball: Array  # (E, 2) row and column
    paddle: Array  # (E,) column, in the last row
    rows: int
    columns: int


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """The ball on top somewhere, the paddle in the middle."""
    s.ball[e, 0] = 0
    s.ball[e, 1] = integers(rng, e, s.columns)
    s.paddle[e] = s.columns // 2


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """The paddle moves by -1, 0 or 1, the ball falls a row; 1 for a catch in the last row, else -1."""
    s.paddle[e] = min(max(s.paddle[e] + action[e, 0] - 1, 0), s.columns - 1)
    s.ball[e, 0] += 1
    if s.ball[e, 0] < s.rows - 1:
        reward[e, 0] = 0.0
        return RUNNING
    reward[e, 0] = 1.0 if s.paddle[e] == s.ball[e, 1] else -1.0
    return TERMINATED


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """The board, row by row: ones where ball and paddle are."""
    for place in range(s.rows * s.columns):
        obs[e, 0, place] = 0.0
    obs[e, 0, s.ball[e, 0] * s.columns + s.ball[e, 1]] = 1.0
    obs[e, 0, (s.rows - 1) * s.columns + s.paddle[e]] = 1.0


class Catch(World, name="catch_v0", render_fps=5):
    """``rows x columns`` board; three actions; one reward of 1 or -1 when the ball is down."""

    kernels = Kernels(reset, step, observe)

    def __init__(self, rows: int = 10, columns: int = 5, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        if rows < 2 or columns < 1:
            raise ConfigError(f"Catch: expected at least 2 rows and 1 column, got {rows} and {columns}")
        self.rows, self.columns = rows, columns
        super().__init__(
            observation_spaces={"agent_0": Box(0, 1, (rows * columns,), np.float32)},
            action_spaces={"agent_0": Discrete(3)},
            max_cycles=rows,
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        ball, paddle = np.zeros((num_envs, 2), dtype=np.int64), np.zeros(num_envs, dtype=np.int64)
        return State(ball, paddle, self.rows, self.columns)

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """A ball in the last row has ended its episode."""
        rows, columns = self.rows, self.columns
        return {"ball": (0, [rows - 2, columns - 1]), "paddle": (0, columns - 1)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Ball and paddle."""
        canvas.view(self.rows / 2, ((self.columns - 1) / 2, -(self.rows - 1) / 2))
        canvas.circle((float(s.ball[e, 1]), -float(s.ball[e, 0])), 0.4, (217, 90, 90))
        canvas.box((float(s.paddle[e]), -float(self.rows - 1)), 0.9, 0.3, (90, 90, 217))
