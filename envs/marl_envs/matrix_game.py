"""Matrix games: any payoff table, for any number of players, played once or again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from marl.types import Array, ConfigError
from marl_envs.kernel import RUNNING, TERMINATED, Kernels, kernel
from marl_envs.world import World

if TYPE_CHECKING:
    from marl_envs.draw import Canvas

CLIMBING = np.array([[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]])  # Claus and Boutilier 1998
PENALTY = np.array([[10.0, 0, -100], [0, 2, 0], [-100, 0, 10]])  # Claus and Boutilier 1998, k = -100
QTRAN = np.array([[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]])  # Son et al. 2019, not monotone
PRISONERS = np.array([[[-1.0, -3], [0, -2]], [[-1, 0], [-3, -2]]])  # cooperate, defect; a table for each player
ROCK_PAPER_SCISSORS = np.array([[[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], [[0, 1, -1], [-1, 0, 1], [1, -1, 0]]])


class State(NamedTuple):
    """What was played last (-1: nothing yet) and how often; flat payoffs and the number of actions of each player."""

    last: Array  # (E, N) int64
    played: Array  # (E,) int64
    payoff: Array  # (N, product of sizes)
    sizes: Array  # (N,) int64
    rounds: int


@kernel
def reset(s: State, e: int, task: Array, rng: Array) -> None:
    """Nothing was played."""
    s.played[e] = 0
    for n in range(s.last.shape[1]):
        s.last[e, n] = -1


@kernel
def step(s: State, e: int, task: Array, rng: Array, action: Array, reward: Array) -> int:
    """Everybody gets their entry of the table."""
    cell = 0
    for n in range(s.last.shape[1]):
        cell = cell * s.sizes[n] + action[e, n]
        s.last[e, n] = action[e, n]
    for n in range(s.last.shape[1]):
        reward[e, n] = s.payoff[n, cell]
    s.played[e] += 1
    return TERMINATED if s.played[e] >= s.rounds else RUNNING


@kernel
def observe(s: State, e: int, task: Array, obs: Array) -> None:
    """A constant one, then what everybody played last, one-hot."""
    for i in range(s.last.shape[1]):
        obs[e, i, 0] = 1.0
        k = 1
        for n in range(s.last.shape[1]):
            for choice in range(s.sizes[n]):
                obs[e, i, k] = 1.0 if choice == s.last[e, n] else 0.0
                k += 1


class MatrixGame(World, name="matrix_game_v0"):
    """``payoff`` of shape ``(A_1, .., A_N)`` is shared by all N players, of shape ``(N, A_1, .., A_N)`` gives each
    their own.

    An episode is ``rounds`` games and then ends for good (terminated). Players are ``agent_0 ..``.
    """

    kernels = Kernels(reset, step, observe)
    shared = ("payoff", "sizes")

    def __init__(
        self,
        payoff: Array | Sequence[Any] = CLIMBING,
        rounds: int = 1,
        shared: bool | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Create the environment; the class documents the arguments."""
        table = np.asarray(payoff, dtype=np.float64)
        if shared is None:  # one axis per player, or one more with the players first
            shared = not (table.ndim >= 2 and table.shape[0] == table.ndim - 1)
        if shared:
            table = np.broadcast_to(table, (table.ndim, *table.shape))
        sizes = table.shape[1:]
        if table.ndim < 2 or table.shape[0] != len(sizes) or not np.all(np.isfinite(table)) or rounds < 1:
            raise ConfigError(
                "matrix game: expected a finite payoff of shape (A_1, .., A_N), shared, or (N, A_1, .., A_N), "
                f"and at least one round; got shape {np.shape(payoff)}, {rounds=}"
            )
        self.payoff, self.rounds = table, rounds
        names = [f"agent_{n}" for n in range(len(sizes))]
        super().__init__(
            observation_spaces={name: Box(0, 1, (1 + sum(sizes),), np.float32) for name in names},
            action_spaces={name: Discrete(size) for name, size in zip(names, sizes, strict=True)},
            max_cycles=rounds,
            render_mode=render_mode,
        )

    def allocate(self, num_envs: int) -> State:
        """Arrays of all copies."""
        players = len(self.possible_agents)
        return State(
            np.full((num_envs, players), -1),
            np.zeros(num_envs, dtype=np.int64),
            np.ascontiguousarray(self.payoff.reshape(players, -1)),
            np.array(self.payoff.shape[1:], dtype=np.int64),
            self.rounds,
        )

    def ranges(self) -> Mapping[str, tuple[Any, Any]]:
        """Actions and rounds."""
        return {"last": (-1, np.array(self.payoff.shape[1:]) - 1), "played": (0, self.rounds)}

    def draw(self, canvas: Canvas, s: State, e: int) -> None:
        """What was played last."""
        for agent, choice in zip(self.possible_agents, s.last[e].tolist(), strict=True):
            canvas.text(f"{agent}: {'-' if choice < 0 else choice}")
