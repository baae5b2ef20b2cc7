"""Exploit and explore by hand, and the toy of Jaderberg et al. 2017 by the same code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from marl.studies import AddNoise, BinaryTournament, Choice, IntUniform, LogUniform, Perturb, Truncation, Uniform
from marl.studies.evolution import evolve, within
from marl.types import ConfigError


def rng(seed=0):
    return np.random.default_rng(seed)


# --- the toy: Q = 1.2 - |theta|^2 is what counts, 1.2 - h . theta^2 is what is climbed -------------------------------


def toy(seed, exploit, explore, steps=200):
    """The best Q of two workers with h = (1, 0) and (0, 1), both from (.9, .9), that climb by steps of .01."""
    theta = np.full((2, 2), 0.9)
    settings = [{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}]
    spaces = {"h0": Uniform(0.0, 10.0), "h1": Uniform(0.0, 10.0)}
    stream = rng(seed)
    for step in range(1, steps + 1):
        h = np.array([[one["h0"], one["h1"]] for one in settings])
        theta = theta - 0.01 * 2 * h * theta
        if step % 10 == 0:
            fitness = 1.2 - (theta**2).sum(1)
            moves = evolve(fitness.tolist(), settings, spaces, exploit, explore, stream, explore_all=True)
            theta = theta[[move.parent for move in moves]]
            settings = [move.settings for move in moves]
    return float((1.2 - (theta**2).sum(1)).max())


@pytest.mark.parametrize("exploit", [BinaryTournament(), Truncation(0.5)], ids=["tournament", "truncation"])
def test_the_toy_climbs_to_its_top_with_exploit_and_explore(exploit):
    assert min(toy(seed, exploit, AddNoise(0.1)) for seed in range(5)) >= 1.15
    assert min(toy(seed, exploit, AddNoise(0.1), steps=1000) for seed in range(5)) >= 1.19


def test_the_toy_needs_exploit_to_climb_surely():
    found = [toy(seed, None, AddNoise(0.1)) for seed in range(10)]
    assert min(found) < 1.1
    assert max(found) <= 1.2


@pytest.mark.parametrize("exploit", [None, BinaryTournament()], ids=["neither", "exploit alone"])
def test_the_toy_stays_at_the_edge_without_explore(exploit):
    """One of two coordinates is climbed alone: Q = 1.2 - .9^2 = .39 in the end."""
    assert toy(0, exploit, None, steps=1000) == pytest.approx(0.39, abs=0.01)


# --- who copies whom -------------------------------------------------------------------------------------------------


def test_truncation_replaces_the_worst_by_the_best():
    fitness = [5.0, 1.0, 9.0, 3.0, 0.0, 7.0, 2.0, 8.0, 4.0, 6.0]  # worst: 4, 1; best: 2, 7
    for seed in range(20):
        parents = Truncation(0.2).parents(fitness, rng(seed))
        assert parents[4] in (2, 7)
        assert parents[1] in (2, 7)
        assert [parents[k] for k in (0, 2, 3, 5, 6, 7, 8, 9)] == [0, 2, 3, 5, 6, 7, 8, 9]
    assert {tuple(Truncation(0.2).parents(fitness, rng(seed))[k] for k in (4, 1)) for seed in range(40)} == {
        (2, 2), (2, 7), (7, 2), (7, 7),
    }  # fmt: skip


def test_truncation_of_a_small_population_replaces_one():
    assert Truncation(0.1).parents([1.0, 3.0, 2.0], rng()) == [1, 1, 2]


def test_equals_do_not_copy_each_other():
    assert Truncation(0.5).parents([1.0] * 4, rng()) == [0, 1, 2, 3]
    assert BinaryTournament().parents([1.0] * 4, rng()) == [0, 1, 2, 3]


def test_a_tournament_copies_better_members_only_and_the_best_stays():
    fitness = [3.0, 1.0, 4.0, 2.0]
    for seed in range(50):
        parents = BinaryTournament().parents(fitness, rng(seed))
        assert parents[2] == 2
        assert all(fitness[parent] > fitness[k] or parent == k for k, parent in enumerate(parents))
    seen = [BinaryTournament().parents(fitness, rng(seed))[1] for seed in range(300)]
    assert [seen.count(k) / 300 for k in (0, 2, 3)] == pytest.approx([1 / 3] * 3, abs=0.09)


def test_a_member_that_diverged_copies_the_best_whoever_it_meets():
    settings = [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}]
    for lost in (None, math.nan):
        moves = evolve([lost, lost, 1.0], settings, {"lr": Uniform(0, 1)}, BinaryTournament(), None, rng(3))
        assert [move.parent for move in moves] == [2, 2, 2]
        assert moves[0].settings == {"lr": 0.3}


def test_without_exploit_nobody_changes():
    settings = [{"lr": 0.1}, {"lr": 0.2}]
    moves = evolve([0.0, None], settings, {"lr": Uniform(0, 1)}, None, Perturb(), rng())
    assert [(move.parent, move.settings) for move in moves] == [(0, settings[0]), (1, settings[1])]


def test_members_that_are_not_replaced_vary_too_where_that_is_asked():
    settings = [{"lr": 0.1}, {"lr": 0.4}]
    moves = evolve([0.0, 1.0], settings, {"lr": Uniform(0, 1)}, None, Perturb((2.0,), 0.0), rng(), explore_all=True)
    assert [(move.parent, move.settings["lr"]) for move in moves] == [(0, 0.2), (1, 0.8)]


def test_only_copies_vary_and_from_the_settings_of_their_parent():
    settings = [{"lr": 0.1, "clip": 0.3}, {"lr": 0.4, "clip": 0.2}]
    moves = evolve([1.0, 0.0], settings, {"lr": Uniform(0, 1)}, Truncation(0.5), Perturb((2.0,), 0.0), rng())
    assert moves[0].settings == {"lr": 0.1, "clip": 0.3}
    assert moves[1].settings == {"lr": 0.2, "clip": 0.3}


# --- what copies vary ------------------------------------------------------------------------------------------------


def test_perturbing_multiplies_by_one_of_the_factors():
    space = LogUniform(1e-5, 1e-1)
    drawn = [Perturb(resample=0.0).vary(1e-3, space, rng(seed)) for seed in range(100)]
    assert set(drawn) == {8e-4, 1.2e-3}
    assert 0.3 < drawn.count(8e-4) / 100 < 0.7


def test_a_new_draw_comes_as_often_as_asked():
    drawn = [Perturb(resample=0.25).vary(0.5, Uniform(0.0, 1.0), rng(seed)) for seed in range(400)]
    assert 0.17 < sum(value not in (0.4, 0.6) for value in drawn) / 400 < 0.33


def test_values_stay_in_their_space():
    assert Perturb((100.0,), 0.0).vary(0.5, Uniform(0.0, 1.0), rng()) == 1.0
    assert Perturb((0.8,), 0.0).vary(10, IntUniform(9, 20), rng()) == 9
    assert type(Perturb((1.26,), 0.0).vary(10, IntUniform(1, 20), rng())) is int
    assert AddNoise(1e-9).vary(0.0, Uniform(0.0, 1.0), rng()) >= 0.0
    assert within(Choice(["a", "b"]), "a") == "a"


def test_a_choice_changes_only_by_a_new_draw():
    assert {Perturb(resample=0.0).vary("a", Choice(["a", "b"]), rng(seed)) for seed in range(20)} == {"a"}
    assert {Perturb(resample=1.0).vary("a", Choice(["a", "b"]), rng(seed)) for seed in range(20)} == {"a", "b"}
    assert AddNoise(1.0).vary("a", Choice(["a", "b"]), rng()) == "a"


# --- spaces ----------------------------------------------------------------------------------------------------------


def test_draws_are_as_likely_as_their_space_says():
    stream = rng(1)
    logs = [math.log10(LogUniform(1e-4, 1e-2).sample(stream)) for _ in range(2000)]
    assert min(logs) >= -4
    assert max(logs) <= -2
    assert np.mean(logs) == pytest.approx(-3, abs=0.05)
    assert np.mean([Uniform(2, 4).sample(stream) for _ in range(2000)]) == pytest.approx(3, abs=0.05)
    assert {IntUniform(1, 3).sample(stream) for _ in range(100)} == {1, 2, 3}
    logs = [IntUniform(1, 100, log=True).sample(stream) for _ in range(2000)]
    assert (min(logs), max(logs)) == (1, 100)
    assert np.median(logs) == pytest.approx(math.sqrt(0.5 * 100.5), abs=1)
    assert {Choice(["a", None, 2]).sample(stream) for _ in range(100)} == {"a", None, 2}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: Uniform(0.0, math.inf), "Uniform: expected two numbers, got inf"),
        (lambda: Truncation(0.6), "Truncation.share: expected a number above 0 and at most 0.5, got 0.6"),
        (lambda: Perturb(()), "Perturb.factors: expected numbers above 0"),
        (lambda: Perturb(resample=2), "Perturb.resample: expected a chance from 0 to 1, got 2"),
        (lambda: AddNoise(0), "AddNoise.deviation: expected a number above 0, got 0"),
        (lambda: evolve([1.0], [{}], {}, Truncation(), None, rng()), "expected a whole number of at least 2"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(made, expected):
    with pytest.raises(ConfigError) as error:
        made()
    assert expected in str(error.value)
