"""Cooperative navigation: N agents cover N landmarks without bumping into each other (twin of mpe2's
simple_spread_v3)."""

from __future__ import annotations

import numpy as np

from marl.types import Array
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel
from marl_envs.mpe import (
    Body,
    Particles,
    ParticleWorld,
    distance,
    move,
    proportion,
    put_all_relative,
    put_nothing,
    put_position,
    put_velocity,
    scatter,
    slots,
    squared,
    touches,
)
from marl_envs.world import Parameter

LOCAL_RATIO, BUMPS, STOP = 0, 1, 2  # columns of the task
VELOCITIES = 0  # place in groups: whether agents see their own
CAPTURE_RADIUS = 0.1


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """Everybody and everything somewhere in the square."""
    scatter(s, e, rng, 1.0)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Shared: minus the distance of each landmark to its nearest agent. Own: minus one for each agent touched."""
    move(s, e, action)
    num_agents = s.vel.shape[1]
    covered = 0.0
    all_taken = True
    for landmark in range(num_agents, 2 * num_agents):
        least = np.inf
        for n in range(num_agents):
            least = min(least, squared(s, e, n, landmark))
        covered -= np.sqrt(least)
        all_taken &= np.sqrt(least) < CAPTURE_RADIUS
    ratio = task[e, LOCAL_RATIO]
    for i in range(num_agents):
        reward[e, i] = covered * (1.0 - ratio)
    if task[e, BUMPS] > 0.0:
        for i in range(num_agents):
            for n in range(i + 1, num_agents):
                if touches(s, e, i, n):
                    reward[e, i] -= ratio
                    reward[e, n] -= ratio
    return TERMINATED if task[e, STOP] > 0.0 and all_taken else RUNNING


@kernel
def put_self(s: Particles, e: int, i: int, obs: Array) -> int:
    """Write the velocity of agent ``i``, unless it is hidden, and its position into its own observation."""
    k = 0
    if s.groups[VELOCITIES] > 0:
        k = put_velocity(s, e, i, obs, i, 0)
    return put_position(s, e, obs, i, k)  # type: ignore[no-any-return]


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Own velocity and position, landmarks, other agents, and room for messages that nobody sends."""
    num_agents = s.vel.shape[1]
    others = num_agents - 1 if s.near[0] < 0 else s.near[0]
    for i in range(num_agents):
        k = put_self(s, e, i, obs)
        k = put_all_relative(s, e, num_agents, 2 * num_agents, s.near[1], obs, i, k)
        k = put_all_relative(s, e, 0, num_agents, s.near[0], obs, i, k)
        put_nothing(2 * others, e, obs, i, k)


class Spread(ParticleWorld, name="spread_v0"):
    """N agents, N landmarks. ``local_ratio`` weighs bumping against covering.

    With ``curriculum`` stage 0 has no bumping penalty and stage 1 has it. ``terminate_on_success`` ends the episode
    once every
    landmark is covered. ``num_agent_neighbors`` and ``num_landmark_neighbors`` limit sight to the nearest.
    Without ``velocities`` agents do not see how fast they are, and need a memory to know.
    """

    kernels = Kernels(reset, step, observe)

    def __init__(
        self,
        N: int = 3,
        local_ratio: float = 0.5,
        max_cycles: int = 25,
        continuous_actions: bool = False,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
        benchmark_data: bool = False,
        curriculum: bool = False,
        terminate_on_success: bool = False,
        num_agent_neighbors: int | None = None,
        num_landmark_neighbors: int | None = None,
        velocities: bool = True,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        self.curriculum = curriculum
        places = slots(N - 1, num_agent_neighbors)
        super().__init__(
            agents={f"agent_{n}": Body(size=0.15) for n in range(N)},
            landmarks=[Body(collide=False, moves=False)] * N,
            obs_widths=[2 + 2 * velocities + 2 * slots(N, num_landmark_neighbors) + 4 * places] * N,
            words=2,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
            groups=[velocities],
            num_agent_neighbors=num_agent_neighbors,
            num_landmark_neighbors=num_landmark_neighbors,
            tasks={
                "local_ratio": Parameter(0, 1, proportion("local_ratio", local_ratio)),
                "bumps": Parameter(0, 1, 0 if curriculum else 1, integer=True),
                "terminate_on_success": Parameter(0, 1, terminate_on_success, integer=True),
            },
        )

    @property
    def curriculum_stage(self) -> int:
        """0: bumping costs nothing; 1: it does. Means something with ``curriculum=True`` only."""
        return self._stage

    _stage = 0

    def set_curriculum_stage(self, stage: int) -> None:
        """Go to a stage, at once."""
        self._stage = max(0, min(stage, 1))
        if self.curriculum:
            for tasks in (self.core.task, self.core.pending):
                tasks[:, BUMPS] = self._stage

    def advance_curriculum(self) -> None:
        """Go to the next stage, if there is one."""
        self.set_curriculum_stage(self._stage + 1)

    def benchmark(self, s: Particles, e: int, n: int) -> tuple[float, int, float, int]:
        """Reward, bumps, summed distances of landmarks to their nearest agents, covered landmarks."""
        agents, landmarks = s.pos[e, : self._num_agents], s.pos[e, self._num_agents :]
        least = np.linalg.norm(agents[:, None] - landmarks, axis=-1).min(axis=0)
        bumps = sum(bool(distance(s, e, n, other) < 0.3) for other in range(self._num_agents) if other != n)
        return float(-least.sum()) - bumps, bumps, float(least.sum()), int((least < CAPTURE_RADIUS).sum())
