"""Names of teams: a setting for one team is given by the team's name or by its pattern."""

from __future__ import annotations

from collections.abc import Sequence

from marl.config import unknown
from marl.types import ConfigError, Spec


def team_named(key: str, spec: Spec, patterns: Sequence[str] | None, what: str) -> str:
    """The team's name, from its name or its pattern. Raises ConfigError for a team that there is not."""
    names = [team.name for team in spec.teams]
    names_of = {**dict(zip(patterns or (), names, strict=False)), **{name: name for name in names}}
    if key not in names_of:
        raise ConfigError(unknown(what, key, names_of, "team"))
    return names_of[key]
