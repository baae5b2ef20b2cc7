"""Predators that hardly see look for a prey that does not move, in the settings of IC3Net (Singh et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, integers, kernel
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

SIZE, VISION = 0, 1  # columns of the task
STAY, LEFT, RIGHT, DOWN, UP = 0, 1, 2, 3, 4
MODES = ("mixed", "cooperative", "competitive")
MIXED, COOPERATIVE, COMPETITIVE = 0, 1, 2
LEVELS = {"easy": (3, 5, 0, 20), "medium": (5, 10, 1, 40), "hard": (10, 20, 1, 80)}  # predators, size, vision, steps


class State(NamedTuple):
    """Places of the predators and, last, of the prey; who has reached it."""

    place: Array  # (E, N + 1, 2) int64: column, row
    reached: Array  # (E, N) bool
    mode: int
    greatest_size: int
    greatest_vision: int


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Everybody in a cell of their own."""
    size = int(task[e, SIZE])
    for m in range(s.place.shape[1]):
        taken = True
        while taken:
            s.place[e, m, 0], s.place[e, m, 1] = integers(rng, e, size), integers(rng, e, size)
            taken = False
            for other in range(m):
                taken |= s.place[e, other, 0] == s.place[e, m, 0] and s.place[e, other, 1] == s.place[e, m, 1]
    for n in range(s.reached.shape[1]):
        s.reached[e, n] = False


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Who has reached the prey stays there and is paid as the mode says; the others lose .05."""
    size, num_agents = int(task[e, SIZE]), s.reached.shape[1]
    there = 0
    for n in range(num_agents):
        if not s.reached[e, n]:
            side = action[e, n]
            x = s.place[e, n, 0] + (1 if side == RIGHT else -1 if side == LEFT else 0)
            y = s.place[e, n, 1] + (1 if side == UP else -1 if side == DOWN else 0)
            s.place[e, n, 0], s.place[e, n, 1] = min(max(x, 0), size - 1), min(max(y, 0), size - 1)
            s.reached[e, n] = (
                s.place[e, n, 0] == s.place[e, num_agents, 0] and s.place[e, n, 1] == s.place[e, num_agents, 1]
            )
        there += 1 if s.reached[e, n] else 0
    for n in range(num_agents):
        paid = 0.0
        if s.mode == COOPERATIVE:
            paid = 0.05 * there
        elif s.mode == COMPETITIVE:
            paid = 0.05 / there
        reward[e, n] = paid if s.reached[e, n] else -0.05
    return TERMINATED if s.mode == MIXED and there == num_agents else RUNNING


@kernel
def action_mask(s: State, e: int, task: Array, out: Array) -> None:
    """Who has reached the prey stays."""
    for n in range(out.shape[1]):
        for side in range(out.shape[2]):
            out[e, n, side] = side == STAY or not s.reached[e, n]


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Own column and row one-hot; what is outside, the prey, other predators in the window around."""
    size, sight, view, num_agents = int(task[e, SIZE]), int(task[e, VISION]), s.greatest_vision, obs.shape[1]
    side = 2 * view + 1
    for i in range(num_agents):
        for k in range(obs.shape[2]):
            obs[e, i, k] = 0.0
        x, y = s.place[e, i, 0], s.place[e, i, 1]
        obs[e, i, x] = 1.0
        obs[e, i, s.greatest_size + y] = 1.0
        window = 2 * s.greatest_size
        for dy in range(-sight, sight + 1):
            for dx in range(-sight, sight + 1):
                if not (0 <= x + dx < size and 0 <= y + dy < size):
                    obs[e, i, window + (dy + view) * side + dx + view] = 1.0
        for m in range(num_agents + 1):
            dx, dy = s.place[e, m, 0] - x, s.place[e, m, 1] - y
            if m != i and abs(dx) <= sight and abs(dy) <= sight:
                plane = 1 if m == num_agents else 2
                obs[e, i, window + plane * side * side + (dy + view) * side + dx + view] += 1.0


@kernel
def state(s: State, e: int, task: Array, out: Array) -> None:
    """All places as parts of the greatest size, the prey's last; who has reached it."""
    bodies = s.place.shape[1]
    for m in range(bodies):
        out[e, 2 * m] = s.place[e, m, 0] / s.greatest_size
        out[e, 2 * m + 1] = s.place[e, m, 1] / s.greatest_size
    for n in range(s.reached.shape[1]):
        out[e, 2 * bodies + n] = 1.0 if s.reached[e, n] else 0.0


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """Whether all have reached the prey, and which part of them."""
    there = 0
    for n in range(s.reached.shape[1]):
        there += 1 if s.reached[e, n] else 0
    out[e, 0] = 1.0 if there == s.reached.shape[1] else 0.0
    out[e, 1] = there / s.reached.shape[1]


class PredatorPrey(World, name="predator_prey_v0", render_fps=4):
    """Predators look for one prey that does not move; each sees ``vision`` cells far (0: its own cell alone).

    easy: 3 predators on 5 x 5 cells, vision 0, 20 steps. medium: 5, 10 x 10, 1, 40. hard: 10, 20 x 20, 1, 80. A
    predator loses .05 each step until it is on the prey, where it stays (its other actions are illegal). What it gets
    there is 0 (``mixed``), .05 times the number on the prey (``cooperative``), or .05 shared by them (``competitive``).
    ``mixed`` ends when all are there; the other modes last ``max_cycles``, since an end would take from those who earn.

    Actions: stay, left, right, down, up. Observation: own column and row one-hot (``size`` each), then three windows of
    ``2 * vision + 1`` cells square: outside, prey, other predators. ``success``: all reached it.
    """

    kernels = Kernels(reset, step, observe, action_mask=action_mask, state=state, info=info)
    info_names = ("success", "reached")

    def __init__(
        self,
        level: Literal["easy", "medium", "hard"] = "easy",
        mode: Literal["mixed", "cooperative", "competitive"] = "mixed",
        num_predators: int | None = None,
        size: int | None = None,
        vision: int | None = None,
        max_cycles: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        if level not in LEVELS:
            raise ConfigError(f"predator prey: expected level 'easy', 'medium' or 'hard', got {level!r}")
        if mode not in MODES:
            raise ConfigError(f"predator prey: expected mode {', '.join(map(repr, MODES))}, got {mode!r}")
        given = (num_predators, size, vision, max_cycles)
        predators, size, vision, steps = (
            own if chosen is None else chosen for own, chosen in zip(LEVELS[level], given, strict=True)
        )
        if predators < 1 or vision < 0 or size**2 <= predators:
            raise ConfigError(
                "predator prey: expected at least one predator, vision >= 0 and a cell for each predator and the prey; "
                f"got num_predators={predators}, {size=}, {vision=}"
            )
        self.size, self.vision, self.mode = size, vision, MODES.index(mode)
        names = [f"predator_{n}" for n in range(predators)]
        width = 2 * size + 3 * (2 * vision + 1) ** 2
        smallest = next(side for side in range(2, size + 1) if side**2 > predators)
        super().__init__(
            observation_spaces=dict.fromkeys(names, Box(0.0, float(predators), (width,), np.float32)),
            action_spaces={name: Discrete(5) for name in names},
            max_cycles=steps,
            tasks={
                "size": Parameter(smallest, size, size, integer=True),
                "vision": Parameter(0, vision, vision, integer=True),
            },
            state_space=Box(0, 1, (3 * predators + 2,), np.float32),
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        predators = len(self.possible_agents)
        return State(
            np.zeros((num_envs, predators + 1, 2), dtype=np.int64),
            np.zeros((num_envs, predators), dtype=bool),
            self.mode,
            self.size,
            self.vision,
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Cells."""
        return {"place": (0, self.size - 1)}

    def action_names(self, agent: str) -> tuple[str, ...]:
        """In their order."""
        return "stay", "left", "right", "down", "up"

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """The prey green, predators red with what they see, darker once they have reached it."""
        middle = (self.size - 1) / 2
        canvas.view(self.size / 2, (middle, middle))
        sight = 2 * int(self.core.task[e, VISION]) + 1
        for place in s.place[e, :-1]:
            canvas.box(place, sight, sight, (255, 235, 235))
        for line in np.arange(self.size + 1) - 0.5:
            canvas.line([(line, -0.5), (line, self.size - 0.5)], (220, 220, 220), 1)
            canvas.line([(-0.5, line), (self.size - 0.5, line)], (220, 220, 220), 1)
        canvas.circle(s.place[e, -1], 0.4, (90, 190, 90))
        for name, place, there in zip(self.possible_agents, s.place[e, :-1], s.reached[e], strict=True):
            canvas.circle(place, 0.25, (150, 40, 40) if there else (217, 90, 90))
            canvas.name(name, place, 0.25)
