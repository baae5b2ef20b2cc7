"""Cross-play: every system against every other, each on both sides, and what the table of results says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from marl.league.matches import scores
from marl.league.members import SideKind
from marl.league.meta import alpha_rank, nash_averaging
from marl.league.ratings import elo_errors, fit_elo
from marl.notebook import html_table
from marl.playing.intervals import INDISTINCT, interval_text
from marl.studies.cross_play import Rules, frozen, pairs
from marl.system import MultiAgentSystem
from marl.types import Array, ConfigError

Z = NormalDist().inv_cdf(0.975)  # half of a 95 % interval, in standard errors
COLUMNS = """\
Elo    rating fitted to all games, 1000 on average; a player 100 above another scores 64 % against it; CI over games
alpha  alpha-rank: the share of the long run that a player holds where better players replace worse ones
Nash   the share of a player in the mixture of players that nobody beats (Nash averaging)
skill  the payoff of a player against that mixture; 0 is the best
alpha, Nash and skill are computed from the payoffs as they stand, noise included: they have no intervals."""


@dataclass(frozen=True)
class Tournament:
    """Results of players who each have a policy for both sides.

    Args:
        players: their names.
        sides: the names of the two sides.
        games: played by each ordered pair.
        scores: ``(P, P)``: the share of games (draws are half) that the row wins on side one against the column.
        returns: ``(P, P, 2)``: mean raw returns of side one and side two in these games.
        deviations: ``(P, P)``: standard deviations of single games' scores.
    """

    players: tuple[str, ...]
    sides: tuple[str, str]
    games: int
    scores: Array
    returns: Array
    deviations: Array

    @classmethod
    def of(cls, players: tuple[str, ...], sides: tuple[str, str], games: Mapping[tuple[int, int], Array]) -> Tournament:
        """From the returns ``(games, 2)`` of every ordered pair of players, by their places."""
        size = len(players)
        won, returns, spread = np.full((size, size), 0.5), np.zeros((size, size, 2)), np.zeros((size, size))
        for place, found in games.items():
            won[place], spread[place] = scores(found).mean(), scores(found).std()
            returns[place] = found.mean(axis=0)
        return cls(players, sides, len(next(iter(games.values()))), won, returns, spread)

    @property
    def payoff(self) -> Array:
        """``(P, P)``: win rate minus loss rate of row against column, sides swapped half-way; antisymmetric."""
        out: Array = self.scores - self.scores.T
        return out

    @property
    def standard_errors(self) -> Array:
        """Of :attr:`payoff`, ``(P, P)``, over games."""
        out: Array = np.sqrt((self.deviations**2 + self.deviations.T**2) / self.games)
        return out

    @property
    def intervals(self) -> Array:
        """95 % intervals of :attr:`payoff`, ``(P, P, 2)``, over games.

        A game won and a game lost are added to each seating (Agresti and Caffo 2000), so that games that all end alike
        do not look certain when there are few of them.
        """
        means, variances = self._moments
        middle, half = means - means.T, Z * np.sqrt(variances + variances.T)
        out: Array = np.clip(np.stack([middle - half, middle + half], axis=-1), -1, 1)
        out[np.eye(len(self.players), dtype=bool)] = 0.0
        return out

    @property
    def distinguishable(self) -> Array:
        """``(P, P)`` bool: whether the interval of :attr:`payoff` leaves out 0, so that one of the two is better."""
        low, high = self.intervals[..., 0], self.intervals[..., 1]
        out: Array = (low > 0) | (high < 0)
        return out

    @property
    def _moments(self) -> tuple[Array, Array]:
        """Means of scores, and their variances as means, with a game won and a game lost added; ``(P, P)`` each."""
        total = self.games + 2
        means = (self.games * self.scores + 1) / total
        squares = (self.games * (self.deviations**2 + self.scores**2) + 1) / total
        return means, np.maximum(squares - means**2, 0.0) / total

    @property
    def first_side(self) -> float:
        """The share of games that side one wins: what swapping sides takes out of the table."""
        return float(self.scores[self._apart].mean())

    @property
    def first_side_interval(self) -> tuple[float, float]:
        """Its 95 % interval over games."""
        means, variances = (array[self._apart] for array in self._moments)
        half = Z * float(np.sqrt(variances.sum())) / len(variances)
        middle = float(means.mean())
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def _apart(self) -> Array:
        out: Array = ~np.eye(len(self.players), dtype=bool)
        return out

    @property
    def elo(self) -> Array:
        """Ratings whose mean is 1000."""
        points = (self.scores + 1 - self.scores.T) * self.games
        return fit_elo(points, np.full(points.shape, 2.0 * self.games))

    @property
    def elo_intervals(self) -> Array:
        """95 % intervals of :attr:`elo`, ``(P, 2)``, over games. Whether two players differ, :attr:`intervals` say."""
        half = Z * elo_errors(self.elo, np.full(self.scores.shape, 2.0 * self.games))
        out: Array = np.stack([self.elo - half, self.elo + half], axis=-1)
        return out

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        mixed, skill = nash_averaging(self.payoff)
        return {
            "players": list(self.players),
            "sides": list(self.sides),
            "games": self.games,
            "payoff": self.payoff.tolist(),
            "standard_errors": self.standard_errors.tolist(),
            "intervals": self.intervals.tolist(),
            "distinguishable": self.distinguishable.tolist(),
            "scores": self.scores.tolist(),
            "returns": self.returns.tolist(),
            "first_side": self.first_side,
            "first_side_interval": list(self.first_side_interval),
            "elo": self.elo.tolist(),
            "elo_intervals": self.elo_intervals.tolist(),
            "alpha_rank": alpha_rank(self.payoff).tolist(),
            "nash": mixed.tolist(),
            "nash_skill": skill.tolist(),
        }

    def __repr__(self) -> str:
        """Players and games; ``print`` shows the table."""
        return f"<Tournament: {', '.join(self.players)}; {2 * self.games} games a pair>"

    def _repr_html_(self) -> str:
        """Payoffs, row against column, and ratings."""
        rows = []
        ratings = zip(self.players, self.payoff, self.distinguishable | ~self._apart, strict=True)
        for place, (name, payoffs, told) in enumerate(ratings):
            cells = [f"{value:.2f}" if clear else f"{value:.2f} =" for value, clear in zip(payoffs, told, strict=True)]
            low, high = self.elo_intervals[place]
            rows.append((name, *cells, f"{self.elo[place]:.0f}", f"{low:.0f} to {high:.0f}"))
        title = f"win rate minus loss rate, {2 * self.games} games a pair; =: {INDISTINCT} (95 % CI over games)"
        return html_table(title, rows, ("", *self.players, "Elo", "95 % CI over games"))

    def __str__(self) -> str:
        """A table of payoffs, row against column, with ratings; what its columns are; every pair with its interval."""
        ratings = zip(self.elo, self.elo_intervals, alpha_rank(self.payoff), *nash_averaging(self.payoff), strict=True)
        width = max(len(name) for name in self.players)
        numbers = [f"({place})" for place in range(1, len(self.players) + 1)]
        head = "".join(f"{number:>7}" for number in numbers)
        lines = [f"{'':{width + 5}}{head}{'Elo':>8}   {'95 % CI':<14}{'alpha':>7}{'Nash':>7}{'skill':>7}"]
        for number, name, row, rating in zip(numbers, self.players, self.payoff, ratings, strict=True):
            elo, (low, high), *others = rating
            payoffs, rest = (
                "".join(f"{value:7.2f}" for value in np.round(values, 2) + 0.0)  # no -0.00
                for values in (row, others)
            )
            lines.append(f"{number:>4} {name:{width}}{payoffs}{elo:8.0f}   {f'{low:.0f} to {high:.0f}':<14}{rest}")
        lines.append("")
        each = f"{2 * self.games:,} games of each pair, half of them with sides swapped"
        lines.append(f"(k)    payoff: win rate minus loss rate against player (k); {each}")
        low, high = (100 * end for end in self.first_side_interval)
        share = f"{100 * self.first_side:.1f} % of the games (95 % CI over games {low:.1f} to {high:.1f})"
        lines += [COLUMNS, f"Side {self.sides[0]} wins {share}; a draw counts as half.", "", *self._pairs(numbers)]
        return "\n".join(lines)

    def _pairs(self, numbers: list[str]) -> list[str]:
        """Every pair: payoff, interval, who is better."""
        width = 2 * max(map(len, numbers)) + 9
        lines = [f"{'pair':{width}}{'payoff':>8}   95 % CI over games"]
        for one, other in combinations(range(len(self.players)), 2):
            payoff, pair = self.payoff[one, other], f"{numbers[one]} against {numbers[other]}"
            better = f"{numbers[one if payoff > 0 else other]} is better"
            said = better if self.distinguishable[one, other] else INDISTINCT
            lines.append(f"{pair:{width}}{payoff:8.2f}   {interval_text(*self.intervals[one, other]):<20} {said}")
        return lines


def tournament(
    systems: Mapping[str, MultiAgentSystem],
    games: int = 100,
    *,
    between: SideKind | None = None,
    greedy: bool = False,
    seed: int = 0,
) -> Tournament:
    """Play ``games`` games of every ordered pair of systems, in environments of the first one's kind.

    Args:
        systems: by name; all with the same teams and spaces.
        games: of each pair and seating, so that a pair plays twice as many.
        between: what the two sides are: ``"teams"``, or the two ``"agents"`` of one team; None: whatever there is.
        greedy: take the most likely actions; False samples, without which many games are the same game.
        seed: of all games.

    Raises:
        ConfigError: for fewer than two systems, games that have not two sides, or systems for different games.
    """
    rules = Rules.of(systems, games, between, seed)
    entrants = [frozen(system, greedy) for system in systems.values()]
    with rules.opened(next(iter(systems.values()))) as env:
        found = {place: rules.play(env, place, *(entrants[one] for one in place)) for place in pairs(len(entrants))}
    return Tournament.of(tuple(systems), rules.names, found)


def plot(result: Tournament, out: Path) -> Path:
    """Draw the payoff table. Raises ConfigError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("matplotlib is not installed: pip install 'marl-system[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    order = np.argsort(-result.elo)
    names = [result.players[place][-40:].replace("$", r"\$") for place in order]
    grid = np.ix_(order, order)
    table, told, errors = (array[grid] for array in (result.payoff, result.distinguishable, result.standard_errors))
    size = 2.5 + 0.8 * len(names)
    figure = Figure(figsize=(size + 1.5, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(table, cmap="RdBu", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(table):
        if row == column:
            continue
        said = f"{value:.2f}{'' if told[row, column] else ' ='}\n±{errors[row, column]:.2f}"
        axis.text(column, row, said, ha="center", va="center", color="w" if abs(value) > 0.6 else "k", fontsize="small")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(
        f"win rate minus loss rate of the row ± standard error over games\n=: {INDISTINCT} (95 % CI over games)",
        fontsize="medium",
    )
    figure.colorbar(image, ax=axis)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out
