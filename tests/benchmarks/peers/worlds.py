"""Worlds of one agent that cost little to step: CartPole without its velocities, and a square that looks for a place.

Gymnasium and numpy only: contenders run under interpreters that have nothing of ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

CELLS = 7  # in a row of the square's board
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
LENGTH = 100  # steps of its episodes

# Convolutions on each: channels, kernels, strides (Mnih et al. 2015; a small one).
CONVOLUTIONS = {
    "square-84": ((32, 64, 64), (8, 4, 3), (4, 2, 1)),
    "square-7": ((16, 32), (3, 3), (1, 1)),
}


class Positions(gymnasium.ObservationWrapper[Any, Any, Any]):
    """CartPole as a camera sees it: where cart and pole are, not how fast they move."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        seen: Any = env.observation_space
        self.observation_space = gymnasium.spaces.Box(seen.low[[0, 2]], seen.high[[0, 2]], dtype=np.float32)

    def observation(self, observation: Any) -> Any:
        return observation[[0, 2]]


class Square(gymnasium.Env[Any, Any]):
    """A square moves over a board; 1 for the step that brings it to its place, which then is somewhere else.

    The image has one plane for each of the last positions, the newest first, and a last one for the place.
    """

    def __init__(self, size: int, planes: int, planes_last: bool) -> None:
        self.size, self.planes, self.planes_last = size, planes, planes_last
        shape = (size, size, planes) if planes_last else (planes, size, size)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.trail = [self._anywhere()] * (self.planes - 1)
        self.place = self._anywhere()
        return self._image(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        here = tuple(min(max(x + d, 0), CELLS - 1) for x, d in zip(self.trail[0], MOVES[action], strict=True))
        self.trail = [here, *self.trail[:-1]]
        there = here == self.place
        if there:
            self.place = self._anywhere()
        return self._image(), float(there), False, self.steps == LENGTH, {}

    def _anywhere(self) -> tuple[int, ...]:
        return tuple(self.np_random.integers(0, CELLS, 2).tolist())

    def _image(self) -> Any:
        image = np.zeros(self.observation_space.shape, np.uint8)
        planes = image.transpose(2, 0, 1) if self.planes_last else image
        side = self.size // CELLS
        for plane, (row, column) in zip(planes, (*self.trail, self.place), strict=True):
            plane[row * side : (row + 1) * side, column * side : (column + 1) * side] = 255
        return image


def cartpole() -> Any:
    """CartPole without velocities."""
    return Positions(gymnasium.make("CartPole-v1", disable_env_checker=True))


# 84 x 84 x 4 as stacked frames come, 7 x 7 x 3 as MiniGrid has it.
WORLDS: dict[str, Callable[[], Any]] = {
    "cartpole": cartpole,
    "square-84": functools.partial(Square, 84, 4, planes_last=False),
    "square-7": functools.partial(Square, 7, 3, planes_last=True),
}
