"""The switch riddle: one prisoner a day is in the room and may tell that all have been (Foerster et al. 2016)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, integers, kernel
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

DAYS = 0  # column of the task: max_cycles
IN_ROOM, SWITCH = 0, 1  # indices of the observation
NONE, TELL = 0, 1  # actions; with a switch: 2 * (NONE or TELL) + (0: leave it off, 1: leave it on)


class State(NamedTuple):
    """Who is in the room today, who has been there, what the switch says, how many days passed, who won."""

    room: Array  # (E,) int64
    visited: Array  # (E, N) bool
    light: Array  # (E,) bool
    day: Array  # (E,) int64
    success: Array  # (E,) bool
    switch: bool
    clock: bool


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """The first day: anybody is in the room, the switch is off."""
    for n in range(s.visited.shape[1]):
        s.visited[e, n] = False
    s.room[e] = integers(rng, e, s.visited.shape[1])
    s.light[e] = False
    s.day[e] = 0
    s.success[e] = False


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Who is in the room may tell: all gain 1 if all have been there, and lose 1 if not. What others do counts not."""
    num_agents, room = s.visited.shape[1], s.room[e]
    s.visited[e, room] = True
    s.day[e] += 1
    told = action[e, room] == TELL
    if s.switch:
        told = action[e, room] // 2 == TELL
        s.light[e] = action[e, room] % 2 == 1
    everybody = True
    for n in range(num_agents):
        everybody &= s.visited[e, n]
    s.success[e] = told and everybody
    for n in range(num_agents):
        reward[e, n] = 0.0 if not told else 1.0 if everybody else -1.0
    s.room[e] = integers(rng, e, num_agents)
    return TERMINATED if told or s.day[e] >= task[e, DAYS] else RUNNING


@kernel
def action_mask(s: State, e: int, task: Array, out: Array) -> None:
    """Outside the room there is nothing to do."""
    for n in range(out.shape[1]):
        for choice in range(out.shape[2]):
            out[e, n, choice] = choice == NONE or n == s.room[e]


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Whether one is in the room; there, the switch; the part of the days that passed."""
    for i in range(obs.shape[1]):
        obs[e, i, IN_ROOM] = 1.0 if i == s.room[e] else 0.0
        if s.switch:
            obs[e, i, SWITCH] = 1.0 if i == s.room[e] and s.light[e] else 0.0
        if s.clock:
            obs[e, i, obs.shape[2] - 1] = s.day[e] / task[e, DAYS]


@kernel
def state(s: State, e: int, task: Array, out: Array) -> None:
    """Who is in the room, who has been there before, the switch, the part of the days that passed."""
    num_agents = s.visited.shape[1]
    for n in range(num_agents):
        out[e, n] = 1.0 if n == s.room[e] else 0.0
        out[e, num_agents + n] = 1.0 if s.visited[e, n] else 0.0
    out[e, 2 * num_agents] = 1.0 if s.light[e] else 0.0
    out[e, 2 * num_agents + 1] = s.day[e] / task[e, DAYS]


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """Whether somebody told in time, and rightly."""
    out[e, 0] = 1.0 if s.success[e] else 0.0


class SwitchRiddle(World, name="switch_riddle_v0", render_fps=2):
    """Every day one of ``num_prisoners``, drawn anew, is in the room; only there one may tell that all have been there.

    Telling ends the game: everybody gets 1 if it is true, -1 if not. After ``max_cycles`` days (``4 * num_prisoners -
    6`` unless given) it ends with 0. Both ends are the task's own: terminated. Observation: 1 in the room, else 0
    (index 0, ``IN_ROOM``); actions: nothing, tell (outside the room: nothing).

    The switch of the riddle is meant to be a channel that is learnt. ``switch=True`` puts one into the room instead:
    index 1 of the observation is its state as seen in the room, and an action is ``2 * tell + on``. ``clock=True``
    adds the part of the days that passed, for those who cannot count.

    Knowing everything, a team gains the probability that all are drawn in time: 20/27 for three, .7806 for four. For
    three prisoners who count days and remember their visits one bit is enough for that.
    """

    kernels = Kernels(reset, step, observe, action_mask=action_mask, state=state, info=info)
    info_names = ("success",)

    def __init__(
        self,
        num_prisoners: int = 3,
        switch: bool = False,
        clock: bool = False,
        max_cycles: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        if num_prisoners < 2:
            raise ConfigError(f"switch riddle: expected at least two prisoners, got {num_prisoners=}")
        self.switch, self.clock = switch, clock
        names = [f"prisoner_{n}" for n in range(num_prisoners)]
        space = Box(0, 1, (1 + switch + clock,), np.float32)
        super().__init__(
            observation_spaces=dict.fromkeys(names, space),
            action_spaces={name: Discrete(4 if switch else 2) for name in names},
            max_cycles=4 * num_prisoners - 6 if max_cycles is None else max_cycles,
            state_space=Box(0, 1, (2 * num_prisoners + 2,), np.float32),
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(
            np.zeros(num_envs, dtype=np.int64),
            np.zeros((num_envs, len(self.possible_agents)), dtype=bool),
            np.zeros(num_envs, dtype=bool),
            np.zeros(num_envs, dtype=np.int64),
            np.zeros(num_envs, dtype=bool),
            bool(self.switch),
            bool(self.clock),
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Prisoners and days."""
        return {"room": (0, len(self.possible_agents) - 1), "day": (0, sys.maxsize)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Prisoners in a row, green once they have been in the room; above them the room with today's visitor."""
        count = len(self.possible_agents)
        canvas.view(max(count, 4) / 2, ((count - 1) / 2, 0.5))
        middle = (count - 1) / 2
        canvas.box((middle, 1.5), 1.2, 1.2, (255, 240, 150) if s.light[e] else (200, 200, 200))
        for n in range(count):
            at = (middle, 1.5) if n == s.room[e] else (float(n), 0.0)
            canvas.circle(at, 0.3, (90, 190, 90) if s.visited[e, n] else (90, 90, 217))
        canvas.text(f"day {int(s.day[e]) + 1}")
