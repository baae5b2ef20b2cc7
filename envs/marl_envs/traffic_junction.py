"""Cars cross junctions that they cannot overlook, in the settings of IC3Net (Sukhbaatar 2016, Singh et al. 2019)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, Kernels, integers, kernel, uniform
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

ADD_RATE, VISION = 0, 1  # columns of the task
PRESENT, BRAKED, ROUTE = 0, 1, 2  # indices of the observation; then the routes, the cells, the window
GAS, BRAKE = 0, 1
ABSENT = -1
SOUTH, WEST, NORTH, EAST = 0, 1, 2, 3  # each is the right turn of the one before
MOVES = ((1, 0), (0, -1), (-1, 0), (0, 1))  # row, column
STRAIGHT, RIGHT, LEFT = 0, 1, -1

Cell = tuple[int, int]


@dataclass(frozen=True)
class Level:
    """One of IC3Net's settings.

    lanes: where the lanes to each direction lie: columns of those to the south and north, rows of those to the west and
        east. turns: at how many junctions a car may turn. add_rate: the range of a curriculum; it is measured at the
        upper end.
    """

    size: int
    num_cars: int
    max_cycles: int
    lanes: tuple[tuple[int, ...], ...]
    turns: int
    add_rate: tuple[float, float]


LEVELS = {
    "easy": Level(7, 5, 20, ((3,), (), (), (3,)), 0, (0.1, 0.3)),
    "medium": Level(14, 10, 40, ((6,), (6,), (7,), (7,)), 1, (0.05, 0.2)),
    "hard": Level(18, 20, 80, ((4, 12), (4, 12), (5, 13), (5, 13)), 2, (0.02, 0.05)),
}


def drive(level: Level, start: Cell, direction: int, turns: tuple[int, ...]) -> tuple[Cell, ...]:
    """The cells of a car that enters there and takes these turns at the junctions it meets; then straight on."""
    (row, column), cells = start, []
    junctions, turned = 0, False
    while 0 <= row < level.size and 0 <= column < level.size:
        cells.append((row, column))
        crossing = _crossing(level, row, column)
        turn = turns[junctions] if junctions < len(turns) else STRAIGHT
        new = (direction + turn) % 4
        if crossing and turn and not turned and (column if new in (SOUTH, NORTH) else row) in level.lanes[new]:
            direction, turned = new, True
        row, column = row + MOVES[direction][0], column + MOVES[direction][1]
        if crossing and not _crossing(level, row, column):
            junctions, turned = junctions + 1, False
    return tuple(cells)


def _crossing(level: Level, row: int, column: int) -> bool:
    lanes = level.lanes
    return row in lanes[WEST] + lanes[EAST] and column in lanes[SOUTH] + lanes[NORTH]


def entries(level: Level) -> list[list[tuple[Cell, ...]]]:
    """For each lane's entry all routes that begin there, the same number of them each."""
    found, far = [], level.size - 1
    for direction, lanes in enumerate(level.lanes):
        for lane in lanes:
            start = ((0, lane), (lane, far), (far, lane), (lane, 0))[direction]
            choices = product((STRAIGHT, RIGHT, LEFT), repeat=level.turns)
            found.append(list(dict.fromkeys(drive(level, start, direction, turns) for turns in choices)))
    return found


class State(NamedTuple):
    """The route of each car and how far it came; the routes' cells, and numbers of all cells of the roads."""

    route: Array  # (E, N) int64, ABSENT: the slot waits for its next car
    progress: Array  # (E, N) int64
    waited: Array  # (E, N) int64: steps since it entered
    braked: Array  # (E, N) bool
    collisions: Array  # (E,) int64: cars that stood where another did, all steps together
    passed: Array  # (E,) int64: cars that left at the end of their route
    cells: Array  # (R, L, 2) int64
    length: Array  # (R,) int64
    number: Array  # (size, size) int64
    routes_each: int
    num_cells: int
    greatest_vision: int


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """The roads are empty."""
    for n in range(s.route.shape[1]):
        s.route[e, n] = ABSENT
        s.progress[e, n] = 0
        s.waited[e, n] = 0
        s.braked[e, n] = False
    s.collisions[e] = 0
    s.passed[e] = 0


@kernel
def enter(s: State, e: int, rng: Array, entry: int, free: int) -> None:
    """A car takes one of the ``free`` slots and one of the routes that begin at this entry."""
    chosen = integers(rng, e, free)
    for n in range(s.route.shape[1]):
        if s.route[e, n] == ABSENT:
            if chosen == 0:
                s.route[e, n] = entry * s.routes_each + integers(rng, e, s.routes_each)
                s.progress[e, n] = 0
                s.waited[e, n] = 0
                s.braked[e, n] = False
                break
            chosen -= 1


@kernel
def together(s: State, e: int, n: int, m: int) -> bool:
    """Whether two cars are in one cell."""
    a, b = s.route[e, n], s.route[e, m]
    if a == ABSENT or b == ABSENT:
        return False
    i, j = s.progress[e, n], s.progress[e, m]
    return s.cells[a, i, 0] == s.cells[b, j, 0] and s.cells[a, i, 1] == s.cells[b, j, 1]


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """All drive, then new cars enter; -.01 for each step that a car has been there, -10 in one cell with another."""
    num_agents = s.route.shape[1]
    free = 0
    for n in range(num_agents):
        if s.route[e, n] != ABSENT:
            s.waited[e, n] += 1
            s.braked[e, n] = action[e, n] == BRAKE
            if not s.braked[e, n]:
                s.progress[e, n] += 1
            if s.progress[e, n] >= s.length[s.route[e, n]]:
                s.route[e, n] = ABSENT
                s.passed[e] += 1
        free += 1 if s.route[e, n] == ABSENT else 0
    for entry in range(s.length.shape[0] // s.routes_each):
        if free > 0 and uniform(rng, e, 0.0, 1.0) < task[e, ADD_RATE]:
            enter(s, e, rng, entry, free)
            free -= 1
    for n in range(num_agents):
        reward[e, n] = 0.0
        if s.route[e, n] != ABSENT:
            crashed = False
            for m in range(num_agents):
                crashed |= m != n and together(s, e, n, m)
            s.collisions[e] += 1 if crashed else 0
            reward[e, n] = -0.01 * s.waited[e, n] - (10.0 if crashed else 0.0)
    return RUNNING


@kernel
def action_mask(s: State, e: int, task: Array, out: Array) -> None:
    """An empty slot can only brake."""
    for n in range(out.shape[1]):
        out[e, n, GAS] = s.route[e, n] != ABSENT
        out[e, n, BRAKE] = True


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Being there, having braked, own route and own cell one-hot, other cars in the window around. Absent: zeros."""
    sight, view = int(task[e, VISION]), s.greatest_vision
    side = 2 * view + 1
    for i in range(obs.shape[1]):
        for k in range(obs.shape[2]):
            obs[e, i, k] = 0.0
        route = s.route[e, i]
        if route == ABSENT:
            continue
        row, column = s.cells[route, s.progress[e, i], 0], s.cells[route, s.progress[e, i], 1]
        obs[e, i, PRESENT] = 1.0
        obs[e, i, BRAKED] = 1.0 if s.braked[e, i] else 0.0
        obs[e, i, ROUTE + route] = 1.0
        k = ROUTE + s.length.shape[0]
        obs[e, i, k + s.number[row, column]] = 1.0
        k += s.num_cells
        for m in range(obs.shape[1]):
            other = s.route[e, m]
            if m == i or other == ABSENT:
                continue
            down, right = s.cells[other, s.progress[e, m], 0] - row, s.cells[other, s.progress[e, m], 1] - column
            if abs(down) <= sight and abs(right) <= sight:
                obs[e, i, k + (down + view) * side + right + view] += 1.0


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """No collision in the whole episode; how many there were; how many cars left at the end of their route."""
    out[e, 0] = 1.0 if s.collisions[e] == 0 else 0.0
    out[e, 1] = s.collisions[e]
    out[e, 2] = s.passed[e]


class TrafficJunction(World, name="traffic_junction_v0", render_fps=4):
    """Cars drive along given routes; each step a car takes gas, one cell further, or brakes.

    easy: 5 cars, two one-way roads that cross on 7 x 7 cells, 20 steps. medium: 10 cars, a junction of two two-way
    roads on 14 x 14, 40 steps. hard: 20 cars, four such junctions on 18 x 18, 80 steps. On two-way roads one drives on
    the right; a route goes straight on, right or left at its first junction (hard: at its first two).

    At each entry a car arrives with probability ``add_rate`` a step while there is a free slot, on a random one of the
    entry's routes, even where another car still stands. A car gets -.01 for every step since it entered, each step, and
    -10 in a cell with another one; both drive on. At the end of its route it leaves. ``success``: nobody collided.

    Agents ``car_0 ..`` are slots. One without a car stays an agent: its observation is zero, it can only brake and gets
    0. Index 0 (``PRESENT``) of an observation says whether there is a car; then: braked last, the route one-hot, the
    own cell one-hot, numbers of other cars in the square of ``2 * vision + 1`` cells around.
    """

    kernels = Kernels(reset, step, observe, action_mask=action_mask, info=info)
    info_names = ("success", "collisions", "passed")
    shared = ("cells", "length", "number")

    def __init__(
        self,
        level: Literal["easy", "medium", "hard"] = "easy",
        num_cars: int | None = None,
        vision: int = 1,
        add_rate: float | None = None,
        max_cycles: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        if level not in LEVELS:
            raise ConfigError(f"traffic junction: expected level 'easy', 'medium' or 'hard', got {level!r}")
        self.level = LEVELS[level]
        low, high = self.level.add_rate
        rate = high if add_rate is None else add_rate
        cars = self.level.num_cars if num_cars is None else num_cars
        if cars < 1 or vision < 0 or not 0 <= rate <= 1:
            raise ConfigError(
                "traffic junction: expected at least one car, vision >= 0 and add_rate in [0, 1]; got "
                f"{num_cars=}, {vision=}, {add_rate=}"
            )
        self.vision, self.entries = vision, entries(self.level)
        self.routes = [route for routes in self.entries for route in routes]
        self.roads = sorted({cell for route in self.routes for cell in route})
        names = [f"car_{n}" for n in range(cars)]
        width = ROUTE + len(self.routes) + len(self.roads) + (2 * vision + 1) ** 2
        super().__init__(
            observation_spaces=dict.fromkeys(names, Box(0.0, float(max(cars - 1, 1)), (width,), np.float32)),
            action_spaces={name: Discrete(2) for name in names},
            max_cycles=self.level.max_cycles if max_cycles is None else max_cycles,
            tasks={
                "add_rate": Parameter(min(low, rate), max(high, rate), rate),
                "vision": Parameter(0, vision, vision, integer=True),
            },
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        rows = (num_envs, len(self.possible_agents))
        length = np.array([len(route) for route in self.routes])
        cells = np.zeros((len(self.routes), int(length.max()) + 1, 2), dtype=np.int64)  # and where a car has left
        for r, route in enumerate(self.routes):
            cells[r, : len(route)] = route
        number = np.full((self.level.size, self.level.size), -1)
        number[tuple(np.transpose(self.roads))] = np.arange(len(self.roads))
        return State(
            route=np.full(rows, ABSENT),
            progress=np.zeros(rows, dtype=np.int64),
            waited=np.zeros(rows, dtype=np.int64),
            braked=np.zeros(rows, dtype=bool),
            collisions=np.zeros(num_envs, dtype=np.int64),
            passed=np.zeros(num_envs, dtype=np.int64),
            cells=cells,
            length=length,
            number=number,
            routes_each=len(self.entries[0]),
            num_cells=len(self.roads),
            greatest_vision=self.vision,
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Routes, places on them, and what is counted."""
        longest = max(map(len, self.routes))
        counts = dict.fromkeys(("waited", "collisions", "passed"), (0, sys.maxsize))
        return {"route": (ABSENT, len(self.routes) - 1), "progress": (0, longest), **counts}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Roads, cars blue, braking ones yellow, colliding ones red."""
        middle = (self.level.size - 1) / 2
        canvas.view(self.level.size / 2, (middle, -middle))
        for row, column in self.roads:
            canvas.box((column, -row), 0.96, 0.96, (210, 210, 210))
        here = {n: tuple(s.cells[r, s.progress[e, n]].tolist()) for n, r in enumerate(s.route[e].tolist()) if r >= 0}
        for n, (row, column) in here.items():
            crashed = list(here.values()).count((row, column)) > 1
            color = (217, 90, 90) if crashed else (230, 190, 60) if s.braked[e, n] else (90, 90, 217)
            canvas.circle((column, -row), 0.35, color)
        canvas.text(f"passed {int(s.passed[e])}, collisions {int(s.collisions[e])}")
