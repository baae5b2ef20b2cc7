"""Walk through a random maze to your own goal: one agent or several, of any size, seen as a vector or as an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, Kernels, integers, kernel, uniform
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

WIDTH, HEIGHT, DENSITY, DISTANCE, AGENTS, LEVEL = 0, 1, 2, 3, 4, 5  # columns of the task
DRAWS = 100  # of a start and a goal that are far enough apart; the farthest of them if none is
STAY, LEFT, RIGHT, DOWN, UP = 0, 1, 2, 3, 4


class State(NamedTuple):
    """Mazes of all copies, up to the greatest width and height; cells beyond a copy's own size are walls."""

    wall: Array  # (E, H, W) bool
    agent: Array  # (E, N, 2) int64: column, row
    goal: Array  # (E, N, 2) int64
    arrived: Array  # (E, N) bool
    queue: Array  # (H * W,) int64 scratch
    reached: Array  # (H, W) bool scratch
    sight: int  # how far an agent sees
    step_cost: float
    bump_cost: float


@kernel
def free(s: State, e: int, x: int, y: int) -> bool:
    """Whether a cell can be entered."""
    return 0 <= x < s.wall.shape[2] and 0 <= y < s.wall.shape[1] and not s.wall[e, y, x]


@kernel
def flood(s: State, e: int, x: int, y: int) -> None:
    """Mark in ``s.reached`` every cell that can be walked to from ``(x, y)``."""
    columns = s.wall.shape[2]
    for row in range(s.wall.shape[1]):
        for column in range(columns):
            s.reached[row, column] = False
    s.reached[y, x] = True
    s.queue[0] = y * columns + x
    head, tail = 0, 1
    while head < tail:
        row, column = s.queue[head] // columns, s.queue[head] % columns
        head += 1
        for side in range(4):
            c = column + (1 if side == 0 else -1 if side == 1 else 0)
            r = row + (1 if side == 2 else -1 if side == 3 else 0)
            if free(s, e, c, r) and not s.reached[r, c]:
                s.reached[r, c] = True
                s.queue[tail] = r * columns + c
                tail += 1


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Walls at random, then a start and a goal for each agent; where no way leads to the goal, one is cut."""
    width, height = int(task[e, WIDTH]), int(task[e, HEIGHT])
    stream = rng[e]
    if task[e, LEVEL] > 0.0:  # the maze of that number, whatever came before
        rng[e] = np.uint64(task[e, LEVEL]) * np.uint64(0x9E3779B97F4A7C15)
    for y in range(s.wall.shape[1]):
        for x in range(s.wall.shape[2]):
            inside = x < width and y < height
            s.wall[e, y, x] = not inside or uniform(rng, e, 0.0, 1.0) < task[e, DENSITY]
    for n in range(s.agent.shape[1]):
        s.arrived[e, n] = n >= task[e, AGENTS]  # whoever takes no part is never alive
        x, y, start, farthest = 0, 0, 0, 0
        for _ in range(DRAWS):
            column, row = integers(rng, e, width), integers(rng, e, height)
            away = 1 + integers(rng, e, width * height - 1)  # any cell but the goal's
            other = (row * width + column + away) % (width * height)
            between = abs(other % width - column) + abs(other // width - row)
            if between > farthest:
                x, y, start, farthest = column, row, other, between
            if between >= task[e, DISTANCE]:
                break
        s.goal[e, n, 0], s.goal[e, n, 1] = x, y
        s.agent[e, n, 0], s.agent[e, n, 1] = start % width, start // width
        s.wall[e, y, x] = False
        s.wall[e, start // width, start % width] = False
        flood(s, e, x, y)
        if not s.reached[start // width, start % width]:
            cx, cy = start % width, start // width
            while cx != x or cy != y:  # a random staircase: across with the probability of what is left to go across
                if integers(rng, e, abs(cx - x) + abs(cy - y)) < abs(cx - x):
                    cx += 1 if x > cx else -1
                else:
                    cy += 1 if y > cy else -1
                s.wall[e, cy, cx] = False
    if task[e, LEVEL] > 0.0:
        rng[e] = stream


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Walls stop you; agents pass through each other at a cost; one point at the goal, where you leave."""
    num_agents = s.agent.shape[1]
    for n in range(num_agents):
        reward[e, n] = 0.0
        if s.arrived[e, n]:
            continue
        side = action[e, n]
        x = s.agent[e, n, 0] + (1 if side == RIGHT else -1 if side == LEFT else 0)
        y = s.agent[e, n, 1] + (1 if side == UP else -1 if side == DOWN else 0)
        if free(s, e, x, y):
            s.agent[e, n, 0], s.agent[e, n, 1] = x, y
        reward[e, n] = -s.step_cost
    for n in range(num_agents):
        if s.arrived[e, n]:
            continue
        for m in range(num_agents):
            together = s.agent[e, m, 0] == s.agent[e, n, 0] and s.agent[e, m, 1] == s.agent[e, n, 1]
            if m != n and together and not s.arrived[e, m]:
                reward[e, n] -= s.bump_cost
    for n in range(num_agents):
        if not s.arrived[e, n] and s.agent[e, n, 0] == s.goal[e, n, 0] and s.agent[e, n, 1] == s.goal[e, n, 1]:
            s.arrived[e, n] = True
            reward[e, n] += 1.0
    return RUNNING  # the episode ends with its last agent


@kernel
def acting(s: State, e: int, task: Array, out: Array) -> None:
    """Who has not arrived yet."""
    for n in range(s.agent.shape[1]):
        out[e, n] = not s.arrived[e, n]


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """Whether all arrived."""
    success = 1.0
    for n in range(s.agent.shape[1]):
        if not s.arrived[e, n]:
            success = 0.0
    out[e, 0] = success


@kernel
def observe_vector(s: State, e: int, task: Array, obs: Array) -> None:
    """Own place and the way to the goal as parts of the greatest size, then walls and numbers of others around."""
    num_agents, view = s.agent.shape[1], s.sight
    side = 2 * view + 1
    for i in range(num_agents):
        x, y = s.agent[e, i, 0], s.agent[e, i, 1]
        obs[e, i, 0] = x / s.wall.shape[2]
        obs[e, i, 1] = y / s.wall.shape[1]
        obs[e, i, 2] = (s.goal[e, i, 0] - x) / s.wall.shape[2]
        obs[e, i, 3] = (s.goal[e, i, 1] - y) / s.wall.shape[1]
        for row in range(side):
            for column in range(side):
                clear = free(s, e, x + column - view, y + row - view)
                obs[e, i, 4 + row * side + column] = 0.0 if clear else 1.0
        if num_agents > 1:
            k = 4 + side * side
            for place in range(side * side):
                obs[e, i, k + place] = 0.0
            for m in range(num_agents):
                column, row = s.agent[e, m, 0] - x + view, s.agent[e, m, 1] - y + view
                if m != i and not s.arrived[e, m] and 0 <= column < side and 0 <= row < side:
                    obs[e, i, k + row * side + column] += 1.0


@kernel
def observe_image(s: State, e: int, task: Array, obs: Array) -> None:
    """Four planes of the whole maze: walls, self, own goal, others."""
    for i in range(s.agent.shape[1]):
        for y in range(s.wall.shape[1]):
            for x in range(s.wall.shape[2]):
                obs[e, i, 0, y, x] = 255 if s.wall[e, y, x] else 0
                for plane in range(1, 4):
                    obs[e, i, plane, y, x] = 0
        obs[e, i, 1, s.agent[e, i, 1], s.agent[e, i, 0]] = 255
        obs[e, i, 2, s.goal[e, i, 1], s.goal[e, i, 0]] = 255
        for m in range(s.agent.shape[1]):
            if m != i and not s.arrived[e, m]:
                obs[e, i, 3, s.agent[e, m, 1], s.agent[e, m, 0]] = 255


class GridWorld(World, name="gridworld_v0"):
    """A solvable maze per episode. ``width`` and ``height`` are the greatest size; a task may be smaller, or denser.

    Starts and goals are at least ``distance`` steps apart, or as far as a smaller maze lets them be. A task may let
    only the first ``agents`` take part, and ask for the maze of number ``level`` (0: a new one).

    Actions: stay, left, right, down, up. +1 at one's goal, where one leaves; ``step_cost`` per step; ``bump_cost`` for
    each other agent in the same cell. Agents pass through each other, so that every maze stays solvable.
    ``obs="image"``: ``(height, width, 4)`` uint8 of walls, self, goal, others; ``"vector"``: place, way to the goal,
    and what is within ``view`` cells.
    """

    kernels = Kernels(reset, step, observe_vector, acting=acting, info=info)
    info_names = ("success",)

    def __new__(cls, *args: Any, obs: str = "vector", **kwargs: Any) -> GridWorld:
        """Images are another kernel, so another class."""
        return super().__new__(GridWorldImage if cls is GridWorld and obs == "image" else cls)

    def __init__(
        self,
        width: int = 8,
        height: int = 8,
        density: float = 0.2,
        num_agents: int = 1,
        *,
        distance: int = 1,
        obs: Literal["vector", "image"] = "vector",
        view: int = 2,
        step_cost: float = 0.0,
        bump_cost: float = 0.1,
        max_cycles: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        if width < 2 or height < 2 or num_agents < 1 or view < 0 or not 0 <= density < 1:
            raise ConfigError(
                "gridworld: expected width and height of at least 2, density in [0, 1), at least one agent and "
                "view >= 0; got "
                f"{width=}, {height=}, {density=}, {num_agents=}, {view=}"
            )
        if not 1 <= distance <= width + height - 2:
            raise ConfigError(f"gridworld: expected distance in [1, {width + height - 2}], got {distance!r}")
        if obs not in ("vector", "image"):
            raise ConfigError(f"gridworld: expected obs 'vector' or 'image', got {obs!r}")
        self.width, self.height, self.view = width, height, view
        self.step_cost, self.bump_cost = step_cost, bump_cost
        names = [f"agent_{n}" for n in range(num_agents)]
        window = (2 * view + 1) ** 2
        space = Box(-1.0, float(max(num_agents, 1)), (4 + window * (1 if num_agents == 1 else 2),), np.float32)
        image = Box(0, 255, (height, width, 4), np.uint8)
        super().__init__(
            observation_spaces={
                name: Box(0, 255, image.shape, np.uint8) if obs == "image" else space for name in names
            },
            action_spaces={name: Discrete(5) for name in names},
            max_cycles=4 * (width + height) if max_cycles is None else max_cycles,
            tasks={
                "width": Parameter(2, width, width, integer=True),
                "height": Parameter(2, height, height, integer=True),
                "density": Parameter(0, 0.95, density),
                "distance": Parameter(1, width + height - 2, distance, integer=True),
                "agents": Parameter(1, num_agents, num_agents, integer=True),
                "level": Parameter(0, 2**31, 0, integer=True),
            },
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        agents = len(self.possible_agents)
        return State(
            wall=np.zeros((num_envs, self.height, self.width), dtype=bool),
            agent=np.zeros((num_envs, agents, 2), dtype=np.int64),
            goal=np.zeros((num_envs, agents, 2), dtype=np.int64),
            arrived=np.zeros((num_envs, agents), dtype=bool),
            queue=np.zeros(self.height * self.width, dtype=np.int64),
            reached=np.zeros((self.height, self.width), dtype=bool),
            sight=self.view,
            step_cost=float(self.step_cost),
            bump_cost=float(self.bump_cost),
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Cells."""
        cell = [self.width - 1, self.height - 1]
        return {"agent": (0, cell), "goal": (0, cell), "queue": (0, self.width * self.height - 1)}

    def action_names(self, agent: str) -> tuple[str, ...]:
        """In their order."""
        return "stay", "left", "right", "down", "up"

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Walls, goals, agents."""
        canvas.view(max(self.width, self.height) / 2, ((self.width - 1) / 2, (self.height - 1) / 2))
        for y, x in np.argwhere(s.wall[e]):
            canvas.box((x, y), 1, 1, (64, 64, 64))
        palette = [(90, 90, 217), (217, 90, 90), (90, 190, 90), (200, 160, 40), (160, 90, 200)]
        for n in range(s.agent.shape[1]):
            color = palette[n % len(palette)]
            canvas.box(s.goal[e, n], 0.6, 0.6, color)
            if not s.arrived[e, n]:
                canvas.circle(s.agent[e, n], 0.3, color)
                canvas.name(self.possible_agents[n], s.agent[e, n], 0.3)


class GridWorldImage(GridWorld, name="gridworld_image_v0"):
    """`GridWorld` seen as an image; what ``GridWorld(obs="image")`` makes."""

    kernels = Kernels(reset, step, observe_image, acting=acting, info=info)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the environment; the class documents the arguments."""
        super().__init__(*args, **{**kwargs, "obs": "image"})
