"""Measures of an episode, and rules that end a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from marl.config import config, setting
from marl.types import ConfigError, Episode, Spec

Success = float | str | Callable[[Episode], bool] | None


@dataclass(frozen=True)
class TaskOutcome:
    """What a curriculum learns from one finished episode: ``values`` by name, and which choice of its own it was."""

    choice: int
    values: Mapping[str, float]


class Rule(Protocol):
    """A rule that ends a stage: the mean of ``measures`` over the last ``over`` episodes is at least ``at_least``."""

    measures: ClassVar[str]

    @property
    def at_least(self) -> float:
        """The threshold."""
        ...

    @property
    def over(self) -> int:
        """Episodes."""
        ...


@config
class SuccessRate:
    """The success rate of the last ``over`` episodes is at least ``at_least``."""

    at_least: float = setting(0.9, "the share of successes to reach", above=0, most=1)
    over: int = setting(100, "how many episodes the share is of", least=1)
    measures: ClassVar[str] = "success"


@config
class WinRate:
    """The win rate of the last ``over`` episodes is at least ``at_least``; a tie counts half."""

    at_least: float = setting(0.6, "the share of wins to reach", above=0, most=1)
    over: int = setting(100, "how many episodes the share is of", least=1)
    measures: ClassVar[str] = "win"


@config
class Rating:
    """The mean league rating of the last ``over`` episodes is at least ``at_least``."""

    at_least: float = setting(1200.0, "the rating to reach")
    over: int = setting(100, "how many episodes the mean is of", least=1)
    measures: ClassVar[str] = "rating"


@config
class Steps:
    """The stage has lasted ``at_least`` environment steps, all copies counted."""

    at_least: int = setting(100_000, "environment steps", least=1)
    over: int = setting(1, "has no meaning here", least=1, most=1)
    measures: ClassVar[str] = "steps"


def outcome_of(episode: Episode, spec: Spec, team: str | None, success: Success) -> dict[str, float]:
    """The measures of an episode, for one team or for all teams together."""
    sums = {each.name: sum(episode.returns[agent] for agent in each.agents) for each in spec.teams}
    total = sum(sums.values()) if team is None else sums[team]
    values = {"return": total}
    if callable(success):
        values["success"] = float(success(episode))
    elif isinstance(success, str):
        if success not in episode.info:
            raise ConfigError(
                f"curriculum: success={success!r}: expected a number of that name in the infos of an episode's last "
                f"step, got {', '.join(sorted(episode.info)) or 'none'}"
            )
        values["success"] = episode.info[success]
    elif success is not None:
        values["success"] = float(total >= success)
    elif "success" in episode.info:
        values["success"] = episode.info["success"]
    if team is not None and len(sums) > 1:
        best = max(value for name, value in sums.items() if name != team)
        values["win"] = 1.0 if total > best else 0.5 if total == best else 0.0
    for name in ("win", "rating"):  # where there is a league, it says
        said = episode.info.get(name if team is None else f"{name}/{team}")
        if said is not None:
            values[name] = said
    return values


def value_of(outcome: TaskOutcome, name: str) -> float:
    """One measure of an episode. Raises ConfigError if the environment or league does not report it."""
    if name in outcome.values:
        return outcome.values[name]
    missing = {
        "success": "the environment reports no success; say with success= what one is (a minimum return, the name of "
        "a number in the infos of an episode's last step, or a function of the episode), or measure returns instead "
        "(MeanReturn, measure='return')",
        "rating": "ratings are of a league, and there of one team: league=marl.League(...), curriculum={TEAM: ...}",
        "win": "winning needs two teams and a curriculum of one of them: curriculum={TEAM: ...}",
    }
    raise ConfigError(f"curriculum: {name} cannot be measured: {missing.get(name, 'nobody reports it')}")
