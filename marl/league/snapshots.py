"""Self-play against a pool of earlier policies: snapshots at intervals, and matchmaking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from marl.config import config, setting, unknown
from marl.grid.credit import Credit
from marl.league.members import SideKind, sides_of
from marl.league.ratings import RatingName
from marl.league.state import LeagueContext, LeagueState, Opponents
from marl.learners import LearnerConfig
from marl.schedules import Clock
from marl.types import Array, ConfigError, Episode, Spec


@config
class League:
    """Self-play against the current opponents and against frozen snapshots of earlier policies.

    In every copy and episode either all sides are played by their learners (``latest``), or one side is, in turn, and
    members of the pool play the others. Learners learn from what they play themselves and from nothing else.
    """

    between: SideKind = setting("teams", "who plays whom: 'teams', or 'agents' of one team that share a learner")
    learn: str = setting("all", "who learns: 'all', 'alternate', or the one side of that name")
    swap_every: int | None = setting(
        None, "environment steps after which 'alternate' lets the next side learn", least=1
    )
    snapshot_every: int | None = setting(50_000, "environment steps between snapshots; None: take none", least=1)
    window: int = setting(20, "how many snapshots of each team are kept, the newest", least=1)
    matchmaking: str = setting(
        "uniform",
        "'latest', 'uniform', 'pfsp' (who beats us), 'pfsp_even' (who is as strong as we are; Vinyals et al. 2019)",
        one_of=("latest", "uniform", "pfsp", "pfsp_even"),
    )
    hardness: float = setting(2.0, "the p of 'pfsp': drawn in proportion to (1 - share of games won) ** p", above=0)
    latest: float = setting(0.5, "the share of episodes against the opponent as it is now", least=0, most=1)
    opponents: Opponents = setting(
        (),
        "in the pool for good: learners such as marl.Fixed(0), paths of checkpoints or runs, systems; or lists by team",
    )
    greedy: bool = setting(False, "members of the pool take their most likely action instead of sampling")
    rating: RatingName = setting("elo", "'elo', or 'openskill' for ratings with uncertainty")
    winner: Callable[[Episode], str | None] | None = setting(
        None, "the side that won an episode, None if nobody did; None: whose agents' mean return is higher"
    )

    def check(self, spec: Spec, agents: Mapping[str, LearnerConfig]) -> None:
        """Refuse what has no meaning in a game. Raises ConfigError."""
        sides = sides_of(spec, self.between)
        names = [side.name for side in sides]
        if self.learn not in ("all", "alternate", *names):
            raise ConfigError(unknown("League.learn", self.learn, ["all", "alternate", *names], "side"))
        if (self.learn == "alternate") != (self.swap_every is not None):
            raise ConfigError("League: learn='alternate' and swap_every=STEPS go together; give both or neither")
        if self.between == "agents":
            refuse_shared_credit(agents)
            if self.learn == "alternate":
                raise ConfigError(
                    "League: learn='alternate' with between='agents': they share one learner; leave learn out"
                )
            if self.learn != "all" and self.latest_share > 0:
                raise ConfigError(
                    f"League: learn={self.learn!r} with between='agents' means a learner that plays nobody but the "
                    "pool: set latest=0 and a matchmaking other than 'latest'"
                )

    @property
    def latest_share(self) -> float:
        """The share of episodes against the opponent as it is now."""
        return 1.0 if self.matchmaking == "latest" else self.latest

    def build(self, context: LeagueContext) -> LeagueState:
        """Make it run."""
        return _Snapshots(self, context)


@runtime_checkable
class _Credited(Protocol):
    credit: Credit


def refuse_shared_credit(agents: Mapping[str, LearnerConfig]) -> None:
    """Refuse opponents that share a reward. Raises ConfigError."""
    for learner in agents.values():
        if isinstance(learner, _Credited) and learner.credit.shared:
            raise ConfigError(
                f"league: agents of one team that compete cannot share their reward, as credit="
                f"{type(learner.credit).__name__}() says; use credit=marl.Independent()"
            )


class _Snapshots(LeagueState):
    def __init__(self, settings: League, context: LeagueContext) -> None:
        super().__init__(
            context, settings.between, settings.opponents, settings.greedy, settings.rating, settings.winner
        )
        self.settings = settings
        self.next_snapshot = 0
        self.learned = [True for _ in self.spec.teams]  # since the last snapshot
        self.current: dict[int, int] = {}  # place of a team that does not learn: the member it plays as
        if settings.learn not in ("all", "alternate"):
            self.learning = [side.name for side in self.sides].index(settings.learn)
        if settings.latest_share < 1 and settings.snapshot_every is None:
            for number, side in enumerate(self.sides):
                if number != self.learning and not self.pool(side.place):
                    raise ConfigError(
                        f"League: the pool of {side.name!r} would be empty: give snapshot_every=STEPS or "
                        "opponents=[...], or latest=1"
                    )

    @property
    def latest(self) -> float:
        return self.settings.latest_share

    def weights(self, place: int) -> Array:
        pool = self.pool(place)
        beaten = np.array([member.beaten for member in pool])
        if self.settings.matchmaking == "pfsp":
            weight = (1 - beaten) ** self.settings.hardness
        elif self.settings.matchmaking == "pfsp_even":
            weight = beaten * (1 - beaten)
        else:
            weight = np.ones(len(beaten))
        weight = weight * np.array([member.share for member in pool])
        out: Array = weight / weight.sum()  # never 0: nobody's share of wins is ever quite 0 or 1
        return out

    def current_member(self, place: int) -> int:
        return self.current[place]

    def first(self, clock: Clock) -> None:
        if self.settings.learn == "alternate":
            self.learning = 0
        if self.learning is not None:
            self._hold(clock)
        self._grow(clock)

    def tick(self, clock: Clock) -> Sequence[int]:
        for place in range(len(self.spec.teams)):
            self.learned[place] |= self.learns(place)
        self._grow(clock)
        every = self.settings.swap_every
        if every is not None:
            due = clock.steps // every % len(self.sides)
            if due != self.learning:
                self.learning = due
                self._hold(clock)
        return ()

    def _grow(self, clock: Clock) -> None:
        """Take the snapshots that are due, of teams that have learnt since their last one; drop the oldest."""
        every = self.settings.snapshot_every
        if every is None or clock.steps < self.next_snapshot:
            return
        self.next_snapshot = (clock.steps // every + 1) * every
        for place in range(len(self.spec.teams)):
            if self.learned[place]:
                self.learned[place] = False
                self.snapshot(place, f"step {clock.steps}")
                taken = [member for member in self.pool(place) if not member.lasting]
                for old in taken[: -self.settings.window]:
                    old.pooled = False
        self._sweep(self.current.values())

    def _hold(self, clock: Clock) -> None:
        """Freeze the teams that do not learn now until they learn again."""
        learner = None if self.learning is None else self.sides[self.learning].place
        for place in range(len(self.spec.teams)):
            if place == learner:
                self.current.pop(place, None)
            elif place not in self.current:
                self.current[place] = self.snapshot(place, f"step {clock.steps}", pooled=False).uid
        self._sweep(self.current.values())

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "next_snapshot": self.next_snapshot,
            "learned": list(self.learned),
            "current": [[place, uid] for place, uid in self.current.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.next_snapshot = int(state["next_snapshot"])
        self.learned = [bool(x) for x in state["learned"]]
        self.current = {int(place): int(uid) for place, uid in state["current"]}
