"""Statistics agree with frozen values, textbooks and hand numbers; what they cannot say, they do not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from marl.studies import statistics
from marl.studies.statistics import Estimate
from marl.types import ConfigError

_random = np.random.default_rng(20261129)
A = _random.normal(0.6, 0.2, (10, 6))  # runs, tasks
B = _random.normal(0.55, 0.25, (10, 6))
CLOSE = 1e-12
NEAR = 0.005  # of the ends of intervals
TAU = np.linspace(0, 1.2, 7)


# --- frozen values, of rliable 1.2.0 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "iqm", "mean", "median", "gap"),
    [
        (A, 0.5668953308846579, 0.5816807468173177, 0.5837519196126004, 0.41831925318268237),
        (B, 0.5357216066332076, 0.5573072121508188, 0.5648640434436308, 0.44759320662877367),
    ],
)
def test_point_estimates_are_the_frozen_ones(scores, iqm, mean, median, gap):
    assert statistics.iqm(scores) == pytest.approx(iqm, abs=CLOSE)
    assert statistics.mean(scores) == pytest.approx(mean, abs=CLOSE)
    assert statistics.median(scores) == pytest.approx(median, abs=CLOSE)
    assert statistics.optimality_gap(scores) == pytest.approx(gap, abs=CLOSE)


@pytest.mark.parametrize(
    ("scores", "iqm", "mean"),
    [(A, (0.5196, 0.6180), (0.5337, 0.6309)), (B, (0.4719, 0.6110), (0.4952, 0.6199))],
)
def test_intervals_end_where_the_frozen_ones_do(scores, iqm, mean):
    found = statistics.aggregates(scores)
    assert (found["iqm"].low, found["iqm"].high) == pytest.approx(iqm, abs=NEAR)
    assert (found["mean"].low, found["mean"].high) == pytest.approx(mean, abs=NEAR)
    alone = statistics.estimate_mean(scores)
    assert (alone.low, alone.high) == pytest.approx((found["mean"].low, found["mean"].high), abs=CLOSE)


def test_the_probability_of_improvement_is_the_frozen_one():
    found = statistics.probability_of_improvement(A, B)
    assert found.value == pytest.approx(0.5533333333333333, abs=CLOSE)
    assert (found.low, found.high) == pytest.approx((0.445, 0.660), abs=0.015)  # frozen with 2,000 draws


def test_profiles_are_the_frozen_ones():
    assert statistics.performance_profile(A, TAU).value == pytest.approx(
        np.array([60, 59, 50, 27, 9, 0, 0]) / 60, abs=CLOSE
    )
    assert statistics.performance_profile(B, TAU).value == pytest.approx(
        np.array([59, 57, 44, 23, 11, 2, 0]) / 60, abs=CLOSE
    )
    for scores, share in ((A, 1 / 3), (B, 1 / 6)):
        found = statistics.performance_profile(scores.mean(axis=0)[None], TAU)
        assert found.value == pytest.approx([1, 1, 1, share, 0, 0, 0], abs=CLOSE)


# --- hand numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 12))
def test_the_interquartile_mean_leaves_out_whole_scores_however_many_there_are(count):
    """As scipy's trim_mean: of 7 scores one at each end, of 8 two."""
    scores = np.arange(count, dtype=float) ** 2
    cut = int(0.25 * count)
    assert statistics.iqm([scores]) == pytest.approx(scores[cut : count - cut].mean(), abs=CLOSE)


def test_a_draw_of_the_bootstrap_has_the_interquartile_mean_of_its_runs():
    ascending = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    counts = np.array([[1, 1, 1, 1, 1], [2, 0, 0, 3, 0], [0, 0, 0, 0, 5], [0, 0, 0, 0, 0]])
    drawn = [np.repeat(ascending, row) for row in counts[:3]]
    found = statistics._weighted_iqm(ascending, counts)
    assert found[:3] == pytest.approx([statistics.iqm([one]) for one in drawn], abs=CLOSE)
    assert math.isnan(found[3])


def test_ties_count_half():
    assert statistics.probability_of_improvement([[1.0, 2.0]], [[2.0, 3.0]]).value == 0.125
    assert statistics.probability_of_improvement([[1.0, 1.0]], [[1.0]]).value == 0.5


def test_tasks_of_different_numbers_of_runs_weigh_alike_in_means():
    scores = [[1.0, 3.0], [10.0]]
    assert statistics.mean(scores) == 6.0
    assert statistics.median(scores) == 6.0
    assert statistics.optimality_gap(scores, target=2.0) == 2.0 - (1.5 + 2.0) / 2
    assert statistics.performance_profile(scores, np.array([2.0])).value == [0.75]


def test_flipped_signs_are_counted_exactly():
    """Differences 1, 2, 3: of the eight sign patterns only all plus and all minus reach a sum of 6 in size."""
    found = statistics.paired([[1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0]])
    assert (found.p, found.least, found.pairs, found.exact) == (0.25, 0.25, 3, True)
    assert found.difference.value == 2.0
    assert statistics.paired([[0.0, 1.0]], [[1.0, 0.0]]).p == 1.0
    assert statistics.paired([[2.0, 2.0]], [[2.0, 2.0]]).p == 1.0
    # Of two tasks with one pair and two pairs, the single pair weighs as much as both others: |1 +- (1 +- 1) / 2| / 2.
    assert statistics.paired([[1.0], [1.0, 1.0]], [[0.0], [0.0, 0.0]]).p == 0.25


def test_a_difference_that_not_all_tasks_show_is_no_noise():
    """Differences 3, 1 and -1, 1: their means 2 and 0 have squared errors 1 and 1, so t**2 is 2.

    Other signs give a first task of (2, 1), (1, 4) or their negatives, a second one of (0, 1) twice, (1, 0) or (-1, 0).
    With (2, 1) that is 2, 2, 9 and 1; with (1, 4) .2, .2, 1 and 0. Three of eight are as large, and as many negatives.
    """
    assert statistics.paired([[3.0, 1.0], [-1.0, 1.0]], [[0.0, 0.0]] * 2).p == 6 / 16
    apart = [np.array([0.04, 0.05, 0.06]), np.array([-0.2, -0.17, -0.18]), np.array([-0.02, -0.03, 0.0])]
    assert statistics.paired(apart, [np.zeros(3)] * 3).p <= 0.05
    assert statistics.seeds_needed(apart) <= 3


def test_the_test_keeps_its_level_where_tasks_differ_and_cancel():
    random = np.random.default_rng(8)
    tasks = ((0.5, 0.1), (-0.4, 0.2), (-0.1, 0.1))
    drawn = ([random.normal(mean, spread, 5) for mean, spread in tasks] for _ in range(400))
    p = np.array([statistics.paired(one, [np.zeros(5)] * 3, resamples=1).p for one in drawn])
    assert (p <= 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_many_pairs_are_tested_by_a_sample_that_agrees_with_the_exact_test():
    apart = np.random.default_rng(3).normal(0.3, 1.0, 16)
    exact = statistics.paired([apart], [np.zeros(16)])
    sampled = statistics.paired([[*apart, 0.0]], [np.zeros(17)])  # a difference of 0 has no sign
    assert exact.exact
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=0.01)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_number_of_seeds_is_that_of_tables_for_paired_t_tests(effect, pairs):
    """Cohen's small, medium and large effects at a power of .8 and a level of .05."""
    unit = np.array([-1.0, 1.0]) / math.sqrt(2)  # standard deviation 1
    assert statistics.seeds_needed([unit + effect]) == pairs
    assert statistics.seeds_needed([-unit - effect]) == pairs


def test_the_number_of_seeds_is_no_smaller_than_flipped_signs_allow():
    assert statistics.seeds_needed([[1.0, 1.0, 1.0]]) == 6  # 2 / 2**6 is below .05, 2 / 2**5 above
    assert statistics.seeds_needed([[1.0, 1.0]] * 3) == 2
    assert statistics.seeds_needed([[1.0, -1.0]]) is None
    assert statistics.seeds_needed([[1.0]]) is None


def test_survival_is_that_of_the_textbook():
    """Remission of leukemia under 6-mercaptopurine (Freireich et al. 1963), as every book on survival has it."""
    steps = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    ended = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    times, shares = statistics.survival(steps, [bool(one) for one in ended])
    found = dict(zip(times.tolist(), shares.tolist(), strict=True))
    wanted = {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482, 35: 0.4482}
    assert {time: found[time] for time in wanted} == pytest.approx(wanted, abs=5e-5)


def test_time_to_a_threshold_counts_runs_that_never_got_there():
    steps = [100, 200, 300]
    runs = [(steps, [0.0, 1.0, 0.5]), (steps, [1.0, 1.0, 1.0]), (steps, [0.0, 0.0, math.nan])]
    found = statistics.time_to_threshold(runs, 1.0)
    assert found.steps == (100.0, 200.0, 300.0)
    assert found.reached == (True, True, False)
    assert found.median.value == 200.0
    assert found.median.low == 100.0
    assert found.median.high == math.inf
    never = statistics.time_to_threshold(runs, 2.0).median
    assert (never.value, never.low, never.high) == (math.inf, math.inf, math.inf)
    assert not statistics.time_to_threshold(runs[:1], 1.0).median.known


def test_a_censored_run_is_no_longer_at_risk_and_does_not_count_as_slow():
    """One of two runs was cut short before anything happened; the other got there at 300."""
    found = statistics.time_to_threshold([([100], [0.0]), ([100, 300], [0.0, 1.0])], 1.0)
    assert found.median.value == 300.0


def test_values_are_aligned_along_straight_lines_and_never_beyond_a_run():
    found = statistics.aligned([100, 200, 400], [1.0, 3.0, math.nan], np.array([50, 100, 150, 200, 300]))
    assert found.tolist()[1:4] == [1.0, 2.0, 3.0]
    assert np.isnan(found[[0, 4]]).all()
    assert np.isnan(statistics.aligned([1], [math.nan], np.array([1]))).all()


def test_a_curve_is_of_the_runs_that_there_are():
    runs = np.array([[1.0, 2.0, np.nan], [3.0, 4.0, 5.0], [5.0, np.nan, np.nan]])
    found = statistics.curve([runs], np.array([1, 2, 3]), statistic="mean")
    assert found.value.tolist() == [3.0, 3.0, 5.0]
    assert found.runs.tolist() == [3, 2, 1]
    assert (found.low[:2] < found.value[:2]).all()
    assert np.isnan([found.low[2], found.high[2]]).all()  # one run
    assert statistics.curve([A], np.arange(6)).value == pytest.approx([statistics.iqm([one]) for one in A.T], abs=CLOSE)


def test_smoothing_is_over_the_latest_values():
    found = statistics.smoothed(np.array([1.0, 3.0, math.nan, 5.0, 7.0]), 2)
    assert found[[0, 1, 3, 4]].tolist() == [1.0, 2.0, 5.0, 6.0]
    assert math.isnan(found[2])
    assert statistics.smoothed(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]


# --- what must not change anything ------------------------------------------------------------------------------------


def test_the_order_of_runs_changes_nothing_and_that_of_tasks_no_point_estimate():
    shuffled = np.random.default_rng(1).permuted(A, axis=0)
    assert statistics.aggregates(shuffled, resamples=500) == statistics.aggregates(A, resamples=500)
    assert statistics.performance_profile(shuffled, TAU, resamples=500).low.tolist() == (
        statistics.performance_profile(A, TAU, resamples=500).low.tolist()
    )
    back, plain = (statistics.aggregates(one, resamples=20_000) for one in (A[:, ::-1], A))
    for name, found in plain.items():
        assert back[name].value == pytest.approx(found.value, abs=CLOSE)
        assert (back[name].low, back[name].high) == pytest.approx((found.low, found.high), abs=NEAR)


def test_the_other_sign_turns_everything_round():
    plain, turned = (statistics.aggregates(one, resamples=20_000) for one in (A, -A))
    for name in ("iqm", "mean", "median"):
        assert turned[name].value == pytest.approx(-plain[name].value, abs=CLOSE)
        assert (-turned[name].high, -turned[name].low) == pytest.approx((plain[name].low, plain[name].high), abs=NEAR)


def test_swapping_two_algorithms_turns_their_comparison_round():
    ours, theirs = statistics.probability_of_improvement(A, B), statistics.probability_of_improvement(B, A)
    assert ours.value + theirs.value == pytest.approx(1, abs=CLOSE)
    assert (1 - theirs.high, 1 - theirs.low) == pytest.approx((ours.low, ours.high), abs=NEAR)
    left, right = A[:2].T.tolist(), B[:2].T.tolist()
    one, other = statistics.paired(left, right), statistics.paired(right, left)
    assert one.difference.value == -other.difference.value
    assert one.p == other.p


def test_scores_times_a_number_plus_a_number_move_the_estimates_with_them():
    plain, moved = statistics.aggregates(A, resamples=500), statistics.aggregates(3 * A - 7, resamples=500)
    for name in ("iqm", "mean", "median"):
        for end in ("value", "low", "high"):
            assert getattr(moved[name], end) == pytest.approx(3 * getattr(plain[name], end) - 7, abs=1e-9)


# --- what intervals and tests are worth -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "tasks", "least", "most"), [(10, 6, 0.89, 0.98), (10, 1, 0.85, 0.97), (3, 1, 0.6, 0.85)]
)
def test_intervals_hold_the_truth_as_often_as_they_say_but_for_few_runs(runs, tasks, least, most):
    """Of normal scores around 0; with three runs of one task an interval of 95 % is known to be too narrow."""
    random = np.random.default_rng(5)
    found = [statistics.aggregates(random.normal(size=(runs, tasks)), resamples=300, seed=n) for n in range(200)]
    for name in ("iqm", "mean"):
        held = np.mean([one[name].low <= 0 <= one[name].high for one in found])
        assert least < held < most, name


def test_the_paired_test_finds_no_more_than_its_level_where_there_is_nothing():
    """Skewed scores of 6 seeds of one task: the smallest p is 1/32."""
    random = np.random.default_rng(6)
    p = np.array([_quick_p(random.exponential(size=6), random.exponential(size=6)) for _ in range(1_500)])
    assert (p <= 0.05).mean() == pytest.approx(1 / 32, abs=0.015)  # the only value of p that is not above .05
    assert (p <= 0.25).mean() == pytest.approx(0.25, abs=0.03)


def test_the_test_finds_a_difference_as_often_as_the_number_of_seeds_promises():
    random = np.random.default_rng(7)
    needed = statistics.seeds_needed([np.array([-1.0, 1.0]) / math.sqrt(2) + 0.9])
    assert needed == 12
    p = np.array([_quick_p(random.normal(0.9, 1.0, needed), np.zeros(needed)) for _ in range(400)])
    assert (p <= 0.05).mean() == pytest.approx(0.8, abs=0.08)


def _quick_p(ones, others):
    return statistics.paired([ones], [others], resamples=1).p


# --- too little to say ------------------------------------------------------------------------------------------------


def test_one_run_has_no_interval():
    found = statistics.aggregates([[1.0], [2.0, 3.0]], resamples=100)
    assert found["mean"].value == 1.75
    assert not any(one.known for one in found.values())
    assert not statistics.probability_of_improvement([[1.0]], [[2.0, 3.0]], resamples=100).known
    assert np.isnan(statistics.performance_profile([[1.0]], TAU, resamples=100).low).all()
    assert statistics.paired([[1.0]], [[0.0]], resamples=100).p == 1.0
    assert math.isnan(Estimate(1.0).low)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([[1.0, math.nan]], "expected finite numbers; leave diverged runs out"),
        ([[1.0], []], "at least one run of every task"),
        ([], "at least one run of every task"),
        (np.zeros(3), r"expected an array \(runs, tasks\), got one of shape \(3,\)"),
    ],
)
def test_scores_that_mean_nothing_are_refused_in_words(scores, words):
    with pytest.raises(ConfigError, match=words):
        statistics.aggregates(scores)


def test_comparisons_of_different_things_are_refused_in_words():
    with pytest.raises(ConfigError, match="the same tasks, got 2 and 1"):
        statistics.probability_of_improvement([[1.0], [1.0]], [[1.0]])
    with pytest.raises(ConfigError, match="the same seeds of the same tasks"):
        statistics.paired([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ConfigError, match="at least one run, each with scores"):
        statistics.time_to_threshold([([], [])], 1.0)
