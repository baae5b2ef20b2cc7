"""Parameter sharing: which agents of a team use the same parameters."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from marl.types import ConfigError, TeamSpec, pattern_of


@runtime_checkable
class Sharing(Protocol):
    """A choice of parameter sharing of your own: a frozen dataclass."""

    def owner_index(self, team: TeamSpec) -> Sequence[int]:
        """A number for each agent of a team, ``N`` of them; agents of the same number use the same parameters."""
        ...


SharingLike = str | Mapping[str, str] | Sharing


def owner_index(sharing: SharingLike, team: TeamSpec) -> tuple[int, ...]:
    """The parameter set of each agent of a team, numbered from 0 in order of appearance.

    Args:
        sharing: ``"none"`` (each agent its own), ``"all"`` (one set), ``"type"`` (agents with the same spaces and the
            same id before the trailing number), a mapping from agent id patterns to group names, or a
            :class:`Sharing`.
        team: the team.

    Raises:
        ConfigError: for an unknown word, an agent that no pattern of the mapping matches, or a :class:`Sharing` that
            does not give one whole number for each agent.
    """
    if isinstance(sharing, Mapping):
        keys: list[object] = [_group(sharing, agent, team.agents) for agent in team.agents]
    elif sharing == "none":
        keys = list(team.agents)
    elif sharing == "all":
        keys = ["all"] * team.num_agents
    elif sharing == "type":
        spaces = zip(team.agents, team.observation_spaces, team.action_spaces, strict=True)
        keys = [(agent.rstrip("0123456789"), str(observation), str(action)) for agent, observation, action in spaces]
    elif isinstance(sharing, Sharing):
        keys = _numbers(sharing, team)
    else:
        raise ConfigError(
            "sharing: expected 'none', 'all', 'type', a mapping of agent patterns to groups or an object with "
            f"owner_index(team), got {sharing!r}"
        )
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return tuple(order[key] for key in keys)


def _group(sharing: Mapping[str, str], agent: str, agents: tuple[str, ...]) -> str:
    pattern = pattern_of(agent, sharing, agents)
    if pattern is None:
        raise ConfigError(f"sharing: no pattern of {dict(sharing)} matches agent {agent!r}")
    return sharing[pattern]


def _numbers(sharing: Sharing, team: TeamSpec) -> list[object]:
    given = sharing.owner_index(team)
    try:
        numbers: list[object] = [operator.index(number) for number in given]
    except TypeError:
        numbers = []
    if len(numbers) != team.num_agents:
        raise ConfigError(
            f"{type(sharing).__name__}.owner_index on team {team.name!r}: expected {team.num_agents} whole numbers, "
            f"one for each agent, got {given!r}"
        )
    return numbers
