"""Drive a weak car out of a valley by swinging (twins of Gymnasium's MountainCar-v0 and MountainCarContinuous-v0)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel, uniform
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

LOW, HIGH, MAX_SPEED = -1.2, 0.6, 0.07
FORCE, GRAVITY, GOAL = 0.001, 0.0025, 0.5
POWER, GOAL_CONTINUOUS = np.float32(0.0015), 0.45


class State(NamedTuple):
    """Position and velocity; the speed that the goal asks for."""

    position: Array  # (E,)
    speed: Array  # (E,)
    goal_speed: float


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """At rest near the bottom."""
    s.position[e] = uniform(rng, e, -0.6, -0.4)
    s.speed[e] = 0.0


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Push left, not at all or right; -1 per step."""
    speed = s.speed[e] + (action[e, 0] - 1) * FORCE - np.cos(3 * s.position[e]) * GRAVITY
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    position = min(max(s.position[e] + speed, LOW), HIGH)
    if position == LOW and speed < 0:
        speed = 0.0
    s.position[e], s.speed[e] = position, speed
    reward[e, 0] = -1.0
    return TERMINATED if position >= GOAL and speed >= s.goal_speed else RUNNING


@kernel
def step_continuous(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Push with a force in [-1, 1]; pays 0.1 of its square, earns 100 at the goal. In float32, as the original."""
    given = action[e, 0, 0]
    force = min(max(given, np.float32(-1.0)), np.float32(1.0))
    pull = np.float32(GRAVITY * np.cos(np.float32(np.float32(3.0) * np.float32(s.position[e]))))
    speed = np.float32(np.float32(s.speed[e]) + np.float32(np.float32(force * POWER) - pull))
    speed = min(max(speed, np.float32(-MAX_SPEED)), np.float32(MAX_SPEED))
    position = np.float32(np.float32(s.position[e]) + speed)
    position = min(max(position, np.float32(LOW)), np.float32(HIGH))
    if position == np.float32(LOW) and speed < 0:
        speed = np.float32(0.0)
    s.position[e], s.speed[e] = position, speed
    arrived = position >= np.float32(GOAL_CONTINUOUS) and speed >= s.goal_speed
    reward[e, 0] = (100.0 if arrived else 0.0) - 0.1 * given * given
    return TERMINATED if arrived else RUNNING


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Position and velocity."""
    obs[e, 0, 0] = s.position[e]
    obs[e, 0, 1] = s.speed[e]


class MountainCar(World, name="mountain_car_v0", render_fps=30):
    """Three actions; ends at the flag."""

    kernels = Kernels(reset, step, observe)
    goal: ClassVar[float] = GOAL

    def __init__(self, goal_velocity: float = 0.0, max_cycles: int = 200, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        self._make(goal_velocity, Discrete(3), max_cycles, render_mode)

    def _make(self, goal_velocity: float, actions: Any, max_cycles: int, render_mode: str | None) -> None:
        self.goal_velocity = goal_velocity
        low, high = np.array([LOW, -MAX_SPEED], dtype=np.float32), np.array([HIGH, MAX_SPEED], dtype=np.float32)
        super().__init__(
            observation_spaces={"agent_0": Box(low, high, dtype=np.float32)},
            action_spaces={"agent_0": actions},
            max_cycles=max_cycles,
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(np.zeros(num_envs), np.zeros(num_envs), float(self.goal_velocity))

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Hills, flag, car."""
        canvas.view(1.0, (-0.3, 0.6))
        hills = np.linspace(LOW, HIGH, 100)
        canvas.line(np.stack([hills, np.sin(3 * hills) * 0.45 + 0.55], axis=1))
        foot = np.sin(3 * self.goal) * 0.45 + 0.55
        canvas.line([(self.goal, foot), (self.goal, foot + 0.2)], (204, 204, 0), 4)
        x = float(s.position[e])
        canvas.circle((x, np.sin(3 * x) * 0.45 + 0.6), 0.05, (90, 90, 217))


class MountainCarContinuous(MountainCar, name="mountain_car_continuous_v0"):
    """One force in [-1, 1]; ends at the flag, a little nearer than the discrete one's."""

    kernels = Kernels(reset, step_continuous, observe)
    goal: ClassVar[float] = GOAL_CONTINUOUS

    def __init__(self, goal_velocity: float = 0.0, max_cycles: int = 999, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        self._make(goal_velocity, Box(-1.0, 1.0, (1,), np.float32), max_cycles, render_mode)
