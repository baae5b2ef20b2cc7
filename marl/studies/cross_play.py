"""The games of a tournament: each ordered pair of systems is a match of its own, which depends on no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch

from marl.adapters.lifecycle import closing_batch
from marl.config import check_whole
from marl.curriculum.tasks import Task
from marl.league.matches import COPIES, play_matches
from marl.league.members import SideKind, sides_of
from marl.playing.team import Side, Strategy
from marl.system import MultiAgentSystem
from marl.types import Array, BatchEnv, ConfigError

TOURNAMENT = 0x7042  # seeds of games are spawned from (seed, TOURNAMENT, row, column)


@dataclass(frozen=True)
class Rules:
    """How a tournament is played.

    Args:
        sides: the two.
        games: of each match.
        seed: of all of them.
        device: where policies compute.
        task: that is played; None: the environment has none.
    """

    sides: tuple[Side, ...]
    games: int
    seed: int
    device: torch.device
    task: Task | None

    @classmethod
    def of(cls, systems: Mapping[str, MultiAgentSystem], games: int, between: SideKind | None, seed: int) -> Rules:
        """Those for some systems, in environments of the first one's kind.

        Raises:
            ConfigError: for fewer than two systems, games that have not two sides, or systems for different games.
        """
        check_whole("games", games, 1)
        if len(systems) < 2:
            raise ConfigError(f"tournament: expected at least two systems, got {len(systems)}")
        (first_name, first), *others = systems.items()
        for name, other in others:
            for ours, theirs in zip(first.spec.teams, other.spec.teams, strict=False):
                if (ours.agents, ours.obs, ours.action) != (theirs.agents, theirs.obs, theirs.action):
                    raise ConfigError(
                        f"tournament: {name} and {first_name} cannot meet: team {ours.name!r} differs in agents or "
                        "spaces"
                    )
            if len(first.spec.teams) != len(other.spec.teams):
                raise ConfigError(
                    f"tournament: {name} and {first_name} cannot meet: they have different numbers of teams"
                )
        return cls(two_sides("tournament", first, between), games, seed, first.device, first.target)

    @property
    def names(self) -> tuple[str, str]:
        """Of the two sides."""
        one, other = self.sides
        return one.name, other.name

    def opened(self, first: MultiAgentSystem) -> AbstractContextManager[BatchEnv]:
        """Environments for matches; they are closed with the context."""
        return closing_batch(first.environments.another(min(self.games, COPIES)))

    def play(self, env: BatchEnv, place: tuple[int, int], one: Sequence[Strategy], other: Sequence[Strategy]) -> Array:
        """The match of a place of the table: raw returns ``(games, 2)``; ``one`` plays the first side."""
        derived = np.random.SeedSequence([self.seed, TOURNAMENT, *place]).generate_state(1, np.uint32)
        seated = (one[self.sides[0].place], other[self.sides[1].place])
        return play_matches(env, self.sides, seated, self.games, int(derived[0]), self.device, self.task)


def pairs(players: int) -> list[tuple[int, int]]:
    """All ordered pairs of different players, by their places."""
    return list(permutations(range(players), 2))


def kind_of(system: MultiAgentSystem) -> SideKind:
    """What the sides of a system's game are: its teams, or the agents of its only team."""
    return "agents" if len(system.spec.teams) == 1 else "teams"


def two_sides(who: str, system: MultiAgentSystem, between: SideKind | None) -> tuple[Side, ...]:
    """The two sides of a system's game. Raises ConfigError where there are not two."""
    sides = sides_of(system.spec, between or kind_of(system))
    if len(sides) != 2:
        raise ConfigError(f"{who}: expected a game of two sides, {system.spec.env} has {len(sides)}")
    return sides


def frozen(system: MultiAgentSystem, greedy: bool) -> list[Strategy]:
    """What a system plays as it is now, for each team."""
    return [
        [(chance, one.with_greedy(greedy)) for chance, one in system.strategy(team.name)] for team in system.spec.teams
    ]
