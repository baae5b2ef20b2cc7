"""Pursuers with limited vision hunt evaders on a grid; it takes several of them to catch one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, Kernels, integers, kernel
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

SIZE, VIEW, CATCHERS = 0, 1, 2  # columns of the task
STAY, LEFT, RIGHT, DOWN, UP = 0, 1, 2, 3, 4


class State(NamedTuple):
    """Places of all bodies, pursuers first, then evaders; who was caught."""

    place: Array  # (E, P + V, 2) int64
    caught: Array  # (E, V) bool
    pursuers: int
    greatest_size: int
    greatest_view: int
    step_cost: float


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Everybody anywhere."""
    size = int(task[e, SIZE])
    for m in range(s.place.shape[1]):
        s.place[e, m, 0], s.place[e, m, 1] = integers(rng, e, size), integers(rng, e, size)
    for v in range(s.caught.shape[1]):
        s.caught[e, v] = False


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Move all. An evader with enough pursuers in its own or the four next cells is caught: +1 for every pursuer."""
    size, num_agents, evaders = int(task[e, SIZE]), action.shape[1], s.caught.shape[1]
    for m in range(s.pursuers + evaders):
        if m >= s.pursuers and s.caught[e, m - s.pursuers]:
            continue
        side = action[e, m] if m < num_agents else integers(rng, e, 5)  # evaders that nobody plays walk at random
        x = s.place[e, m, 0] + (1 if side == RIGHT else -1 if side == LEFT else 0)
        y = s.place[e, m, 1] + (1 if side == UP else -1 if side == DOWN else 0)
        s.place[e, m, 0], s.place[e, m, 1] = min(max(x, 0), size - 1), min(max(y, 0), size - 1)
    catches = 0.0
    for v in range(evaders):
        evader = s.pursuers + v
        if evader < num_agents:
            reward[e, evader] = 0.0
        if s.caught[e, v]:
            continue
        near = 0
        for p in range(s.pursuers):
            away = abs(s.place[e, p, 0] - s.place[e, evader, 0]) + abs(s.place[e, p, 1] - s.place[e, evader, 1])
            near += 1 if away <= 1 else 0
        if near >= task[e, CATCHERS]:
            s.caught[e, v] = True
            catches += 1.0
        if evader < num_agents:
            reward[e, evader] = -1.0 if s.caught[e, v] else s.step_cost
    for p in range(s.pursuers):
        reward[e, p] = catches - s.step_cost
    return RUNNING


@kernel
def acting(s: State, e: int, task: Array, out: Array) -> None:
    """Pursuers live while anything is left to catch, evaders until they are caught."""
    left = False
    for v in range(s.caught.shape[1]):
        left |= not s.caught[e, v]
    for n in range(out.shape[1]):
        out[e, n] = left if n < s.pursuers else not s.caught[e, n - s.pursuers]


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """Part of the evaders that were caught."""
    total = 0.0
    for v in range(s.caught.shape[1]):
        total += 1.0 if s.caught[e, v] else 0.0
    out[e, 0] = total / s.caught.shape[1]


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Own place, then three windows: outside the grid, pursuers, evaders. Beyond the task's view all is empty."""
    size, sight, view = int(task[e, SIZE]), int(task[e, VIEW]), s.greatest_view
    side = 2 * view + 1
    window = side * side
    for i in range(obs.shape[1]):
        x, y = s.place[e, i, 0], s.place[e, i, 1]
        obs[e, i, 0] = x / s.greatest_size
        obs[e, i, 1] = y / s.greatest_size
        for row in range(side):
            for column in range(side):
                cx, cy = x + column - view, y + row - view
                within = abs(column - view) <= sight and abs(row - view) <= sight
                outside = cx < 0 or cy < 0 or cx >= size or cy >= size
                k = 2 + row * side + column
                obs[e, i, k] = 1.0 if within and outside else 0.0
                obs[e, i, k + window] = 0.0
                obs[e, i, k + 2 * window] = 0.0
        for m in range(s.place.shape[1]):
            dx, dy = s.place[e, m, 0] - x, s.place[e, m, 1] - y
            gone = m >= s.pursuers and s.caught[e, m - s.pursuers]
            if m != i and not gone and abs(dx) <= sight and abs(dy) <= sight:
                obs[e, i, 2 + (1 if m < s.pursuers else 2) * window + (dy + view) * side + dx + view] += 1.0


class Pursuit(World, name="pursuit_v0"):
    """``num_pursuers`` hunt ``num_evaders`` on a square grid of ``size`` cells a side and see ``view`` cells far.

    ``catchers`` pursuers must be next to an evader to catch it. Evaders walk at random, or are agents (``evader_0``
    ..) with
    ``play_evaders``: -1 when caught, ``step_cost`` gained for each step before. Ends when all are caught.
    """

    kernels = Kernels(reset, step, observe, acting=acting, info=info)
    info_names = ("caught",)

    def __init__(
        self,
        num_pursuers: int = 4,
        num_evaders: int = 2,
        size: int = 8,
        view: int = 2,
        catchers: int = 2,
        play_evaders: bool = False,
        step_cost: float = 0.01,
        max_cycles: int = 100,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        if num_pursuers < 1 or num_evaders < 1 or size < 2 or view < 0 or not 1 <= catchers <= num_pursuers:
            raise ConfigError(
                "pursuit: expected at least one pursuer and evader, size of at least 2, view >= 0 and "
                "1 to num_pursuers catchers; got "
                f"{num_pursuers=}, {num_evaders=}, {size=}, {view=}, {catchers=}"
            )
        self.num_pursuers, self.num_evaders, self.size, self.view, self.step_cost = (
            num_pursuers,
            num_evaders,
            size,
            view,
            step_cost,
        )
        names = [f"pursuer_{n}" for n in range(num_pursuers)]
        if play_evaders:
            names += [f"evader_{n}" for n in range(num_evaders)]
        space = Box(0.0, float(num_pursuers + num_evaders), (2 + 3 * (2 * view + 1) ** 2,), np.float32)
        super().__init__(
            observation_spaces=dict.fromkeys(names, space),
            action_spaces={name: Discrete(5) for name in names},
            max_cycles=max_cycles,
            tasks={
                "size": Parameter(2, size, size, integer=True),
                "view": Parameter(0, view, view, integer=True),
                "catchers": Parameter(1, num_pursuers, catchers, integer=True),
            },
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(
            np.zeros((num_envs, self.num_pursuers + self.num_evaders, 2), dtype=np.int64),
            np.zeros((num_envs, self.num_evaders), dtype=bool),
            self.num_pursuers,
            self.size,
            self.view,
            float(self.step_cost),
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Cells."""
        return {"place": (0, self.size - 1)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Pursuers red, evaders green."""
        canvas.view(self.size / 2, ((self.size - 1) / 2, (self.size - 1) / 2))
        for line in np.arange(self.size + 1) - 0.5:
            canvas.line([(line, -0.5), (line, self.size - 0.5)], (220, 220, 220), 1)
            canvas.line([(-0.5, line), (self.size - 0.5, line)], (220, 220, 220), 1)
        for m, place in enumerate(s.place[e]):
            if m < s.pursuers:
                canvas.circle(place, 0.4, (217, 90, 90))
                canvas.name(self.possible_agents[m], place, 0.4)
            elif not s.caught[e, m - s.pursuers]:
                canvas.circle(place, 0.3, (90, 190, 90))
