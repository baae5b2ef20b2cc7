"""Cooperative navigation with a team whose size is a task: `Spread` in which only the first agents take part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from marl.types import Array
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel
from marl_envs.mpe import (
    Particles,
    move,
    put_all_relative,
    put_nothing,
    scatter,
    squared,
    touches,
)
from marl_envs.spread import BUMPS, CAPTURE_RADIUS, LOCAL_RATIO, STOP, Spread, put_self
from marl_envs.world import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

AGENTS = 3  # column of the task, after those of `Spread`
PARKED = 1e3  # where whoever takes no part is: too far to be touched, each at a place of its own


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """As `Spread` does, from the same draws; then those who take no part go away."""
    scatter(s, e, rng, 1.0)
    num_agents, count = s.vel.shape[1], int(task[e, AGENTS])
    for n in range(count, num_agents):
        for m in (n, num_agents + n):
            s.pos[e, m, 0] = PARKED * (1 + m)
            s.pos[e, m, 1] = PARKED


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """As in `Spread`, of the agents and landmarks that take part."""
    move(s, e, action)
    num_agents, count = s.vel.shape[1], int(task[e, AGENTS])
    covered = 0.0
    all_taken = True
    for landmark in range(num_agents, num_agents + count):
        least = np.inf
        for n in range(count):
            least = min(least, squared(s, e, n, landmark))
        covered -= np.sqrt(least)
        all_taken &= np.sqrt(least) < CAPTURE_RADIUS
    ratio = task[e, LOCAL_RATIO]
    for i in range(num_agents):
        reward[e, i] = covered * (1.0 - ratio) if i < count else 0.0
    if task[e, BUMPS] > 0.0:
        for i in range(count):
            for n in range(i + 1, count):
                if touches(s, e, i, n):
                    reward[e, i] -= ratio
                    reward[e, n] -= ratio
    return TERMINATED if task[e, STOP] > 0.0 and all_taken else RUNNING


@kernel
def acting(s: Particles, e: int, task: Array, out: Array) -> None:
    """Who takes part."""
    for n in range(out.shape[1]):
        out[e, n] = n < task[e, AGENTS]


@kernel
def info(s: Particles, e: int, task: Array, out: Array) -> None:
    """The share of landmarks with an agent on them, and how far the nearest agents are on average."""
    num_agents, count = s.vel.shape[1], int(task[e, AGENTS])
    taken, away = 0.0, 0.0
    for landmark in range(num_agents, num_agents + count):
        least = np.inf
        for n in range(count):
            least = min(least, squared(s, e, n, landmark))
        away += np.sqrt(least)
        taken += 1.0 if np.sqrt(least) < s.size[0] else 0.0
    out[e, 0] = taken / count
    out[e, 1] = away / count


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """As in `Spread`; where nobody is left to be seen there are zeros."""
    num_agents, count = s.vel.shape[1], int(task[e, AGENTS])
    others = num_agents - 1 if s.near[0] < 0 else s.near[0]
    for i in range(count):
        k = put_self(s, e, i, obs)
        k = put_all_relative(s, e, num_agents, num_agents + count, s.near[1], obs, i, k)
        if s.near[1] < 0:
            k = put_nothing(2 * (num_agents - count), e, obs, i, k)
        k = put_all_relative(s, e, 0, count, s.near[0], obs, i, k)
        if s.near[0] < 0:
            k = put_nothing(2 * (num_agents - count), e, obs, i, k)
        put_nothing(2 * others, e, obs, i, k)


class GrowingSpread(Spread, name="growing_spread_v0"):
    """`Spread` with at most ``N`` agents and landmarks: the task ``agents`` says how many of them take part.

    With all of them it is `Spread`. The sight of an agent does not depend on the size of the team if
    ``num_agent_neighbors`` and ``num_landmark_neighbors`` limit it. Reported at an episode's end: ``success``, the
    share of landmarks with an agent on them, and ``away``, their mean distance from the nearest agent.
    """

    kernels = Kernels(reset, step, observe, acting=acting, info=info)
    info_names = ("success", "away")

    def __init__(self, N: int = 6, **kwargs: Any) -> None:
        """Create the environment; the class documents the arguments."""
        super().__init__(N, **kwargs)
        *own, (last, cycles) = self.task_space.items()
        self.task_space = dict([*own, ("agents", Parameter(1, N, N, integer=True)), (last, cycles)])

    def shown(self, s: Particles, e: int) -> Sequence[int]:
        """Those who take part."""
        count = int(self.core.task[e, AGENTS])
        return [*range(count), *range(self._num_agents, self._num_agents + count)]
