"""A good agent walks to its goal, an adversary that does not know which it is pushes it away (twin of mpe2's
simple_push_v3)."""

from __future__ import annotations

from marl.types import Array
from marl_envs.kernel import RUNNING, Kernels, integers, kernel
from marl_envs.mpe import (
    Body,
    Particles,
    ParticleWorld,
    distance,
    move,
    put_all_relative,
    put_relative,
    put_velocity,
    scatter,
)

ADVERSARY, GOOD, FIRST_LANDMARK, LANDMARKS = 0, 1, 2, 2


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """A goal among two landmarks."""
    s.goal[e, 0] = integers(rng, e, LANDMARKS)
    scatter(s, e, rng, 1.0)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Good: minus its distance to the goal. Adversary: that distance minus its own."""
    move(s, e, action)
    goal = FIRST_LANDMARK + s.goal[e, 0]
    reward[e, GOOD] = -distance(s, e, GOOD, goal)
    reward[e, ADVERSARY] = distance(s, e, GOOD, goal) - distance(s, e, ADVERSARY, goal)
    return RUNNING


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Both: velocity, landmarks, the other. The good one also its goal and all colors."""
    last = FIRST_LANDMARK + LANDMARKS
    k = put_velocity(s, e, ADVERSARY, obs, ADVERSARY, 0)
    k = put_all_relative(s, e, FIRST_LANDMARK, last, -1, obs, ADVERSARY, k)
    put_relative(s, e, GOOD, obs, ADVERSARY, k)
    k = put_velocity(s, e, GOOD, obs, GOOD, 0)
    k = put_relative(s, e, FIRST_LANDMARK + s.goal[e, 0], obs, GOOD, k)
    for color in range(3):
        obs[e, GOOD, k + color] = 0.75 if color == s.goal[e, 0] + 1 else 0.25
    k = put_all_relative(s, e, FIRST_LANDMARK, last, -1, obs, GOOD, k + 3)
    for m in range(LANDMARKS):
        for color in range(3):
            obs[e, GOOD, k + 3 * m + color] = 0.9 if color == m + 1 else 0.1
    put_relative(s, e, ADVERSARY, obs, GOOD, k + 3 * LANDMARKS)


class Push(ParticleWorld, name="push_v0"):
    """One adversary, one good agent, two landmarks; bodies push each other."""

    kernels = Kernels(reset, step, observe)

    def __init__(
        self,
        max_cycles: int = 25,
        continuous_actions: bool = False,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
        benchmark_data: bool = False,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        super().__init__(
            agents={"adversary_0": Body(), "agent_0": Body()},
            landmarks=[Body(collide=False, moves=False)] * LANDMARKS,
            obs_widths=[8, 19],
            words=2,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
        )

    def colors(self, s: Particles, e: int) -> list[tuple[int, int, int]]:
        """The adversary red, the good agent in the color of its goal."""
        landmarks = [(26, 230, 26), (26, 26, 230)]
        return [(191, 64, 64), [(64, 191, 64), (64, 64, 191)][int(s.goal[e, 0])], *landmarks]
