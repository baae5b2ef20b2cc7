"""A speaker that knows the goal but cannot move guides a listener that moves but does not know it
(simple_speaker_listener_v4)."""

from __future__ import annotations

from marl.types import Array
from marl_envs.kernel import RUNNING, Kernels, integers, kernel
from marl_envs.mpe import (
    Body,
    Particles,
    ParticleWorld,
    move,
    put_all_relative,
    put_message,
    put_velocity,
    scatter,
    squared,
)

SPEAKER, LISTENER, FIRST_LANDMARK, LANDMARKS = 0, 1, 2, 3


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """A goal among three landmarks."""
    s.goal[e, 0] = integers(rng, e, LANDMARKS)
    scatter(s, e, rng, 1.0)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Both get minus the squared distance of the listener to the goal."""
    move(s, e, action)
    shared = -squared(s, e, LISTENER, FIRST_LANDMARK + s.goal[e, 0])
    reward[e, SPEAKER] = shared
    reward[e, LISTENER] = shared
    return RUNNING


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """The speaker sees the goal's color; the listener its velocity, the landmarks and what was said."""
    for color in range(3):
        obs[e, SPEAKER, color] = 0.65 if color == s.goal[e, 0] else 0.15
    k = put_velocity(s, e, LISTENER, obs, LISTENER, 0)
    k = put_all_relative(s, e, FIRST_LANDMARK, FIRST_LANDMARK + LANDMARKS, -1, obs, LISTENER, k)
    put_message(s, e, SPEAKER, obs, LISTENER, k)


class SpeakerListener(ParticleWorld, name="speaker_listener_v0"):
    """Two agents, three landmarks of different colors, three words."""

    kernels = Kernels(reset, step, observe)
    message_entries = ("listener_0<speaker_0:8-10",)

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
            agents={
                "speaker_0": Body(size=0.075, collide=False, moves=False, talks=True),
                "listener_0": Body(size=0.075, collide=False),
            },
            landmarks=[Body(size=0.04, collide=False, moves=False)] * LANDMARKS,
            obs_widths=[3, 11],
            words=3,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
        )

    def benchmark(self, s: Particles, e: int, n: int) -> float:
        """The reward."""
        return -float(squared(s, e, LISTENER, FIRST_LANDMARK + s.goal[e, 0]))

    def colors(self, s: Particles, e: int) -> list[tuple[int, int, int]]:
        """Landmarks in the colors the speaker sees; the listener in the goal's."""
        landmarks = [(166, 38, 38), (38, 166, 38), (38, 38, 166)]
        goal = landmarks[int(s.goal[e, 0])]
        return [(64, 64, 64), (goal[0] + 89, goal[1] + 89, goal[2] + 89), *landmarks]
