"""Swing a pendulum up and hold it there (twin of Gymnasium's Pendulum-v1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from gymnasium.spaces import Box

from marl.types import Array
from marl_envs.kernel import RUNNING, Kernels, kernel, uniform
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

DT, MAX_SPEED, MAX_TORQUE = 0.05, 8.0, 2.0
GRAVITY = 0  # column of the task


class State(NamedTuple):
    """Angle (0 is up) and angular velocity; the torque of the last step."""

    angle: Array  # (E,)
    speed: Array  # (E,)


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Anywhere, turning slowly."""
    s.angle[e] = uniform(rng, e, -np.pi, np.pi)
    s.speed[e] = uniform(rng, e, -1.0, 1.0)


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Cost of angle, speed and torque before the step; then a semi-implicit Euler step."""
    angle, speed = s.angle[e], s.speed[e]
    torque = min(max(action[e, 0, 0], np.float32(-MAX_TORQUE)), np.float32(MAX_TORQUE))  # float32, as the original
    off = (angle + np.pi) % (2 * np.pi) - np.pi
    reward[e, 0] = -(off * off + 0.1 * speed * speed + 0.001 * torque * torque)
    speed += (3.0 * task[e, GRAVITY] / 2.0 * np.sin(angle) + np.float32(3.0) * torque) * DT
    speed = min(max(speed, -MAX_SPEED), MAX_SPEED)
    s.speed[e] = speed
    s.angle[e] = angle + speed * DT
    return RUNNING


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Cosine, sine, angular velocity."""
    obs[e, 0, 0] = np.cos(s.angle[e])
    obs[e, 0, 1] = np.sin(s.angle[e])
    obs[e, 0, 2] = s.speed[e]


class Pendulum(World, name="pendulum_v0", render_fps=30):
    """One torque in [-2, 2]; never ends by itself. ``g`` is the gravity."""

    kernels = Kernels(reset, step, observe)

    def __init__(self, g: float = 10.0, max_cycles: int = 200, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        high = np.array([1.0, 1.0, MAX_SPEED], dtype=np.float32)
        super().__init__(
            observation_spaces={"agent_0": Box(-high, high, dtype=np.float32)},
            action_spaces={"agent_0": Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)},
            max_cycles=max_cycles,
            tasks={"g": Parameter(0, 100, g)},
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(np.zeros(num_envs), np.zeros(num_envs))

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """A rod on an axle."""
        canvas.view(1.3)
        canvas.line([(0, 0), (-np.sin(s.angle[e]), np.cos(s.angle[e]))], (204, 77, 77), 20)
        canvas.circle((0, 0), 0.05, (0, 0, 0))
