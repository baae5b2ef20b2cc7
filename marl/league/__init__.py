"""Self-play and leagues: pools of frozen policies, who meets whom, ratings, payoff tables and their equilibria."""

from marl.league.psro import PSRO
from marl.league.season import Season, Venue
from marl.league.snapshots import League
from marl.types import ConfigError

Leagues = League | PSRO

__all__ = ["PSRO", "League", "Leagues", "Season", "Venue", "checked"]


def checked(league: Leagues | None) -> Leagues | None:
    """The same. Raises ConfigError for what is no league."""
    if league is not None and not isinstance(league, League | PSRO):
        raise ConfigError(f"league: expected marl.League(...) or marl.PSRO(...), got {league!r:.80}")
    return league
