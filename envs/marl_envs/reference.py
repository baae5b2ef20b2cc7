"""Each of two agents knows the landmark that the other must reach, and both talk (twin of mpe2's
simple_reference_v3)."""

from __future__ import annotations

from marl.types import Array
from marl_envs.kernel import RUNNING, Kernels, integers, kernel
from marl_envs.mpe import (
    Body,
    Particles,
    ParticleWorld,
    distance,
    move,
    proportion,
    put_all_relative,
    put_message,
    put_velocity,
    scatter,
)
from marl_envs.world import Parameter

LOCAL_RATIO = 0  # column of the task
FIRST_LANDMARK, LANDMARKS = 2, 3


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """Two goals among three landmarks: ``goal[e, i]`` is what agent i knows and the other must reach."""
    s.goal[e, 0] = integers(rng, e, LANDMARKS)
    s.goal[e, 1] = integers(rng, e, LANDMARKS)
    scatter(s, e, rng, 1.0)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Own: minus the distance of the other to its goal. Shared: the mean of both."""
    move(s, e, action)
    first = -distance(s, e, 1, FIRST_LANDMARK + s.goal[e, 0])
    second = -distance(s, e, 0, FIRST_LANDMARK + s.goal[e, 1])
    ratio = task[e, LOCAL_RATIO]
    shared = 0.5 * (first + second) * (1.0 - ratio)
    reward[e, 0] = shared + first * ratio
    reward[e, 1] = shared + second * ratio
    return RUNNING


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Own velocity, landmarks, the color of the other's goal, what the other said."""
    for i in range(2):
        k = put_velocity(s, e, i, obs, i, 0)
        k = put_all_relative(s, e, FIRST_LANDMARK, FIRST_LANDMARK + LANDMARKS, -1, obs, i, k)
        for color in range(3):
            obs[e, i, k + color] = 0.75 if color == s.goal[e, i] else 0.25
        put_message(s, e, 1 - i, obs, i, k + 3)


class Reference(ParticleWorld, name="reference_v0"):
    """Two agents that move and talk (ten words) at once; ``local_ratio`` weighs own against shared reward."""

    kernels = Kernels(reset, step, observe)
    message_entries = ("agent_0<agent_1:11-20", "agent_1<agent_0:11-20")

    def __init__(
        self,
        local_ratio: float = 0.5,
        max_cycles: int = 25,
        continuous_actions: bool = False,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
        benchmark_data: bool = False,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        super().__init__(
            agents={f"agent_{n}": Body(collide=False, talks=True) for n in range(2)},
            landmarks=[Body(collide=False, moves=False)] * LANDMARKS,
            obs_widths=[21, 21],
            words=10,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
            tasks={"local_ratio": Parameter(0, 1, proportion("local_ratio", local_ratio))},
        )

    def colors(self, s: Particles, e: int) -> list[tuple[int, int, int]]:
        """Each agent in the color of its goal."""
        landmarks = [(191, 64, 64), (64, 191, 64), (64, 64, 191)]
        return [landmarks[int(s.goal[e, 1])], landmarks[int(s.goal[e, 0])], *landmarks]
