"""Level-based foraging: food is lifted by those beside it whose levels add up to its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, integers, kernel
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

SIZE = 0  # column of the task
NONE, NORTH, SOUTH, WEST, EAST, LOAD = 0, 1, 2, 3, 4, 5
ATTEMPTS = 1000  # draws of a cell before the original gives up


class State(NamedTuple):
    """Where everybody is and how strong, the food on the grid, and what a step needs beside them."""

    place: Array  # (E, N, 2) int64: row, column
    level: Array  # (E, N) int64
    food: Array  # (E, S, S) int64: levels, 0 where there is none
    spawned: Array  # (E,) int64: all levels at the start
    wish: Array  # (E, N, 2) int64: cells that agents want to be in
    loading: Array  # (E, N) bool
    pieces: int
    sight: int
    max_level: int
    force_coop: bool
    penalty: float


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Agents anywhere, food not at the edge and with room around it."""
    size, num_agents = int(task[e, SIZE]), s.level.shape[1]
    for row in range(s.food.shape[1]):
        for column in range(s.food.shape[2]):
            s.food[e, row, column] = 0
    for n in range(num_agents):
        s.level[e, n] = 1 + integers(rng, e, s.max_level)
        for _ in range(ATTEMPTS):
            s.place[e, n, 0], s.place[e, n, 1] = integers(rng, e, size), integers(rng, e, size)
            if not _somebody(s, e, s.place[e, n, 0], s.place[e, n, 1], n):
                break
    most = _three_lowest(s, e)
    found, s.spawned[e] = 0, 0
    for _ in range(ATTEMPTS):
        row, column = 1 + integers(rng, e, size - 2), 1 + integers(rng, e, size - 2)
        if found < s.pieces and _room(s, e, row, column, size) and not _somebody(s, e, row, column, num_agents):
            s.food[e, row, column] = most if s.force_coop else 1 + integers(rng, e, most)
            s.spawned[e] += s.food[e, row, column]
            found += 1


@kernel
def _somebody(s: State, e: int, row: int, column: int, before: int) -> bool:
    """Whether one of the first ``before`` agents is there."""
    there = False
    for n in range(before):
        there |= s.place[e, n, 0] == row and s.place[e, n, 1] == column
    return there


@kernel
def _three_lowest(s: State, e: int) -> int:
    """The levels of the three weakest agents together: the most that food can be."""
    total, counted = 0, 0
    for level in range(1, s.max_level + 1):
        for n in range(s.level.shape[1]):
            if s.level[e, n] == level and counted < 3:
                total += level
                counted += 1
    return total


@kernel
def _room(s: State, e: int, row: int, column: int, size: int) -> bool:
    """Whether there is no food in the eight cells around, nor two cells away in a straight line."""
    free = True
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            near = max(abs(dx), abs(dy)) < 2 or dx == 0 or dy == 0
            if near and 0 <= row + dy < size and 0 <= column + dx < size:
                free &= s.food[e, row + dy, column + dx] == 0
    return free


@kernel
def _beside(s: State, e: int, row: int, column: int, size: int) -> int:
    """Which side the food is on as a move, 0 without: there is room for one piece beside a cell, never for two."""
    side = 0
    if row > 0 and s.food[e, row - 1, column] > 0:
        side = NORTH
    elif row < size - 1 and s.food[e, row + 1, column] > 0:
        side = SOUTH
    elif column > 0 and s.food[e, row, column - 1] > 0:
        side = WEST
    elif column < size - 1 and s.food[e, row, column + 1] > 0:
        side = EAST
    return side


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Move whoever wants a cell that nobody else wants, then lift what is loaded by enough."""
    size, num_agents = int(task[e, SIZE]), s.level.shape[1]
    for n in range(num_agents):
        row, column, move = s.place[e, n, 0], s.place[e, n, 1], action[e, n]
        reward[e, n] = 0.0
        s.loading[e, n] = move == LOAD and _beside(s, e, row, column, size) != 0
        to_row = row + (1 if move == SOUTH else -1 if move == NORTH else 0)
        to_column = column + (1 if move == EAST else -1 if move == WEST else 0)
        within = 0 <= to_row < size and 0 <= to_column < size
        free = within and s.food[e, to_row, to_column] == 0
        s.wish[e, n, 0] = to_row if free else row
        s.wish[e, n, 1] = to_column if free else column
    for n in range(num_agents):
        rivals = 0
        for other in range(num_agents):
            same = s.wish[e, other, 0] == s.wish[e, n, 0] and s.wish[e, other, 1] == s.wish[e, n, 1]
            rivals += 1 if same else 0
        if rivals == 1:
            s.place[e, n, 0], s.place[e, n, 1] = s.wish[e, n, 0], s.wish[e, n, 1]
    for n in range(num_agents):
        if s.loading[e, n]:
            side = _beside(s, e, s.place[e, n, 0], s.place[e, n, 1], size)
            row = s.place[e, n, 0] + (1 if side == SOUTH else -1 if side == NORTH else 0)
            column = s.place[e, n, 1] + (1 if side == EAST else -1 if side == WEST else 0)
            together = 0
            for m in range(n, num_agents):
                away = abs(s.place[e, m, 0] - row) + abs(s.place[e, m, 1] - column)
                together += s.level[e, m] if s.loading[e, m] and away == 1 else 0
            lifted = together >= s.food[e, row, column]
            for m in range(n, num_agents):
                away = abs(s.place[e, m, 0] - row) + abs(s.place[e, m, 1] - column)
                if s.loading[e, m] and away == 1:
                    s.loading[e, m] = False
                    part = s.level[e, m] * s.food[e, row, column] / float(together * s.spawned[e])
                    reward[e, m] = part if lifted else -s.penalty
            if lifted:
                s.food[e, row, column] = 0
    return TERMINATED if _left(s, e) == 0 else RUNNING


@kernel
def _left(s: State, e: int) -> int:
    """All levels on the grid."""
    total = 0
    for row in range(s.food.shape[1]):
        for column in range(s.food.shape[2]):
            total += s.food[e, row, column]
    return total


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Row, column and level of the food in sight, row by row, then of oneself and the others in sight."""
    size, num_agents = int(task[e, SIZE]), s.level.shape[1]
    for i in range(num_agents):
        for k in range(s.pieces + num_agents):
            obs[e, i, 3 * k] = -1.0
            obs[e, i, 3 * k + 1] = -1.0
            obs[e, i, 3 * k + 2] = 0.0
        y, x = s.place[e, i, 0], s.place[e, i, 1]
        top, left = max(y - s.sight, 0), max(x - s.sight, 0)  # places are counted from the corner of what is seen
        k = 0
        for row in range(top, min(y + s.sight + 1, size)):
            for column in range(left, min(x + s.sight + 1, size)):
                if s.food[e, row, column] > 0 and k < 3 * s.pieces:  # a file may say that there are more
                    obs[e, i, k] = row - top
                    obs[e, i, k + 1] = column - left
                    obs[e, i, k + 2] = s.food[e, row, column]
                    k += 3
        k = 3 * s.pieces
        for place in range(num_agents):
            n = i if place == 0 else place - 1 if place <= i else place  # oneself first
            row, column = s.place[e, n, 0] - top, s.place[e, n, 1] - left
            if min(row, column) >= 0 and max(row, column) <= 2 * s.sight:
                obs[e, i, k] = row
                obs[e, i, k + 1] = column
                obs[e, i, k + 2] = s.level[e, n]
                k += 3


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """Whether all food was lifted, and which part of it by level."""
    left = _left(s, e)
    out[e, 0] = 1.0 if left == 0 else 0.0
    out[e, 1] = 1.0 - left / s.spawned[e]


class Foraging(World, name="foraging_v0", render_fps=5):
    """``num_agents`` of levels up to ``max_level`` lift ``num_food`` pieces on a grid of ``size`` x ``size`` cells.

    Actions: none, north, south, west, east, load. Who loads beside food lifts it if the levels of all who load there
    reach its own, which is at most those of the three weakest; ``force_coop`` makes it just that. Lifting pays each by
    level, all food 1 in sum; failing costs ``penalty``. Nobody moves into a cell that two want to be in. Food keeps
    clear of food, and what finds no room is left out. Observation: row, column and level (-1, -1, 0 if there is none)
    of each piece of food, of oneself, and of the others, as far as ``sight`` cells (None: all). Equal to lbforaging's
    ``Foraging-8x8-2p-2f-coop-v3`` and its kin.
    """

    kernels = Kernels(reset, step, observe, info=info)
    info_names = ("success", "lifted")

    def __init__(
        self,
        num_agents: int = 2,
        num_food: int = 2,
        size: int = 8,
        force_coop: bool = True,
        sight: int | None = None,
        max_level: int = 2,
        penalty: float = 0.0,
        max_cycles: int = 50,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        smallest = next(side for side in range(3, num_agents + 5) if (side - 2) ** 2 > num_agents)
        if num_agents < 1 or num_food < 1 or max_level < 1 or size < smallest or (sight is not None and sight < 1):
            raise ConfigError(
                "foraging: expected at least one agent and one piece of food, a size with room beside the agents (here "
                f">= {smallest}), max_level >= 1 and sight None or >= 1; got "
                f"{num_agents=}, {num_food=}, {size=}, {max_level=}, {sight=}"
            )
        self.num_food, self.size, self.force_coop, self.max_level = num_food, size, force_coop, max_level
        self.sight, self.penalty = size if sight is None else sight, penalty
        names = [f"agent_{n}" for n in range(num_agents)]
        heaviest = max_level * min(num_agents, 3)
        high = [size - 1, size - 1, heaviest] * num_food + [size - 1, size - 1, max_level] * num_agents
        low = [-1, -1, 0] * (num_food + num_agents)
        space = Box(np.array(low, dtype=np.float32), np.array(high, dtype=np.float32), dtype=np.float32)
        super().__init__(
            observation_spaces=dict.fromkeys(names, space),
            action_spaces={name: Discrete(6) for name in names},
            max_cycles=max_cycles,
            tasks={"size": Parameter(smallest, size, size, integer=True)},
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        agents = len(self.possible_agents)
        return State(
            np.zeros((num_envs, agents, 2), dtype=np.int64),
            np.zeros((num_envs, agents), dtype=np.int64),
            np.zeros((num_envs, self.size, self.size), dtype=np.int64),
            np.zeros(num_envs, dtype=np.int64),
            np.zeros((num_envs, agents, 2), dtype=np.int64),
            np.zeros((num_envs, agents), dtype=bool),
            self.num_food,
            self.sight,
            self.max_level,
            self.force_coop,
            float(self.penalty),
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Cells, and levels of agents and food."""
        edge, heaviest = self.size - 1, self.max_level * min(len(self.possible_agents), 3)
        return {
            "place": (0, edge),
            "level": (1, self.max_level),
            "food": (0, heaviest),
            "spawned": (0, heaviest * self.num_food),
            "wish": (0, edge),
        }

    def action_names(self, agent: str) -> tuple[str, ...]:
        """In their order; up is north."""
        return "stay", "up", "down", "left", "right", "load"

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Food green, agents red, the larger the higher their level."""
        canvas.view(self.size / 2, ((self.size - 1) / 2, (self.size - 1) / 2))
        for line in np.arange(self.size + 1) - 0.5:
            canvas.line([(line, -0.5), (line, self.size - 0.5)], (220, 220, 220), 1)
            canvas.line([(-0.5, line), (self.size - 0.5, line)], (220, 220, 220), 1)
        heaviest = self.max_level * min(len(self.possible_agents), 3)
        for row, column in zip(*np.nonzero(s.food[e]), strict=True):
            canvas.circle((column, self.size - 1 - row), 0.2 + 0.2 * s.food[e, row, column] / heaviest, (90, 190, 90))
        for name, (row, column), level in zip(self.possible_agents, s.place[e], s.level[e], strict=True):
            place, radius = (column, self.size - 1 - row), 0.2 + 0.2 * level / self.max_level
            canvas.circle(place, radius, (217, 90, 90))
            canvas.name(name, place, radius)
