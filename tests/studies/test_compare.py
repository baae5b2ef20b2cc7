"""A comparison brings runs to one step, averages only what has one scale, and says what it leaves out."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from marl.studies import Scores, compare, statistics, tables
from marl.studies.comparison import Comparison
from marl.studies.statistics import Estimate
from marl.studies.tables import said, to_csv
from marl.types import ConfigError

METRIC = "evaluation_return"
_random = np.random.default_rng(20261129)
A = _random.normal(0.6, 0.2, (10, 6))  # runs, tasks
B = _random.normal(0.55, 0.25, (10, 6))


def grid(final, steps=(100, 200, 300), metric=METRIC):
    """Rows of runs that learn evenly: ``final[task, algorithm]`` has the last score of each seed."""
    return [
        (task, algorithm, seed, step, metric, score * (n + 1) / len(steps))
        for (task, algorithm), scores in final.items()
        for seed, score in enumerate(scores)
        for n, step in enumerate(steps)
    ]


def compared(rows, **options) -> Comparison:
    return compare(Scores.from_rows(rows), resamples=options.pop("resamples", 500), **options)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_comparison_has_the_numbers_of_the_statistics():
    names = [f"task{n}" for n in range(6)]
    final = {(task, name): X[:, n] for name, X in (("a", A), ("b", B)) for n, task in enumerate(names)}
    made = compared(grid(final), references=dict.fromkeys(names, (0.0, 1.0)), resamples=2_000)
    for name, X in (("a", A), ("b", B)):
        assert made.aggregates[name]["iqm"].value == pytest.approx(statistics.iqm(X), abs=1e-12)
        assert made.aggregates[name]["optimality_gap"].value == pytest.approx(statistics.optimality_gap(X), abs=1e-12)
        assert made.overall[name].value[-1] == pytest.approx(statistics.iqm(X), abs=1e-12)
    assert made.improvement("a", "b").value == pytest.approx(0.5533333333333333, abs=1e-12)
    back = made.improvement("b", "a")
    assert back.value == pytest.approx(1 - 0.5533333333333333, abs=1e-12)
    assert back.low < back.value < back.high
    (pair,) = made.pairs
    assert pair.difference.value == pytest.approx((A - B).mean(), abs=1e-12)
    assert pair.p == pair.corrected
    assert not pair.distinguishable()


def test_rows_in_another_order_give_the_same_numbers():
    rows = grid({("t", "a"): [1.0, 2.0, 3.0], ("t", "b"): [2.0, 2.0, 5.0]})
    again = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]
    one, other = compared(rows).to_dict(), compared(again).to_dict()
    for made in (one, other):
        for table in ("entries", "curves"):
            made[table].sort(key=lambda entry: entry["algorithm"])
    assert one["entries"] == other["entries"]
    assert one["curves"] == other["curves"]


def test_scores_are_normalized_by_references_also_where_less_is_better():
    made = compared(grid({("t", "a"): [30.0, 20.0]}), references={"t": (40.0, 20.0)})
    assert made.entries["t", "a"].scores == (30.0, 20.0)
    assert made.entries["t", "a"].normalized == (0.5, 1.0)
    assert made.aggregates["a"]["mean"].value == 0.75


def test_random_plays_score_comes_from_the_runs_where_nobody_says_it():
    rows = [*grid({("t", "a"): [5.0, 10.0]}), *(("t", "a", seed, 300, "random_return", -10.0) for seed in (0, 1))]
    made = compared(rows, references={"t": (None, 10.0)})
    assert made.entries["t", "a"].normalized == (0.75, 1.0)


def test_scores_of_several_tasks_without_references_are_not_averaged_but_compared():
    final = {(task, name): np.arange(4) + (name == "b") for task in ("t", "u") for name in ("a", "b")}
    made = compared(grid(final))
    assert not made.aggregates
    assert made.unit == "standard deviations"
    assert made.pairs[0].seeds == 8
    assert made.pairs[0].p == 2 / 2**8
    assert any("are not averaged" in note for note in made.notes)
    half = compared(grid(final), references={"t": (0.0, 1.0)})
    assert not half.aggregates
    assert "no reference scores of u" in half.notes[0]


def test_several_pairs_are_corrected_for_their_number():
    final = {("t", name): np.arange(8) + shift for name, shift in (("a", 0), ("b", 1), ("c", 2))}
    made = compared(grid(final))
    assert [pair.p for pair in made.pairs] == [2 / 2**8] * 3
    assert [pair.corrected for pair in made.pairs] == [6 / 2**8] * 3
    assert all(pair.distinguishable() for pair in made.pairs)


def test_time_to_a_threshold_is_of_every_run_that_there_was():
    rows = [*grid({("t", "a"): [3.0, 3.0]}), ("t", "a", 2, 100, METRIC, 1.0)]
    found = compared(rows, threshold=2.0).times["t", "a"]
    assert found.reached == (False, True, True)
    assert found.median.value == 200
    assert compared(rows, threshold=0.5, references={"t": (1.0, 3.0)}).times["t", "a"].median.value == 200


def test_curves_are_of_returns_in_training_where_runs_were_evaluated_once():
    rows = [*grid({("t", "a"): [3.0, 6.0]}, metric="mean_return"), *grid({("t", "a"): [1.0, 2.0]}, steps=(300,))]
    made = compared(rows)
    assert (made.metric, made.over_time) == (METRIC, "mean_return")
    assert made.curves["t", "a"].value.tolist() == [1.5, 3.0, 4.5]


# --- unequal runs -----------------------------------------------------------------------------------------------------


def test_runs_are_compared_at_the_longest_step_that_all_algorithms_reached():
    rows = [*grid({("t", "a"): [3.0, 3.0]}), *grid({("t", "b"): [1.0, 1.0]}, steps=(100,))]
    made = compared(rows)
    assert made.steps == {"t": 100}
    assert made.entries["t", "a"].scores == (1.0, 1.0)
    assert made.notes[0] == ("t: lengths differ (a 300, b 100 steps): compared at step 100, which all of them reached")
    later = compared(rows, at=300)
    assert ("t", "b") not in later.entries
    assert [str(one) for one in later.lost] == [f"t, b, seed {n}: ended at 100 of 300 steps" for n in (0, 1)]


def test_steps_that_fall_a_little_apart_are_the_same_step():
    """Evaluations come after whole rounds of all copies, which have other sizes for other algorithms."""
    rows = [*grid({("t", "a"): [3.0]}), *grid({("t", "b"): [6.0]}, steps=(104, 208, 312))]
    made = compared(rows)
    assert not made.lost
    assert made.entries["t", "b"].scores == (6.0,)
    assert made.curves["t", "b"].x[0] == 104


def test_diverged_and_shorter_runs_are_listed_and_in_no_number():
    rows = grid({("t", "a"): [1.0, 2.0, math.nan], ("t", "b"): [1.0, 2.0]})
    rows += [
        ("t", "b", 2, 100, METRIC, 1.0),
        ("t", "b", 3, 100, METRIC, math.nan),
        ("t", "b", 3, 300, METRIC, math.nan),
    ]
    made = compared(rows)
    assert made.entries["t", "a"].scores == (1.0, 2.0)
    assert [str(one) for one in made.lost] == [
        "t, a, seed 2: diverged: no finite number from the beginning",
        "t, b, seed 2: ended at 100 of 300 steps",
        "t, b, seed 3: diverged: no finite number from the beginning",
    ]
    assert f"left out of every number: {made.lost[1]}" in made.notes
    assert "numbers of algorithms that lost runs are better than the algorithms are" in made.notes
    assert made.curves["t", "b"].runs.tolist() == [2, 2, 2]


def test_missing_cells_and_seeds_are_named():
    final = {("t", "a"): [1.0, 2.0, 3.0], ("u", "a"): [1.0, 2.0, 3.0], ("t", "b"): [1.0, 2.0]}
    made = compared(grid(final), references={"t": (0.0, 1.0), "u": (0.0, 1.0)})
    assert set(made.aggregates) == {"a"}
    for note in (
        "b has no run of u, so it is not among the aggregates",
        "t: b has no seed 2, which others have",
        "u: there is no run of b",
    ):
        assert note in made.notes
    assert made.pairs[0].seeds == 2
    assert "no run" in tables(made)[0].to_text()


def test_algorithms_without_a_common_seed_or_task_are_not_tested():
    rows = [("t", "a", 0, 1, METRIC, 1.0), ("t", "b", 1, 1, METRIC, 2.0), ("u", "c", 1, 1, METRIC, 2.0)]
    made = compared(rows)
    (pair,) = made.pairs
    assert (pair.p, pair.seeds, pair.improvement.value) == (None, 0, 0.0)
    assert "no seeds in common" in tables(made)[1].to_text()
    assert made.improvement("a", "c") is None


def test_one_seed_has_no_interval_and_few_are_said_to_be_few():
    made = compared(grid({("t", "a"): [1.0], ("t", "b"): [2.0]}))
    assert not made.entries["t", "a"].mean.known
    assert "one seed says nothing of others" in " ".join(made.notes)
    few = compared(grid({("t", "a"): [1.0, 2.0, 3.0], ("t", "b"): [4.0, 5.0, 6.0]}))
    text = " ".join(few.notes)
    assert "3 seeds are few: intervals of fewer than 5 are too narrow" in text
    assert "3 pairs of runs are too few for a test" in text
    assert "it takes 6 pairs" in text
    assert few.pairs[0].needed == 6
    enough = compared(grid({("t", "a"): np.arange(6.0), ("t", "b"): np.arange(6.0) + 1}))
    assert not enough.notes
    assert enough.pairs[0].distinguishable()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "retrun"}, "there is no metric 'retrun'; known: evaluation_return"),
        ({"references": {"x": (0.0, 1.0)}}, "references: no task 'x'; tasks: t"),
        ({"references": {"t": (1.0, 1.0)}}, "expected two different numbers"),
        ({"references": {"t": (None, 1.0)}}, "expected two different numbers, .* got nan and 1"),
        ({"level": 1.0}, "level: expected a number between 0 and 1"),
        ({"at": 9_000}, "no run has a finite evaluation_return at the step"),
        ({"threshold": math.nan}, "threshold: expected a finite number"),
    ],
)
def test_questions_without_an_answer_are_refused_in_words(options, words):
    with pytest.raises(ConfigError, match=words):
        compared(grid({("t", "a"): [1.0, 2.0]}), **options)


# --- tables -----------------------------------------------------------------------------------------------------------

FINAL = {("t", "a_b"): np.arange(6.0), ("t", "c%"): np.arange(6.0) + 1}


def test_the_best_is_marked_in_every_kind_of_table():
    made = compared(grid(FINAL), threshold=3.0)
    first, second, third, last = tables(made)
    mean = said(made.entries["t", "c%"].mean)
    assert f"{mean}  n=6 *" in first.to_text()
    assert rf"\textbf{{{mean}  n=6}}" in first.to_latex()
    assert r"a\_b & " in first.to_latex()
    assert f"| c% | **{mean.replace('[', chr(92) + '[').replace(']', chr(92) + ']')}  n=6** |" in first.to_markdown()
    assert [len(row) for row in second.rows] == [4, 4]
    assert "c% is better" in third.to_text()
    assert "3 of 6" in last.to_text()


def test_latex_has_minus_signs_and_no_live_characters():
    made = compared(grid({("t", r"\input{x}"): -np.arange(4.0) - 5}))
    text = tables(made)[0].to_latex()
    assert r"\textbackslash{}input\{x\}" in text
    assert "$-$" in text
    assert "[-" not in text


def test_digits_tell_the_ends_of_an_interval_apart():
    assert said(Estimate(0.56789, 0.5196, 0.618)) == "0.568 [0.520, 0.618]"
    assert said(Estimate(-123.456, -130.0, -110.0)) == "-123 [-130, -110]"
    assert said(Estimate(1.0, 1.0, 1.0)) == "1.00 [1.00, 1.00]"
    assert said(Estimate(-42.123)) == "-42.1"
    assert said(Estimate(1.02378, 1.02358, 1.02399)) == "1.024 [1.024, 1.024]"
    assert said(Estimate(0.0012345, 0.0012, 0.0013)) == "0.00123 [0.00120, 0.00130]"
    assert said(Estimate(0.0)) == "0.00"


def test_all_numbers_are_in_one_tidy_table_and_in_json():
    made = compared(grid(FINAL), threshold=30.0)
    rows = list(csv.DictReader(io.StringIO(to_csv(made))))
    runs = [float(row["value"]) for row in rows if (row["kind"], row["algorithm"]) == ("run", "c%")]
    assert runs == list(made.entries["t", "c%"].scores)
    assert {row["kind"] for row in rows} == {"score", "run", "aggregate", "pair", "time", "curve", "profile"}
    assert [row["value"] for row in rows if row["kind"] == "time"] == ["", ""]  # never reached
    data = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert data["entries"][1]["scores"] == runs
    assert data["times"][0]["median"]["value"] is None
    assert data["pairs"][0]["distinguishable"] is True
