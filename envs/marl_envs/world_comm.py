"""Predators with a talking leader hunt prey among food and forests that hide (twin of mpe2's simple_world_comm_v3)."""

from __future__ import annotations

import numpy as np

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, Kernels, kernel
from marl_envs.mpe import (
    Body,
    Particles,
    ParticleWorld,
    distance,
    move,
    outside,
    put_all_relative,
    put_message,
    put_nothing,
    put_position,
    put_relative,
    put_velocity,
    scatter,
    touches,
)

LEADER = 0
ADVERSARIES, FOOD, FORESTS = 0, 1, 2  # places in groups: number of adversaries, first food, first forest


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """Everybody and everything somewhere."""
    scatter(s, e, rng, 0.9)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Prey: -5 a touch, +2 a food, nearness to food, a fine for leaving. Adversaries: +5 a touch, nearness to prey."""
    move(s, e, action)
    num_agents, hunters = s.vel.shape[1], s.groups[ADVERSARIES]
    touched = 0.0
    for prey in range(hunters, num_agents):
        caught = 0.0
        for hunter in range(hunters):
            if touches(s, e, prey, hunter):
                caught += 1.0
        touched += caught
        gain = -5.0 * caught - 2.0 * outside(s.pos[e, prey, 0]) - 2.0 * outside(s.pos[e, prey, 1])
        least = np.inf
        for food in range(s.groups[FOOD], s.groups[FORESTS]):
            if touches(s, e, prey, food):
                gain += 2.0
            least = min(least, distance(s, e, prey, food))
        reward[e, prey] = gain - 0.05 * least
    for hunter in range(hunters):
        least = np.inf
        for prey in range(hunters, num_agents):
            least = min(least, distance(s, e, prey, hunter))
        reward[e, hunter] = 5.0 * touched - 0.1 * least
    return RUNNING


@kernel
def seen(s: Particles, e: int, i: int, other: int) -> bool:
    """Agents see each other in the open and within one forest; the leader sees all."""
    hidden = False
    for forest in range(s.groups[FORESTS], s.pos.shape[1]):
        mine, theirs = touches(s, e, i, forest), touches(s, e, other, forest)
        if mine and theirs:
            return True
        hidden |= mine or theirs
    return not hidden or i == LEADER


@kernel
def put_forests(s: Particles, e: int, obs: Array, i: int, k: int) -> int:
    """Write for each forest 1 if the agent is in it, else -1."""
    for forest in range(s.groups[FORESTS], s.pos.shape[1]):
        obs[e, i, k] = 1.0 if touches(s, e, i, forest) else -1.0
        k += 1
    return k


@kernel
def put_prey_velocities(s: Particles, e: int, obs: Array, i: int, k: int) -> int:
    """Write the velocities of the other prey, zeros for the unseen."""
    for n in range(s.groups[ADVERSARIES], s.vel.shape[1]):
        if n != i:
            if seen(s, e, i, n):
                k = put_velocity(s, e, n, obs, i, k)
            else:
                k = put_nothing(2, e, obs, i, k)
    return k


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Own velocity and position, landmarks, others in sight, prey velocities, forests; adversaries hear the leader."""
    num_agents, hunters = s.vel.shape[1], s.groups[ADVERSARIES]
    for i in range(num_agents):
        k = put_velocity(s, e, i, obs, i, 0)
        k = put_position(s, e, obs, i, k)
        k = put_all_relative(s, e, num_agents, s.pos.shape[1], -1, obs, i, k)
        for n in range(num_agents):
            if n != i:
                if seen(s, e, i, n):
                    k = put_relative(s, e, n, obs, i, k)
                else:
                    k = put_nothing(2, e, obs, i, k)
        if i < hunters:
            k = put_prey_velocities(s, e, obs, i, k)
            k = put_forests(s, e, obs, i, k)
            put_message(s, e, LEADER, obs, i, k)
        else:
            k = put_forests(s, e, obs, i, k)
            put_prey_velocities(s, e, obs, i, k)


class WorldComm(ParticleWorld, name="world_comm_v0"):
    """Tag with food, forests and a leader that sees all and speaks four words to the other adversaries."""

    kernels = Kernels(reset, step, observe)

    def __init__(
        self,
        num_good: int = 2,
        num_adversaries: int = 4,
        num_obstacles: int = 1,
        num_food: int = 2,
        max_cycles: int = 25,
        num_forests: int = 2,
        continuous_actions: bool = False,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
        benchmark_data: bool = False,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        if num_good < 1 or num_adversaries < 1 or num_food < 1:
            raise ConfigError(
                f"world_comm needs prey, a leader and food, got {num_good=}, {num_adversaries=}, {num_food=}"
            )
        num_agents, num_landmarks = num_good + num_adversaries, num_obstacles + num_food + num_forests
        base = 4 + 2 * num_landmarks + 2 * (num_agents - 1) + num_forests
        hunter = Body(size=0.075, accel=3.0, max_speed=1.0)
        super().__init__(
            agents={
                "leadadversary_0": Body(size=0.075, accel=3.0, max_speed=1.0, talks=True),
                **{f"adversary_{n}": hunter for n in range(num_adversaries - 1)},
                **{f"agent_{n}": Body(size=0.045, accel=4.0, max_speed=1.3) for n in range(num_good)},
            },
            landmarks=[
                *[Body(size=0.2, moves=False)] * num_obstacles,
                *[Body(size=0.03, collide=False, moves=False)] * num_food,
                *[Body(size=0.3, collide=False, moves=False)] * num_forests,
            ],
            obs_widths=[base + 2 * num_good + 4] * num_adversaries + [base + 2 * (num_good - 1)] * num_good,
            words=4,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
            groups=[num_adversaries, num_agents + num_obstacles, num_agents + num_obstacles + num_food],
        )
        last = base + 2 * num_good + 3
        self.message_entries = tuple(
            f"adversary_{n}<leadadversary_0:{last - 3}-{last}" for n in range(num_adversaries - 1)
        )
        self._colors = (
            [(166, 38, 38)] + [(242, 115, 115)] * (num_adversaries - 1) + [(115, 242, 115)] * num_good
            + [(64, 64, 64)] * num_obstacles + [(38, 38, 166)] * num_food + [(153, 230, 153)] * num_forests
        )  # fmt: skip

    def benchmark(self, s: Particles, e: int, n: int) -> int:
        """How many good agents an adversary touches."""
        hunters = int(s.groups[ADVERSARIES])
        return sum(bool(touches(s, e, n, prey)) for prey in range(hunters, self._num_agents)) if n < hunters else 0

    def colors(self, s: Particles, e: int) -> list[tuple[int, int, int]]:
        """The leader dark red, adversaries red, prey green, food blue, forests pale green."""
        return self._colors
