"""Move to a goal that pays only where it is reached: a task for hindsight replay, after the Fetch robot's reaching.

Observations follow Gymnasium's goal convention: ``achieved_goal``, ``desired_goal`` and ``observation``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from marl.types import Array
from marl_envs.kernel import RUNNING, Kernels, kernel, uniform
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

TOLERANCE = 0.1
STEP = 0.1


class State(NamedTuple):
    """Where the hand and the goal are, how the hand moves."""

    place: Array  # (E, 3)
    speed: Array  # (E, 3)
    goal: Array  # (E, 3)


def compute_reward(achieved: Array, desired: Array, info: Any = None) -> Array:
    """0 within the tolerance of the goal, else -1: goals ``(..., 3)`` to ``(...)``, as ``GoalEnv`` has it."""
    far: Array = np.linalg.norm(np.asarray(achieved) - np.asarray(desired), axis=-1) > TOLERANCE
    return -far.astype(np.float32)


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """The hand in the middle at rest, the goal anywhere in reach."""
    for k in range(3):
        s.place[e, k] = 0.0
        s.speed[e, k] = 0.0
        s.goal[e, k] = uniform(rng, e, -task[e, 0], task[e, 0])


@kernel
def near(s: State, e: int) -> bool:
    """Whether the goal is reached."""
    square = 0.0
    for k in range(3):
        square += (s.place[e, k] - s.goal[e, k]) ** 2
    return square <= TOLERANCE * TOLERANCE


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Half of the old speed stays; walls stop the hand."""
    for k in range(3):
        wanted = min(max(action[e, 0, k], -1.0), 1.0) * STEP
        s.speed[e, k] = 0.5 * (s.speed[e, k] + wanted)
        s.place[e, k] = min(max(s.place[e, k] + s.speed[e, k], -1.0), 1.0)
    reward[e, 0] = 0.0 if near(s, e) else -1.0
    return RUNNING


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Achieved goal, desired goal, place and speed: the order of the flattened dictionary."""
    for k in range(3):
        obs[e, 0, k] = s.place[e, k]
        obs[e, 0, 3 + k] = s.goal[e, k]
        obs[e, 0, 6 + k] = s.place[e, k]
        obs[e, 0, 9 + k] = 10.0 * s.speed[e, k]


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """Whether the episode ends at the goal."""
    out[e, 0] = 1.0 if near(s, e) else 0.0


class Reach(World, name="reach_v0", render_fps=10):
    """A hand in a cube, three forces, 50 steps; -1 away from the goal, 0 at it; ``success``: there at the end."""

    kernels = Kernels(reset, step, observe, info=info)
    info_names: ClassVar[tuple[str, ...]] = ("success",)

    def __init__(self, reach: float = 0.8, max_cycles: int = 50, render_mode: str | None = None) -> None:
        """``reach``: goals lie within this of the middle, along each axis."""
        goal = spaces.Box(-1, 1, (3,), np.float32)
        seen = spaces.Dict(
            {"achieved_goal": goal, "desired_goal": goal, "observation": spaces.Box(-1, 1, (6,), np.float32)}
        )
        super().__init__(
            observation_spaces={"agent_0": seen},
            action_spaces={"agent_0": spaces.Box(-1, 1, (3,), np.float32)},
            tasks={"reach": Parameter(0, 1, reach)},
            max_cycles=max_cycles,
            render_mode=render_mode,
        )

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: Any = None) -> Array:
        """As Gymnasium's ``GoalEnv``: see the function of that name."""
        return compute_reward(achieved_goal, desired_goal, info)

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        place, speed, goal = (np.zeros((num_envs, 3)) for _ in range(3))
        return State(place, speed, goal)

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """From above; the goal in red, the hand in blue."""
        canvas.view(1.1)
        canvas.circle(s.goal[e, :2], TOLERANCE, (217, 90, 90))
        canvas.circle(s.place[e, :2], 0.05, (90, 90, 217))
