"""Ratings and payoff tables: hand numbers, known games, invariances."""

from __future__ import annotations

import numpy as np
import pytest

from marl.league.meta import alpha_rank, nash, nash_averaging, nash_conv, replicator_dynamics, solve
from marl.league.ratings import Elo, OpenSkill, expected_score, fit_elo
from marl.types import ConfigError

RPS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
THIRDS = np.full(3, 1 / 3)


def test_elo_by_hand():
    assert expected_score(1400, 1000) == pytest.approx(10 / 11)
    assert expected_score(1000, 1000) == 0.5
    assert Elo(k=32).update((1000.0,), (1400.0,), 1.0)[0][0] == pytest.approx(1000 + 32 * 10 / 11)
    one, other = Elo().update((1100.0,), (900.0,), 0.5)
    assert one[0] + other[0] == pytest.approx(2000)
    assert one[0] < 1100


def test_openskill_gives_the_numbers_of_trueskill():
    system = OpenSkill()
    assert system.start == (25.0, 25 / 3)
    won, lost = system.update(system.start, system.start, 1.0)
    assert won == pytest.approx((29.396, 7.171), abs=1e-3)
    assert lost == pytest.approx((20.604, 7.171), abs=1e-3)
    drawn, other = system.update(system.start, system.start, 0.5)
    assert drawn == pytest.approx((25.0, 6.458), abs=1e-3)
    assert other == pytest.approx(drawn)
    assert system.value(system.start) == pytest.approx(0.0)
    assert system.update(system.start, system.start, 0.0) == (lost, won)


def test_fitted_elo_does_not_depend_on_order_and_agrees_with_the_odds():
    games = np.array([[0.0, 1e6, 1e6], [1e6, 0, 1e6], [1e6, 1e6, 0]])
    scores = np.array([[0, 10 / 11, 100 / 101], [1 / 11, 0, 10 / 11], [1 / 101, 1 / 11, 0]]) * 1e6
    ratings = fit_elo(scores, games)
    assert np.diff(ratings) == pytest.approx([-400, -400], abs=1)
    order = [2, 0, 1]
    assert fit_elo(scores[np.ix_(order, order)], games)[[1, 2, 0]] == pytest.approx(ratings)
    always = fit_elo(np.array([[0.0, 10], [0, 0]]), np.array([[0.0, 10], [10, 0]]))
    assert np.isfinite(always).all()


def test_nash_of_known_games():
    assert nash(RPS)[0] == pytest.approx(THIRDS)
    pennies = np.array([[2.0, -1], [-1, 1]])  # 2/5 heads on both sides, value 1/5
    x, y = nash(pennies)
    assert x == pytest.approx([0.4, 0.6])
    assert y == pytest.approx([0.4, 0.6])
    assert x @ pennies @ y == pytest.approx(0.2)
    assert nash_conv((pennies, -pennies), x, y) == pytest.approx(0, abs=1e-9)
    assert nash_conv((RPS, -RPS), np.array([1.0, 0, 0]), np.array([1.0, 0, 0])) == 2
    rows, columns = nash(np.array([[1.0, 3], [0, 2]]))  # a dominant row and column; tables need not be square
    assert (rows @ [1, 0], columns @ [1, 0]) == pytest.approx((1, 1))
    assert [len(side) for side in nash(np.ones((2, 4)))] == [2, 4]


def test_replicator_dynamics_find_equilibria_of_zero_sum_and_of_other_games():
    x, y = replicator_dynamics((RPS, -RPS))
    assert nash_conv((RPS, -RPS), x, y) < 1e-2
    row, column = np.array([[-1.0, -3], [0, -2]]), np.array([[-1.0, 0], [-3, -2]])  # prisoners defect
    x, y = solve((row, column), "prd")
    assert x[1] > 0.9
    assert y[1] > 0.9
    assert solve((row, column), "uniform")[0] == pytest.approx([0.5, 0.5])


def test_nash_averaging_ignores_copies_and_ranks_the_rest():
    order = [0, 0, 1, 2]
    mixed, skill = nash_averaging(RPS[np.ix_(order, order)])
    assert mixed == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3], abs=1e-4)
    assert skill == pytest.approx(np.zeros(4), abs=1e-4)
    ladder = np.array([[0.0, -0.5, -0.9], [0.5, 0, -0.5], [0.9, 0.5, 0]])
    mixed, skill = nash_averaging(ladder)
    assert mixed == pytest.approx([0, 0, 1], abs=1e-4)
    assert skill == pytest.approx([-0.9, -0.5, 0], abs=1e-4)


def test_alpha_rank_of_known_games():
    assert alpha_rank(RPS) == pytest.approx(THIRDS)
    assert alpha_rank(np.array([[0.0, -1, -1], [1, 0, -1], [1, 1, 0]])) == pytest.approx([0, 0, 1], abs=1e-6)
    assert alpha_rank(np.zeros((2, 2))) == pytest.approx([0.5, 0.5])
    assert alpha_rank(np.zeros((1, 1))).tolist() == [1]
    # Weak selection by hand: two policies, d = 2 * 0.1, m = 3.
    d, alpha, m = 0.2, 1.0, 3
    up, down = ((1 - np.exp(-s * alpha * d)) / (1 - np.exp(-m * s * alpha * d)) for s in (1, -1))
    expected = np.array([down, up]) / (up + down)
    assert alpha_rank(np.array([[0, -0.1], [0.1, 0]]), alpha, m) == pytest.approx(expected)


@pytest.mark.parametrize("function", [nash_averaging, alpha_rank])
def test_tables_that_are_not_antisymmetric_are_refused(function):
    with pytest.raises(ConfigError, match="antisymmetric"):
        function(np.eye(2))
    with pytest.raises(ConfigError, match="finite"):
        function(np.full((2, 2), np.nan))
