"""Balance a pole on a cart (twin of Gymnasium's CartPole-v1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel, uniform
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
MASS = CART + POLE
MAX_ANGLE, MAX_X = 12 * 2 * np.pi / 360, 2.4


class State(NamedTuple):
    """Position, velocity, angle, angular velocity; whether the reward is Sutton and Barto's (0, and -1 at the fall).

    stride: 1 if all four are seen, 2 if the velocities are not.
    """

    x: Array  # (E, 4)
    sutton_barto: int
    stride: int


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Almost upright."""
    for k in range(4):
        s.x[e, k] = uniform(rng, e, -0.05, 0.05)


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """One Euler step of the cart-pole equations; one point per step."""
    x, speed, angle, turn = s.x[e, 0], s.x[e, 1], s.x[e, 2], s.x[e, 3]
    force = FORCE if action[e, 0] == 1 else -FORCE
    cos, sin = np.cos(angle), np.sin(angle)
    push = (force + POLE * HALF_LENGTH * (turn * turn) * sin) / MASS
    bend = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE * (cos * cos) / MASS))
    drive = push - POLE * HALF_LENGTH * bend * cos / MASS
    x, speed = x + TAU * speed, speed + TAU * drive
    angle, turn = angle + TAU * turn, turn + TAU * bend
    s.x[e, 0], s.x[e, 1], s.x[e, 2], s.x[e, 3] = x, speed, angle, turn
    fell = abs(x) > MAX_X or abs(angle) > MAX_ANGLE
    if s.sutton_barto:
        reward[e, 0] = -1.0 if fell else 0.0
    else:
        reward[e, 0] = 1.0
    return TERMINATED if fell else RUNNING


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """The state itself, or the position and the angle alone."""
    for k in range(0, 4, s.stride):
        obs[e, 0, k // s.stride] = s.x[e, k]


class CartPole(World, name="cartpole_v0", render_fps=50):
    """Two actions, left and right; ends when the cart leaves or the pole leans more than 12 degrees.

    Without ``velocities`` an agent sees the position and the angle only, and needs a memory.
    """

    kernels = Kernels(reset, step, observe)

    def __init__(
        self,
        sutton_barto_reward: bool = False,
        max_cycles: int = 500,
        render_mode: str | None = None,
        velocities: bool = True,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        self.sutton_barto_reward, self.velocities = sutton_barto_reward, velocities
        high = np.array([MAX_X * 2, np.inf, MAX_ANGLE * 2, np.inf], dtype=np.float32)[:: self._stride]
        super().__init__(
            observation_spaces={"agent_0": Box(-high, high, dtype=np.float32)},
            action_spaces={"agent_0": Discrete(2)},
            max_cycles=max_cycles,
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        return State(np.zeros((num_envs, 4)), int(self.sutton_barto_reward), self._stride)

    @property
    def _stride(self) -> int:
        return 1 if self.velocities else 2

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Track, cart, pole."""
        canvas.view(2.6)
        x, angle = float(s.x[e, 0]), float(s.x[e, 2])
        canvas.line([(-2.6, -0.3), (2.6, -0.3)])
        canvas.box((x, -0.3), 0.5, 0.3, (0, 0, 0))
        canvas.line(
            [(x, -0.2), (x + 2 * HALF_LENGTH * np.sin(angle), -0.2 + 2 * HALF_LENGTH * np.cos(angle))],
            (202, 152, 101),
            10,
        )
