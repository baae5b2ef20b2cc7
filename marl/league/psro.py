"""Policy-space response oracles: best responses to a mixture of the policies so far, again and again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marl.adapters.lifecycle import closing_batch
from marl.config import config, setting
from marl.league.matches import COPIES, play_matches
from marl.league.members import Member, SideKind, sides_of
from marl.league.meta import Solver, nash_conv, optimization, solve
from marl.league.ratings import RatingName
from marl.league.snapshots import refuse_shared_credit
from marl.league.state import LeagueContext, LeagueState, Opponents
from marl.learners import LearnerConfig
from marl.schedules import Clock
from marl.types import Array, ConfigError, Spec


@config
class PSRO:
    """Iterated best responses by whatever learners there are (Lanctot et al. 2017).

    Every ``response_steps`` each learner's policy joins its team's pool, games between all members fill a payoff table,
    the meta-solver mixes each pool, and the learners begin anew, each against the other side's mixture. The mixture is
    the result: ``system.league_state.strategy(team)``.
    """

    response_steps: int = setting(20_000, "environment steps in which a best response is learnt", least=1)
    meta_solver: Solver = setting("nash", "'nash' (zero-sum games), 'prd' (projected replicator dynamics) or 'uniform'")
    games: int = setting(1_000, "games that each entry of the payoff table is the mean of", least=1)
    greedy: bool = setting(True, "members take their most likely action, as best responses may; False: they sample")
    fresh: bool = setting(True, "every best response begins from new parameters; False: from the one before")
    between: SideKind = setting("teams", "who plays whom: 'teams', or 'agents' of one team that share a learner")
    opponents: Opponents = setting(
        (), "in the pool from the beginning: learners such as marl.Fixed(0), paths of checkpoints or runs, systems"
    )
    rating: RatingName = setting("elo", "'elo', or 'openskill' for ratings with uncertainty")

    def check(self, spec: Spec, agents: Mapping[str, LearnerConfig]) -> None:
        """Refuse games of more or fewer than two sides. Raises ConfigError."""
        sides = sides_of(spec, self.between)
        if len(sides) != 2:
            raise ConfigError(f"PSRO: expected a game of two sides, {spec.env} has {len(sides)}; use marl.League")
        if self.between == "agents":
            refuse_shared_credit(agents)
        if self.meta_solver == "nash":
            optimization()

    def build(self, context: LeagueContext) -> LeagueState:
        """Make it run."""
        return Responses(self, context)


class Responses(LeagueState):
    """The state of a PSRO run: pools, payoff table, mixtures."""

    def __init__(self, settings: PSRO, context: LeagueContext) -> None:
        """Build the pools, the empty payoff table and the streams."""
        super().__init__(context, settings.between, settings.opponents, settings.greedy, settings.rating)
        self.settings = settings
        self.places = [side.place for side in self.sides]  # the two sides may draw from one pool
        self.paid: dict[tuple[int, int], tuple[float, float]] = {}  # mean returns of the members on sides one and two
        self.errors: dict[tuple[int, int], tuple[float, float]] = {}  # standard errors of these means, over games
        self.mixture: dict[int, Array] = {}
        self.iteration = 0
        self.gain = 0.0
        self.warned = False

    @property
    def latest(self) -> float:
        """0: learners play against the mixture only."""
        return 0.0

    def weights(self, place: int) -> Array:
        """The meta-strategy."""
        return self.mixture[place]

    def strategy(self, team: str) -> list[tuple[float, Member]]:
        """A team's mixture without members of probability 0; empty before training began."""
        place = next(place for place, one in enumerate(self.spec.teams) if one.name == team)
        if place not in self.mixture:
            return []
        mixed = zip(self.mixture[place].tolist(), self.pool(place), strict=True)
        return [(chance, member) for chance, member in mixed if chance > 0]

    def payoffs(self) -> tuple[Array, Array]:
        """Mean returns of the sides, ``(I, J)`` each; with one pool for both, the means over both seatings."""
        rows, columns = (self.pool(place) for place in self.places)
        tables = np.array([[self.paid[one.uid, other.uid] for other in columns] for one in rows])  # (I, J, 2)
        first, second = tables[..., 0], tables[..., 1]
        if self.places[0] == self.places[1]:
            first = (first + second.T) / 2
            second = first.T
        return first, second

    def first(self, clock: Clock) -> None:
        """Add the untrained policies and the invited opponents."""
        self._respond()

    def tick(self, clock: Clock) -> Sequence[int]:
        """Begin the next iteration, if it is due."""
        if clock.steps < (self.iteration + 1) * self.settings.response_steps:
            return ()
        self.iteration = clock.steps // self.settings.response_steps
        self._respond()
        return self.restart(range(len(self.spec.teams))) if self.settings.fresh else ()

    def _respond(self) -> None:
        """New members, their row and column of the table, new mixtures."""
        before = [self.mixture.get(place) for place in self.places]
        for place in range(len(self.spec.teams)):
            self.snapshot(place, f"response {self.iteration}")
        self._play()
        payoffs = self.payoffs()
        if self.settings.meta_solver == "nash" and not self.warned:
            self.warned = _warn_unless_zero_sum(*payoffs)
        if before[0] is not None and before[1] is not None:
            # Of the table as it is now: what the responses gain on the mixtures that they were learnt against.
            self.gain = nash_conv(payoffs, np.append(before[0], 0.0), np.append(before[1], 0.0))
        self.mixture = dict(zip(self.places, solve(payoffs, self.settings.meta_solver), strict=True))

    def _play(self) -> None:
        """Play the missing entries of the payoff table."""
        rows, columns = (self.pool(place) for place in self.places)
        missing = [(one, other) for one in rows for other in columns if (one.uid, other.uid) not in self.paid]
        with closing_batch(self.context.make_env(min(self.settings.games, COPIES))) as env:
            for one, other in missing:
                seed = int(self.random.integers(2**32))
                returns = play_matches(
                    env,
                    self.sides,
                    ([(1.0, one)], [(1.0, other)]),
                    self.settings.games,
                    seed,
                    self.context.device,
                    self.context.task,
                )
                first, second = returns.mean(axis=0).tolist()
                self.paid[one.uid, other.uid] = (first, second)
                first, second = (returns.std(axis=0) / np.sqrt(len(returns))).tolist()
                self.errors[one.uid, other.uid] = (first, second)

    def metrics(self) -> dict[str, float]:
        """Also the iteration, and what its responses could gain on the mixtures before: an estimate of NashConv."""
        return super().metrics() | {"league/iteration": self.iteration, "league/gain": self.gain}

    def state_dict(self) -> dict[str, Any]:
        """Also the table and the mixtures."""
        return super().state_dict() | {
            "paid": [[*pair, *paid] for pair, paid in self.paid.items()],
            "errors": [[*pair, *error] for pair, error in self.errors.items()],
            "mixture": [[place, mixture] for place, mixture in self.mixture.items()],
            "iteration": self.iteration,
            "gain": self.gain,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        super().load_state_dict(state)
        self.paid = {(int(a), int(b)): (float(x), float(y)) for a, b, x, y in state["paid"]}
        self.errors = {(int(a), int(b)): (float(x), float(y)) for a, b, x, y in state.get("errors", [])}
        self.mixture = {int(place): np.asarray(mixture) for place, mixture in state["mixture"]}
        self.iteration, self.gain = int(state["iteration"]), float(state["gain"])


def _warn_unless_zero_sum(first: Array, second: Array) -> bool:
    """Warn if the payoffs of the two sides do not add up to a constant; returns whether it warned."""
    total = first + second
    if np.ptp(total) <= 1e-6 * max(1.0, float(np.abs(first).max()), float(np.abs(second).max())):
        return False
    logging.getLogger("marl.league").warning(
        "PSRO: the sides' returns do not add up to a constant, and meta_solver='nash' solves the zero-sum game of "
        "their difference; meta_solver='prd' takes them as they are"
    )
    return True
