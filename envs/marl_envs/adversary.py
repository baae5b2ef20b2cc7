"""N good agents reach a goal that one adversary must find out by watching them (twin of mpe2's simple_adversary_v3)."""

from __future__ import annotations

import numpy as np

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
    scatter,
    slots,
    squared,
)


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """A goal among N landmarks."""
    s.goal[e, 0] = integers(rng, e, s.vel.shape[1] - 1)
    scatter(s, e, rng, 1.0)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Good: the adversary's distance to the goal minus their best one's. Adversary: minus its own."""
    move(s, e, action)
    num_agents = s.vel.shape[1]
    goal = num_agents + s.goal[e, 0]
    away = distance(s, e, 0, goal)
    least = np.inf
    for n in range(1, num_agents):
        least = min(least, distance(s, e, n, goal))
    reward[e, 0] = -away
    for n in range(1, num_agents):
        reward[e, n] = away - least
    return RUNNING


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Landmarks and other agents; the good ones see first where the goal is."""
    num_agents = s.vel.shape[1]
    for i in range(num_agents):
        k = 0
        if i > 0:
            k = put_relative(s, e, num_agents + s.goal[e, 0], obs, i, k)
        k = put_all_relative(s, e, num_agents, 2 * num_agents - 1, s.near[1], obs, i, k)
        put_all_relative(s, e, 0, num_agents, s.near[0], obs, i, k)


class Adversary(ParticleWorld, name="adversary_v0"):
    """One adversary, ``N`` good agents, ``N`` landmarks. ``num_*_neighbors`` limit sight to the nearest."""

    kernels = Kernels(reset, step, observe)

    def __init__(
        self,
        N: int = 2,
        max_cycles: int = 25,
        continuous_actions: bool = False,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
        benchmark_data: bool = False,
        num_agent_neighbors: int | None = None,
        num_landmark_neighbors: int | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        places = 2 * slots(N, num_landmark_neighbors) + 2 * slots(N, num_agent_neighbors)
        body = Body(size=0.15, collide=False)
        super().__init__(
            agents={"adversary_0": body, **{f"agent_{n}": body for n in range(N)}},
            landmarks=[Body(size=0.08, collide=False, moves=False)] * N,
            obs_widths=[places] + [places + 2] * N,
            words=2,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
            num_agent_neighbors=num_agent_neighbors,
            num_landmark_neighbors=num_landmark_neighbors,
        )

    def benchmark(self, s: Particles, e: int, n: int) -> float | tuple[float, ...]:
        """Squared distance to the goal; good agents: to every landmark, then to the goal."""
        first = self._num_agents
        to_goal = float(squared(s, e, n, first + s.goal[e, 0]))
        if n == 0:
            return to_goal
        return (*(float(squared(s, e, n, m)) for m in range(first, s.pos.shape[1])), to_goal)

    def colors(self, s: Particles, e: int) -> list[tuple[int, int, int]]:
        """The adversary red, the goal green."""
        good = self._num_agents - 1
        landmarks = [(38, 166, 38) if m == s.goal[e, 0] else (38, 38, 38) for m in range(good)]
        return [(217, 90, 90)] + [(90, 90, 217)] * good + landmarks
