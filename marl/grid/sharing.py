"""Parameter sharing: which agents of a team use the same parameters."""

from __future__ import annotations

from collections.abc import Mapping

from marl.types import ConfigError, TeamSpec, pattern_of

Sharing = str | Mapping[str, str]


def owner_index(sharing: Sharing, team: TeamSpec) -> tuple[int, ...]:
    """The parameter set of each agent of a team, numbered from 0 in order of appearance.

    Args:
        sharing: ``"none"`` (each agent its own), ``"all"`` (one set), ``"type"`` (agents with the same spaces and the
            same id before the trailing number), or a mapping from agent id patterns to group names.
        team: the team.

    Raises:
        ConfigError: for an unknown word, or an agent that no pattern of the mapping matches.
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
    else:
        raise ConfigError(
            f"sharing: expected 'none', 'all', 'type' or a mapping of agent patterns to groups, got {sharing!r}"
        )
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return tuple(order[key] for key in keys)


def _group(sharing: Mapping[str, str], agent: str, agents: tuple[str, ...]) -> str:
    pattern = pattern_of(agent, sharing, agents)
    if pattern is None:
        raise ConfigError(f"sharing: no pattern of {dict(sharing)} matches agent {agent!r}")
    return sharing[pattern]
