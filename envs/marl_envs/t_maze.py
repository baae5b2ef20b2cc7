"""Remember a sign down a corridor and turn where it said (Bakker 2002): what an agent without memory cannot do."""

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

LENGTH = 0  # column of the task
FORWARD, LEFT = 0, 1
BUMP = 0.025  # what walking into a wall costs


class State(NamedTuple):
    """Cells walked, and where the reward is."""

    place: Array  # (E,) int64: 0 is the start, the corridor's length the junction
    side: Array  # (E,) int64: 1 left, 2 right


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """At the start, the reward on either side."""
    s.place[e] = 0
    s.side[e] = LEFT + integers(rng, e, 2)


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Walk on, or turn at the junction: 1 on the right side, else -1. Any other move is a bump."""
    junction = s.place[e] >= int(task[e, LENGTH])
    if junction and action[e, 0] != FORWARD:
        reward[e, 0] = 1.0 if action[e, 0] == s.side[e] else -1.0
        return TERMINATED
    if not junction and action[e, 0] == FORWARD:
        s.place[e] += 1
        reward[e, 0] = 0.0
    else:
        reward[e, 0] = -BUMP
    return RUNNING


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """The sign (-1 left, 1 right) at the start and 0 anywhere else; whether this is the start, or the junction."""
    start, junction = s.place[e] == 0, s.place[e] >= int(task[e, LENGTH])
    obs[e, 0, 0] = 2.0 * (s.side[e] - LEFT) - 1.0 if start else 0.0
    obs[e, 0, 1] = 1.0 if start else 0.0
    obs[e, 0, 2] = 1.0 if junction else 0.0


class TMaze(World, name="t_maze_v0", render_fps=10):
    """A corridor of ``length`` cells; three actions: forward, left, right. A bump costs 0.025.

    A return of 1 is the optimum; 0 is the most without memory. ``max_cycles`` is five times the length if not given.
    """

    kernels = Kernels(reset, step, observe)

    def __init__(self, length: int = 20, max_cycles: int | None = None, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        if length < 1:
            raise ConfigError(f"TMaze: expected a length of at least 1, got {length}")
        self.length = length
        super().__init__(
            observation_spaces={"agent_0": Box(-1, 1, (3,), np.float32)},
            action_spaces={"agent_0": Discrete(3)},
            max_cycles=5 * length if max_cycles is None else max_cycles,
            tasks={"length": Parameter(1, length, length, integer=True)},
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(np.zeros(num_envs, dtype=np.int64), np.full(num_envs, LEFT, dtype=np.int64))

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Nobody walks beyond the junction."""
        return {"place": (0, self.length), "side": (LEFT, LEFT + 1)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """The corridor, its two ends, where the agent is; the sign while it can be seen."""
        end, half = float(self.core.task[e, LENGTH]), self.length / 2 + 1
        canvas.view(half, (self.length / 2, 0))
        canvas.line([(0, 0), (end, 0)])
        canvas.line([(end, -half / 4), (end, half / 4)])
        sign = half / 4 if s.side[e] == LEFT else -half / 4
        canvas.circle((end, sign), half / 16, (90, 180, 90))
        canvas.circle((float(s.place[e]), 0.0), half / 20, (90, 90, 217))
