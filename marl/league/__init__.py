"""Self-play and leagues: pools of frozen policies, matchmaking, ratings, payoff tables and equilibria."""

from marl.league.psro import PSRO
from marl.league.snapshots import League
from marl.league.state import LeagueContext, LeagueState
from marl.types import ConfigError

Leagues = League | PSRO

__all__ = ["PSRO", "League", "LeagueContext", "LeagueState", "Leagues", "checked_league"]


def checked_league(league: Leagues | None, steps: int | None = None) -> Leagues | None:
    """The league settings. Raises ConfigError for anything else, or for a training too short for them."""
    if league is not None and not isinstance(league, League | PSRO):
        raise ConfigError(f"league: expected marl.League(...) or marl.PSRO(...), got {league!r:.80}")
    if steps is None:
        return league
    if isinstance(league, PSRO) and league.response_steps > steps:
        raise ConfigError(
            f"PSRO.response_steps: the first best response is learnt after {league.response_steps:,} steps, and "
            f"training ends after {steps:,}: lower the one or raise the other"
        )
    if isinstance(league, League) and league.swap_every is not None and league.swap_every >= steps:
        raise ConfigError(
            f"League.swap_every: the second side would learn from step {league.swap_every:,} on, and training ends "
            f"after {steps:,}: lower the one or raise the other"
        )
    return league
