"""Search spaces, Optuna's trials and halving by hand numbers, and the range test of a learning rate on a quadratic."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import marl
from marl.learners import LEARNERS
from marl.studies.halving import goes_on, promoted, rungs, survivors
from marl.studies.rate_range import BELOW, BELOW_KL, BELOW_RETURN, MOST_KL, examined, growing
from marl.studies.search_figures import height
from marl.studies.trials import Trials
from marl.types import ConfigError

SPACE = {
    "learner.optimizer.alpha": marl.Uniform(0.8, 0.99, given={"learner.optimizer": marl.optim.RMSprop()}),
    "learner.lr": marl.LogUniform(1e-5, 1e-1),
    "learner.optimizer": marl.Choice([marl.optim.Adam(), marl.optim.RMSprop()]),
    "learner.epochs": marl.IntUniform(1, 8),
}


def opened(tmp_path, first_rung=1, most_steps=27, **changed):
    asked = {"space": {"learner.lr": marl.LogUniform(1e-5, 1e-1)}, "trials": 27, "reduction": 3}
    search = marl.Search(**asked | changed)
    return Trials(tmp_path / "journal", search, first_rung, most_steps)


def test_halving_keeps_a_third_of_27_each_time():
    assert survivors(27, 3) == [27, 9, 3, 1]
    assert survivors(6, 3) == [6, 2, 1]
    assert survivors(5, 2) == [5, 2, 1]
    assert survivors(1, 2) == [1]
    assert rungs(81, 27, 3) == [3, 9, 27, 81]
    assert rungs(100, 5, 2) == [25, 50, 100]
    assert rungs(7, 1, 2) == [7]
    with pytest.raises(ConfigError, match="3 rounds need at least 27 steps, got 26"):
        rungs(26, 27, 3)


def test_a_value_goes_on_if_it_is_among_the_best_third_or_the_very_best():
    assert goes_on(1.0, [1.0], 3)
    assert not goes_on(1.0, [2.0, 1.0], 3)
    assert [goes_on(one, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3) for one in (6.0, 5.0, 4.0)] == [True, True, False]
    assert goes_on(2.0, [2.0, 2.0, 2.0, 2.0], 4)
    assert not goes_on(math.nan, [1.0, math.nan], 2)
    assert goes_on(1.0, [math.nan, 1.0, math.nan, math.nan], 2)


def test_the_best_are_promoted_whatever_their_order():
    values = {"a": 1.0, "b": 5.0, "c": math.nan, "d": 3.0, "e": 5.0}
    assert promoted(values, 2) == ["b", "e"]  # equal ones as they come
    for order in (["e", "d", "c", "b", "a"], ["c", "e", "a", "b", "d"]):
        assert set(promoted({name: values[name] for name in order}, 3)) == {"b", "d", "e"}
    assert promoted(values, 5)[-1] == "c"


def test_asynchronous_halving_promotes_the_best_third_of_those_that_came_so_far(tmp_path):
    """Rungs at 1, 3 and 9. A trial goes on if it is among the best n // 3 of the n at its rung, or the very best."""
    trials = opened(tmp_path)
    first = {0: 1.0, 1: 5.0, 2: 3.0, 3: 9.0, 4: 2.0, 5: 8.0, 6: 4.0, 7: 7.0, 8: 8.5}
    ends = {0: False, 1: False, 2: True, 3: False, 4: True, 5: False, 6: True, 7: True, 8: False}
    for number, value in first.items():
        assert trials.ask().number == number
        assert trials.report(number, 1, value) == ends[number]
        if ends[number]:
            trials.prune(number, "worse")
    second = {0: (1.0, False), 1: (0.5, True), 3: (9.0, False), 5: (8.0, True), 8: (10.0, False)}
    for number, (value, ended) in second.items():
        assert not trials.report(number, 2, value)  # no rung
        assert trials.report(number, 3, value) == ended
        if ended:
            trials.prune(number, "worse")
    assert [row.number for row in trials.rows() if row.status == "running"] == [0, 3, 8]
    assert [row.steps for row in trials.rows()] == [3, 3, 1, 3, 1, 3, 1, 1, 3]


def test_a_trial_that_was_killed_before_it_was_ended_is_decided_on_again(tmp_path):
    trials = opened(tmp_path)
    for number, value in enumerate([5.0, 3.0, 1.0]):
        assert trials.ask().number == number
        worse = trials.report(number, 1, value)
        if number < 2:
            (trials.prune(number, "worse") if worse else trials.complete(number, value))
    again = opened(tmp_path)
    assert [one.number for one in again.begun()] == [2]
    assert worse
    assert again.report(2, 1, 1.0)


def test_the_median_pruner_ends_what_is_below_the_median_of_others(tmp_path):
    trials = opened(tmp_path, pruner="median")
    for number, value in enumerate([1.0, 2.0, 3.0, 4.0, 5.0]):
        assert trials.ask().number == number
        assert not trials.report(number, 1, value)
        trials.complete(number, value)
    for number, (value, ended) in enumerate([(2.9, True), (3.1, False)], 5):
        assert trials.ask().number == number
        assert trials.report(number, 1, value) == ended


def test_without_a_pruner_and_under_hyperbands_first_rung_all_go_on(tmp_path):
    trials = opened(tmp_path, pruner="none")
    for number in range(3):
        trials.ask()
        assert not trials.report(number, 1, -float(number))


def test_a_proposal_depends_on_the_journal_alone(tmp_path):
    """A search that was killed goes on with the same trials; those that had begun are given again."""
    kept = {"trials": 14, "space": SPACE}
    unbroken, broken = (
        opened(tmp_path / name, **kept) for name in (tmp_path / "a", tmp_path / "b") if not name.mkdir()
    )
    values = [float(np.sin(7 * n)) for n in range(14)]
    for n in range(14):
        proposal = unbroken.ask()
        again = opened(tmp_path / "b", **kept) if n else broken
        assert again.ask() == proposal
        if n == 12:
            assert opened(tmp_path / "b", **kept).begun() == [proposal]
        unbroken.complete(n, values[n])
        again.complete(n, values[n])
    assert unbroken.ask() is None
    assert unbroken.best().number == int(np.argmax(values))
    importances = unbroken.importances()
    assert sum(importances.values()) == pytest.approx(1.0)


def test_a_conditional_setting_is_in_a_trial_only_where_its_condition_holds(tmp_path):
    trials = opened(tmp_path, space=SPACE, sampler="random")
    seen = [trials.ask().settings for _ in range(12)]
    for settings in seen:
        assert ("learner.optimizer.alpha" in settings) == (settings["learner.optimizer"] == "RMSprop()")
        assert 1e-5 <= float(settings["learner.lr"]) <= 1e-1
        assert 1 <= int(settings["learner.epochs"]) <= 8
    assert {settings["learner.optimizer"] for settings in seen} == {"Adam()", "RMSprop()"}


def test_the_ends_of_a_space_are_probed_one_at_a_time():
    probes = marl.Search(SPACE).probes()
    assert ("learner.optimizer=RMSprop()", "learner.optimizer.alpha=0.8") in probes
    assert ("learner.lr=1e-05",) in probes
    assert len(probes) == 8


def test_axes_of_parallel_coordinates_by_hand():
    search = marl.Search(SPACE)
    assert height(search, "learner.lr", "0.001") == pytest.approx(0.5)
    assert height(search, "learner.epochs", "8") == 1.0
    assert height(search, "learner.optimizer", "Adam()") == 0.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: marl.Search({}), "it is empty, so there is nothing to search"),
        (lambda: marl.Search({"learner.lr": 0.1}), "expected marl.LogUniform, Uniform, IntUniform or Choice, got 0.1"),
        (lambda: marl.Search({"a": marl.Uniform(0, 1, given={"b": 1})}), "unknown setting of the space 'b'"),
        (
            lambda: marl.Search({"a": marl.Choice([1, 2]), "b": marl.Uniform(0, 1, given={"a": 3})}),
            r"a is never 3 \(it may be 1, 2\)",
        ),
        (
            lambda: marl.Search({"a": marl.Choice([1, 2], given={"b": 1}), "b": marl.Choice([1, 2], given={"a": 1})}),
            "each of these waits for another one: a, b",
        ),
        (lambda: marl.Search(SPACE, pruner="halve"), "unknown pruner 'halve'; did you mean 'halving'"),
        (lambda: marl.Search(SPACE, trials=0), "trials: expected a whole number of at least 1, got 0"),
        (lambda: marl.Choice([1]), "expected 2 to 1,000 values to choose from, got 1"),
        (lambda: marl.Choice([1, 1]), "1 is there twice"),
        (lambda: marl.Uniform(1, 1), "expected low < high, got 1 and 1"),
        (lambda: marl.IntUniform(0, 4, log=True), "expected 0 < low < high, got 0 and 4"),
        (lambda: marl.IntUniform(0.5, 4), "expected whole numbers, got 0.5"),
    ],
)
def test_what_makes_no_sense_is_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("points", [30, 100, 400])
def test_the_suggestion_on_a_quadratic_is_below_where_gradient_descent_diverges(curvature, points):
    """On ``L x^2 / 2`` a step is ``x <- (1 - lr L) x``, which diverges above ``2 / L``."""
    x, losses = np.ones(4), []
    rates = growing(1e-3 / curvature, 1e3 / curvature, points)
    with np.errstate(over="ignore"):
        for rate in rates:
            losses.append(float(np.minimum(curvature * x**2 / 2, 1e300).sum()))
            x = np.clip(x - rate * curvature * x, -1e150, 1e150)
    found = examined(rates, {"loss": losses})
    assert 0.2 <= found.suggestion * curvature / 2 <= 1.0
    assert found.suggestion == pytest.approx(found.limits["loss"] / BELOW)


def test_a_loss_that_never_fell_or_never_broke_says_nothing():
    rates = growing(1e-4, 1.0, 40)
    assert examined(rates, {"loss": np.linspace(1, 40, 40)}).suggestion is None  # targets that grow
    assert examined(rates, {"loss": np.linspace(2, 1, 40)}).suggestion is None
    assert examined(rates, {"policy_loss": np.r_[np.linspace(2, 1, 20), np.full(20, 50.0)]}).suggestion is None


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda cls: cls.__name__)
def test_the_rate_of_every_learner_is_tested(learner):
    small = {"network": marl.MLP((8,)), "rollout": 8, "batch": 8, "learning_starts": 16, "epochs": 1, "minibatches": 1}
    own = {field.name for field in dataclasses.fields(learner)}
    agents = learner(**{name: value for name, value in small.items() if name in own})
    with marl.MultiAgentSystem(agents, "CartPole-v1", num_envs=2, seed=0) as system:
        found = marl.studies.find_lr(system, 200, low=1e-5, points=10)
        assert system.value("learner.lr") == found.rates[-1] == pytest.approx(1.0)
    seen = {name: np.isfinite(values).sum() for name, values in found.signals.items()}
    assert seen["return"] >= 5
    assert max(seen.get("loss", 0), seen.get("value_loss", 0)) >= 7


def test_returns_and_the_change_of_policies_bound_the_suggestion():
    rates = growing(1e-6, 1.0, 61)  # ten to a power of ten
    rise = np.where(rates < 1e-3, 10.0, np.where(rates < 1e-2, 50.0, 5.0)) + 0.01 * np.sin(np.arange(61))
    found = examined(rates, {"return": rise})
    assert 1e-3 <= found.limits["return"] <= 1e-2
    assert found.suggestion == pytest.approx(found.limits["return"] / BELOW_RETURN)
    kl = np.where(rates < 1.1e-4, MOST_KL / 2, MOST_KL * 10)
    both = examined(rates, {"return": rise, "team/kl": kl})
    assert both.limits["team/kl"] == pytest.approx(1e-4, rel=0.01)
    assert both.suggestion == both.limits["team/kl"] / BELOW_KL
    assert examined(rates, {"return": np.sin(np.arange(61))}).suggestion is None  # noise
