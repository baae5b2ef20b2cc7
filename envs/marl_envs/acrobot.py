"""Swing a two-link robot above a line with torque at its middle joint only (twin of Gymnasium's Acrobot-v1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel, uniform
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

DT, GRAVITY, LENGTH, MASS, COM, MOMENT = 0.2, 9.8, 1.0, 1.0, 0.5, 1.0
MAX_SPEED_1, MAX_SPEED_2 = 4 * np.pi, 9 * np.pi


class State(NamedTuple):
    """Two angles (0 hangs down), two angular velocities, and scratch for the integrator."""

    x: Array  # (E, 4)
    slope: Array  # (4, 4) scratch
    at: Array  # (4,) scratch


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Almost hanging."""
    for k in range(4):
        s.x[e, k] = np.float32(uniform(rng, e, -0.1, 0.1))


@kernel
def derivative(s: State, stage: int, torque: float) -> None:
    """Sutton and Barto's equations of motion at ``s.at``, into ``s.slope[stage]``."""
    angle1, angle2, turn1, turn2 = s.at[0], s.at[1], s.at[2], s.at[3]
    cos2, sin2 = np.cos(angle2), np.sin(angle2)
    d1 = MASS * COM**2 + MASS * (LENGTH**2 + COM**2 + 2 * LENGTH * COM * cos2) + 2 * MOMENT
    d2 = MASS * (COM**2 + LENGTH * COM * cos2) + MOMENT
    phi2 = MASS * COM * GRAVITY * np.cos(angle1 + angle2 - np.pi / 2)
    phi1 = (
        -MASS * LENGTH * COM * turn2**2 * sin2
        - 2 * MASS * LENGTH * COM * turn2 * turn1 * sin2
        + (MASS * COM + MASS * LENGTH) * GRAVITY * np.cos(angle1 - np.pi / 2)
        + phi2
    )
    bend2 = (torque + d2 / d1 * phi1 - MASS * LENGTH * COM * turn1**2 * sin2 - phi2) / (
        MASS * COM**2 + MOMENT - d2**2 / d1
    )
    s.slope[stage, 0], s.slope[stage, 1] = turn1, turn2
    s.slope[stage, 2], s.slope[stage, 3] = -(d2 * bend2 + phi1) / d1, bend2


@kernel
def wrap(angle: float) -> float:
    """Into [-pi, pi]."""
    while angle > np.pi:
        angle -= 2 * np.pi
    while angle < -np.pi:
        angle += 2 * np.pi
    return angle


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """One Runge-Kutta step of order four; -1 until the tip is above the line."""
    torque = float(action[e, 0] - 1)
    for stage in range(4):
        ahead = 0.0 if stage == 0 else DT if stage == 3 else DT / 2
        for k in range(4):
            s.at[k] = s.x[e, k] + (0.0 if stage == 0 else ahead * s.slope[stage - 1, k])
        derivative(s, stage, torque)
    for k in range(4):
        s.x[e, k] += DT / 6 * (s.slope[0, k] + 2 * s.slope[1, k] + 2 * s.slope[2, k] + s.slope[3, k])
    s.x[e, 0], s.x[e, 1] = wrap(s.x[e, 0]), wrap(s.x[e, 1])
    s.x[e, 2] = min(max(s.x[e, 2], -MAX_SPEED_1), MAX_SPEED_1)
    s.x[e, 3] = min(max(s.x[e, 3], -MAX_SPEED_2), MAX_SPEED_2)
    above = -np.cos(s.x[e, 0]) - np.cos(s.x[e, 1] + s.x[e, 0]) > 1.0
    reward[e, 0] = 0.0 if above else -1.0
    return TERMINATED if above else RUNNING


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Cosine and sine of both angles, both angular velocities."""
    for k in range(2):
        obs[e, 0, 2 * k] = np.cos(s.x[e, k])
        obs[e, 0, 2 * k + 1] = np.sin(s.x[e, k])
        obs[e, 0, 4 + k] = s.x[e, 2 + k]


class Acrobot(World, name="acrobot_v0", render_fps=15):
    """Three torques, -1, 0 and 1; ends when the tip swings above the line."""

    kernels = Kernels(reset, step, observe)

    def __init__(self, max_cycles: int = 500, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        high = np.array([1.0, 1.0, 1.0, 1.0, MAX_SPEED_1, MAX_SPEED_2], dtype=np.float32)
        super().__init__(
            observation_spaces={"agent_0": Box(-high, high, dtype=np.float32)},
            action_spaces={"agent_0": Discrete(3)},
            max_cycles=max_cycles,
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(np.zeros((num_envs, 4)), np.zeros((4, 4)), np.zeros(4))

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Angles, which are wrapped in a loop, and velocities."""
        most = np.array([np.pi, np.pi, MAX_SPEED_1, MAX_SPEED_2])
        return {"x": (-most, most)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """The line, two links, two joints."""
        canvas.view(2.2)
        first, both = float(s.x[e, 0]), float(s.x[e, 0] + s.x[e, 1])
        joint = (np.sin(first), -np.cos(first))
        canvas.line([(-2.2, 1), (2.2, 1)])
        canvas.line([(0, 0), joint, (joint[0] + np.sin(both), joint[1] - np.cos(both))], (0, 204, 204), 12)
        for point in ((0, 0), joint):
            canvas.circle(point, 0.1, (204, 204, 0))
