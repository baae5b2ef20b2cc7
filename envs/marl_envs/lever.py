"""The lever game: a few of many pull a lever each and should all pull different ones (Sukhbaatar et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import TERMINATED, Kernels, integers, kernel
from marl_envs.world import Parameter, World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

POOL = 0  # column of the task


class State(NamedTuple):
    """Who was drawn, and which lever each pulled (-1: none yet)."""

    identity: Array  # (E, M) int64
    pulled: Array  # (E, M) int64


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Draw identities, all different, in any order."""
    pool = int(task[e, POOL])
    for n in range(s.identity.shape[1]):
        s.pulled[e, n] = -1
        taken = True
        while taken:
            s.identity[e, n] = integers(rng, e, pool)
            taken = False
            for m in range(n):
                taken |= s.identity[e, m] == s.identity[e, n]


@kernel
def distinct(s: State, e: int) -> int:
    """How many levers were pulled by anybody."""
    count = 0
    for n in range(s.pulled.shape[1]):
        first = True
        for m in range(n):
            first &= s.pulled[e, m] != s.pulled[e, n]
        count += 1 if first else 0
    return count


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Everybody gets the part of the levers that was pulled."""
    for n in range(s.pulled.shape[1]):
        s.pulled[e, n] = action[e, n]
    for n in range(s.pulled.shape[1]):
        reward[e, n] = distinct(s, e) / s.pulled.shape[1]
    return TERMINATED


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """Own identity, one-hot."""
    for i in range(obs.shape[1]):
        for k in range(obs.shape[2]):
            obs[e, i, k] = 0.0
        obs[e, i, s.identity[e, i]] = 1.0


@kernel
def info(s: State, e: int, task: Array, out: Array) -> None:
    """Whether all pulled different levers."""
    out[e, 0] = 1.0 if distinct(s, e) == s.pulled.shape[1] else 0.0


class Lever(World, name="lever_v0", render_fps=2):
    """Of ``pool`` identities ``num_agents`` are drawn; each sees its own alone and pulls one of ``num_agents`` levers.

    One step; everybody gets the number of different levers pulled, divided by ``num_agents``. Pulling at random that
    is ``1 - (1 - 1/m)^m``, .67232 for five. Identities that pull each lever equally often without talk reach
    ``1 - C(400, 5) / C(500, 5)``, .67397, of five among 500; nobody does better. A task with ``pool`` as small as the
    number of agents needs no talk.

    That holds for players who do not know their seat. ``agent_0 ..`` are seats: learners that share nothing, or are
    told their agent's number, need only pull the lever of that number. So use ``sharing="all", agent_id=False``.
    """

    kernels = Kernels(reset, step, observe, info=info)
    info_names = ("success",)

    def __init__(self, num_agents: int = 5, pool: int = 500, render_mode: str | None = None) -> None:
        """Create the environment; the class documents the arguments."""
        if not 2 <= num_agents <= pool:
            raise ConfigError(
                f"lever: expected at least two agents, and as many identities; got {num_agents=}, {pool=}"
            )
        names = [f"agent_{n}" for n in range(num_agents)]
        super().__init__(
            observation_spaces=dict.fromkeys(names, Box(0, 1, (pool,), np.float32)),
            action_spaces={name: Discrete(num_agents) for name in names},
            max_cycles=1,
            tasks={"pool": Parameter(num_agents, pool, pool, integer=True)},
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        rows = (num_envs, len(self.possible_agents))
        return State(np.zeros(rows, dtype=np.int64), np.full(rows, -1))

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Identities and levers."""
        pool = int(self.observation_spaces[self.possible_agents[0]].shape[0])
        return {"identity": (0, pool - 1), "pulled": (-1, len(self.possible_agents) - 1)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """Levers in a row, and who pulled which."""
        count = len(self.possible_agents)
        canvas.view(count / 2, ((count - 1) / 2, (count - 1) / 2))
        for lever in range(count):
            canvas.box((lever, -0.1), 0.3, 0.6, (64, 64, 64))
        for n, lever in enumerate(s.pulled[e].tolist()):
            if lever >= 0:
                canvas.circle((lever, 0.5 + n * (count - 1) / count), 0.3, (90, 90, 217))
        canvas.text(", ".join(f"number {identity}" for identity in s.identity[e].tolist()))
