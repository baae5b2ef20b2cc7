"""Slow adversaries hunt fast good agents around obstacles: predator and prey (twin of mpe2's simple_tag_v3)."""

from __future__ import annotations

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel
from marl_envs.mpe import (
    Body,
    Particles,
    ParticleWorld,
    move,
    outside,
    put_all_relative,
    put_nothing,
    put_position,
    put_velocity,
    scatter,
    slots,
    touches,
)
from marl_envs.world import Parameter

PREY_SPEED, STOP = 0, 1  # columns of the task
ADVERSARIES = 0  # place in groups
PREY_ACCEL, PREY_MAX_SPEED = 4.0, 1.3
STAGES = (0.5, 0.75, 1.0)  # prey speed in the stages of the curriculum


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """Everybody and everything somewhere; prey as fast as the task says."""
    for n in range(s.groups[ADVERSARIES], s.vel.shape[1]):
        s.drive[e, n, 0] = PREY_ACCEL * task[e, PREY_SPEED]
        s.drive[e, n, 1] = PREY_MAX_SPEED * task[e, PREY_SPEED]
    scatter(s, e, rng, 0.9)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Prey: -10 for each adversary that touches it, a fine for leaving. Adversaries: +10 for each touch by any."""
    move(s, e, action)
    num_agents, hunters = s.vel.shape[1], s.groups[ADVERSARIES]
    touched = 0.0
    all_caught = True
    for prey in range(hunters, num_agents):
        caught = 0.0
        for hunter in range(hunters):
            if touches(s, e, prey, hunter):
                caught += 1.0
        reward[e, prey] = -10.0 * caught - outside(s.pos[e, prey, 0]) - outside(s.pos[e, prey, 1])
        touched += caught
        all_caught &= caught > 0.0
    for hunter in range(hunters):
        reward[e, hunter] = 10.0 * touched
    return TERMINATED if task[e, STOP] > 0.0 and all_caught else RUNNING


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Own velocity and position, obstacles, other agents, velocities of the prey among them."""
    num_agents, hunters = s.vel.shape[1], s.groups[ADVERSARIES]
    for i in range(num_agents):
        k = put_velocity(s, e, i, obs, i, 0)
        k = put_position(s, e, obs, i, k)
        k = put_all_relative(s, e, num_agents, s.pos.shape[1], s.near[1], obs, i, k)
        k = put_all_relative(s, e, 0, num_agents, s.near[0], obs, i, k)
        if s.near[0] < 0:
            for n in range(hunters, num_agents):
                if n != i:
                    k = put_velocity(s, e, n, obs, i, k)
        else:  # s.order still holds the others, nearest first
            for slot in range(s.near[0]):
                if slot < num_agents - 1 and s.order[slot] >= hunters:
                    k = put_velocity(s, e, s.order[slot], obs, i, k)
                else:
                    k = put_nothing(2, e, obs, i, k)


class Tag(ParticleWorld, name="tag_v0"):
    """Adversaries are slower and rewarded for touching; good agents are faster and fined for it.

    With ``curriculum`` the prey starts at half speed (stages 0.5, 0.75, 1; a new stage holds from the next reset).
    ``terminate_on_success`` ends the episode when all prey is touched at once. ``num_*_neighbors`` limit sight.
    """

    kernels = Kernels(reset, step, observe)
    _stage = 0

    def __init__(
        self,
        num_good: int = 1,
        num_adversaries: int = 3,
        num_obstacles: int = 2,
        max_cycles: int = 25,
        continuous_actions: bool = False,
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
        benchmark_data: bool = False,
        curriculum: bool = False,
        terminate_on_success: bool = False,
        num_agent_neighbors: int | None = None,
        num_landmark_neighbors: int | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        if num_good < 1 or num_adversaries < 1:
            raise ConfigError(f"tag needs at least one agent on each side, got {num_good=}, {num_adversaries=}")
        self.curriculum = curriculum
        num_agents = num_good + num_adversaries
        base = 4 + 2 * slots(num_obstacles, num_landmark_neighbors) + 2 * slots(num_agents - 1, num_agent_neighbors)
        hunter = base + 2 * slots(num_good, num_agent_neighbors)
        prey = base + 2 * slots(num_good - 1, num_agent_neighbors)
        super().__init__(
            agents={
                **{f"adversary_{n}": Body(size=0.075, accel=3.0, max_speed=1.0) for n in range(num_adversaries)},
                **{f"agent_{n}": Body(size=0.05, accel=PREY_ACCEL, max_speed=PREY_MAX_SPEED) for n in range(num_good)},
            },
            landmarks=[Body(size=0.2, moves=False)] * num_obstacles,
            obs_widths=[hunter] * num_adversaries + [prey] * num_good,
            words=2,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
            groups=[num_adversaries],
            num_agent_neighbors=num_agent_neighbors,
            num_landmark_neighbors=num_landmark_neighbors,
            tasks={
                "prey_speed": Parameter(0, 2, STAGES[0] if curriculum else 1.0),
                "terminate_on_success": Parameter(0, 1, terminate_on_success, integer=True),
            },
        )

    @property
    def curriculum_stage(self) -> int:
        """0, 1 or 2; means something with ``curriculum=True`` only."""
        return self._stage

    def set_curriculum_stage(self, stage: int) -> None:
        """Go to a stage; it holds from the next reset."""
        self._stage = max(0, min(stage, len(STAGES) - 1))
        if self.curriculum:
            self.core.pending[:, PREY_SPEED] = STAGES[self._stage]

    def advance_curriculum(self) -> None:
        """Go to the next stage, if there is one."""
        self.set_curriculum_stage(self._stage + 1)

    def benchmark(self, s: Particles, e: int, n: int) -> int:
        """How many good agents an adversary touches."""
        hunters = int(s.groups[ADVERSARIES])
        return sum(bool(touches(s, e, n, prey)) for prey in range(hunters, self._num_agents)) if n < hunters else 0

    def colors(self, s: Particles, e: int) -> list[tuple[int, int, int]]:
        """Adversaries red, prey green."""
        hunters = int(s.groups[ADVERSARIES])
        obstacles = len(self._bodies) - self._num_agents
        return [(217, 90, 90)] * hunters + [(90, 217, 90)] * (self._num_agents - hunters) + [(64, 64, 64)] * obstacles
