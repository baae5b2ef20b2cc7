"""One agent walks to one landmark (twin of mpe2's simple_v3)."""

from __future__ import annotations

from marl.types import Array
from marl_envs.kernel import RUNNING, Kernels, kernel
from marl_envs.mpe import Body, Particles, ParticleWorld, move, put_relative, put_velocity, scatter, squared


@kernel
def reset(s: Particles, e: int, task: Array, rng: Array) -> None:
    """Agent and landmark somewhere in the square."""
    scatter(s, e, rng, 1.0)


@kernel
def step(s: Particles, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Minus the squared distance to the landmark."""
    move(s, e, action)
    reward[e, 0] = -squared(s, e, 0, 1)
    return RUNNING


@kernel
def observe(s: Particles, e: int, task: Array, obs: Array) -> None:
    """Own velocity, then where the landmark is."""
    put_relative(s, e, 1, obs, 0, put_velocity(s, e, 0, obs, 0, 0))


class Simple(ParticleWorld, name="simple_v0"):
    """One agent, one landmark: the smallest particle world."""

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
            agents={"agent_0": Body(collide=False)},
            landmarks=[Body(collide=False, moves=False)],
            obs_widths=[4],
            words=0,
            max_cycles=max_cycles,
            continuous_actions=continuous_actions,
            render_mode=render_mode,
            dynamic_rescaling=dynamic_rescaling,
            benchmark_data=benchmark_data,
        )
