"""How strong players are, from who beat whom: Elo, and ratings that know how uncertain they are.

A rating is a tuple of numbers, so that it can be saved; its system says what to make of a match.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from marl.types import Array, ConfigError

RatingName = Literal["elo", "openskill"]
RatingState = tuple[float, ...]


class RatingSystem(Protocol):
    """Ratings of one kind."""

    @property
    def start(self) -> RatingState:
        """The rating of a new player."""
        ...

    def update(self, one: RatingState, other: RatingState, score: float) -> tuple[RatingState, RatingState]:
        """After a match: ``score`` of ``one`` is 1 won, 0.5 drawn, 0 lost."""
        ...

    def value(self, rating: RatingState) -> float:
        """One number to compare by."""
        ...


@dataclass(frozen=True)
class Elo:
    """``E = 1 / (1 + 10^((R_b - R_a) / 400))``, ``R_a += k (score - E)`` (Elo 1978).

    Args:
        k: how far one match moves a rating.
        initial: the rating of somebody unknown.
    """

    k: float = 16.0
    initial: float = 1000.0

    @property
    def start(self) -> RatingState:
        """The rating of a new player."""
        return (self.initial,)

    def update(self, one: RatingState, other: RatingState, score: float) -> tuple[RatingState, RatingState]:
        """Both ratings after a match; their sum does not change."""
        change = self.k * (score - expected_score(one[0], other[0]))
        return (one[0] + change,), (other[0] - change,)

    def value(self, rating: RatingState) -> float:
        """The rating."""
        return rating[0]


def expected_score(one: float, other: float) -> float:
    """The score that Elo expects of ``one``: 0.5 among equals, 10 to 1 at 400 points."""
    return 1 / (1 + 10 ** ((other - one) / 400))


class OpenSkill:
    """Normal ratings ``(mu, sigma)`` by the Thurstone-Mosteller model of ``openskill`` (Weng and Lin 2011).

    With these constants two players get the numbers of TrueSkill (Herbrich et al. 2006).
    """

    def __init__(self) -> None:
        """Raises ConfigError if ``openskill`` is not installed."""
        try:
            from openskill.models import ThurstoneMostellerFull
        except ImportError:
            raise ConfigError("openskill is not installed: pip install 'marl-system[league]'") from None
        # TrueSkill's draw margin for a draw probability of 0.1, and no damping of sigma.
        self._model = ThurstoneMostellerFull(epsilon=0.7404666874526196, gamma=_undamped)

    @property
    def start(self) -> RatingState:
        """The rating of a new player: 25, 25 / 3."""
        return (float(self._model.mu), float(self._model.sigma))

    def update(self, one: RatingState, other: RatingState, score: float) -> tuple[RatingState, RatingState]:
        """Bayes' rule, approximately."""
        teams = [[self._model.rating(mu=mu, sigma=sigma)] for mu, sigma in (one, other)]
        ranks = [1.0 - score, score]
        (after,), (after_other,) = self._model.rate(teams, ranks=ranks)
        return (after.mu, after.sigma), (after_other.mu, after_other.sigma)

    def value(self, rating: RatingState) -> float:
        """A conservative estimate, ``mu - 3 sigma``."""
        return rating[0] - 3 * rating[1]


def _undamped(*_: object) -> float:
    return 1.0


def rating_system(name: RatingName) -> RatingSystem:
    """A rating system by name. Raises ConfigError if its package is missing."""
    return Elo() if name == "elo" else OpenSkill()


def fit_elo(scores: Array, games: Array, anchor: float = 1000.0, iterations: int = 2_000) -> Array:
    """The Elo ratings ``(P,)`` that make a table of results most likely, whatever the order of the games was.

    Bradley-Terry strengths by minorization (Hunter 2004), one drawn game added to every pair so that nobody's rating is
    infinite; their mean is ``anchor``.

    Args:
        scores: ``(P, P)``, points of row against column: games won and half of those drawn.
        games: ``(P, P)``, symmetric, how many they played.
        anchor: the mean rating.
        iterations: at most.
    """
    size = len(scores)
    apart = ~np.eye(size, dtype=bool)
    points = np.where(apart, scores + 0.5, 0.0).sum(1)
    played = np.where(apart, games + 1.0, 0.0)
    strength = np.ones(size)
    for _ in range(iterations):
        share = (played / (strength[:, None] + strength[None])).sum(1)
        new = points / np.maximum(share, 1e-12) if size > 1 else strength
        new /= math.exp(np.log(new).mean())
        if np.abs(np.log(new / strength)).max() < 1e-10:
            break
        strength = new
    ratings: Array = anchor + 400 * np.log10(strength)
    return ratings


def elo_errors(ratings: Array, games: Array) -> Array:
    """Standard errors ``(P,)`` of ratings from :func:`fit_elo`, against their mean, over games.

    The inverse of the Fisher information of Bradley and Terry's model, ``sum n_ij p_ij (1 - p_ij)``. Drawn games vary
    less than the model says, so with these the errors are rather too large.

    Args:
        ratings: ``(P,)``, as they were fitted.
        games: ``(P, P)``, symmetric, how many they played.
    """
    share = 1 / (1 + 10 ** ((ratings[None] - ratings[:, None]) / 400))  # (P, P) of row against column
    weight = np.where(~np.eye(len(ratings), dtype=bool), (games + 1.0) * share * (1 - share), 0.0)
    information = np.diag(weight.sum(1)) - weight
    errors: Array = 400 / math.log(10) * np.sqrt(np.maximum(np.diag(np.linalg.pinv(information)), 0.0))
    return errors
