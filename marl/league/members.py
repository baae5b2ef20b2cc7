"""Sides of a game, and the members of a league's pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from marl.league.ratings import RatingState
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.playing.team import Policy, Side, team_sides
from marl.types import ConfigError, Spec

SideKind = Literal["teams", "agents"]
PolicyParts = tuple[AgentNet | None, Distribution]  # what makes a policy of a team


def sides_of(spec: Spec, between: SideKind) -> tuple[Side, ...]:
    """The sides of a game. Raises ConfigError where there are not two."""
    teams = spec.teams
    if len(spec.agents) < 2:
        raise ConfigError(f"league: {spec.env} has one agent, which has nobody to play against; leave league out")
    if between == "agents":
        if len(teams) > 1:
            raise ConfigError(
                f"league: between='agents' is for agents of one team, and {spec.env} has {len(teams)}; leave it out"
            )
        return tuple(Side(name, 0, (column,), (name,)) for column, name in enumerate(teams[0].agents))
    if len(teams) < 2:
        raise ConfigError(
            f"league: {spec.env} has one team, which has nobody to play against; give each side a learner of its own, "
            "agents={PATTERN: learner, ...}, or say between='agents' if agents of this team compete"
        )
    return team_sides(spec)


class Member(Policy):
    """A frozen policy of a pool, its results and its rating.

    wins and games count what learners scored against it, older games ever less; ``pooled``: may be drawn; ``share``:
    how much of a guest it is, who may be a mixture of several.
    """

    DECAY = 0.99  # of the count of games with each new one: learners change, and old results say less

    def __init__(
        self,
        uid: int,
        place: int,
        name: str,
        policy: PolicyParts,
        rating: RatingState,
        *,
        greedy: bool = False,
        pooled: bool = True,
        lasting: bool = False,
        share: float = 1.0,
    ) -> None:
        """``policy`` is a team's; ``greedy``: takes its most likely action; ``lasting``: no window forgets it."""
        super().__init__(*policy, greedy=greedy, name=name)
        self.uid, self.place, self.rating, self.share = uid, place, rating, share
        self.pooled, self.lasting = pooled, lasting
        self.wins = self.games = 0.0

    @property
    def beaten(self) -> float:
        """The learners' win rate against it; 0.5 before the first game."""
        return (self.wins + 0.5) / (self.games + 1.0)

    def record(self, score: float) -> None:
        """Record a learner's score against it: 1 won, 0.5 drawn, 0 lost."""
        self.wins = self.DECAY * self.wins + score
        self.games = self.DECAY * self.games + 1.0

    def state_dict(self) -> dict[str, Any]:
        """All of it but the network's structure."""
        plain = ("uid", "place", "name", "pooled", "lasting", "wins", "games")
        net = None if self.net is None or self.lasting else dict(self.net.state_dict())
        return {**{name: getattr(self, name) for name in plain}, "rating": list(self.rating), "net": net}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.wins, self.games, self.pooled = float(state["wins"]), float(state["games"]), bool(state["pooled"])
        self.rating = tuple(float(x) for x in state["rating"])
        if self.net is not None and state["net"] is not None:
            self.net.load_state_dict(state["net"])
