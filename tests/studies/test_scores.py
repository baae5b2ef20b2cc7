"""Scores come from rows, run folders, studies and other frameworks, and go out again as they were."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

import marl
from marl.studies import ScoreRow, Scores
from marl.studies.run_folders import references_of
from marl.types import ConfigError
from tests.support.runs import learning, run_folder

ROWS = [
    ("spread", "qmix", 0, 100, "return", -3.0, (-2.0, -4.0)),
    ("spread", "qmix", 0, 200, "return", 1 / 3),
    ("marl/tag-v0", "vdn", 12, 100, "return", math.nan),
    ("marl/tag-v0", "vdn", 12, 100, "final/return", 2.0, (1.0, 3.0)),
]


def same(ones, others):
    """NaN equals NaN, which it does not by itself."""
    return sorted(map(repr, ones)) == sorted(map(repr, others))


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_tuples_mappings_or_rows():
    made = Scores.from_rows(ROWS)
    assert made.rows[0] == ScoreRow("spread", "qmix", 0, 100, "return", -3.0, (-2.0, -4.0))
    assert same(Scores.from_rows(made.rows).rows, made.rows)
    assert same(Scores.from_rows(vars(row) for row in made.rows).rows, made.rows)
    assert (made.tasks, made.algorithms) == (("spread", "marl/tag-v0"), ("qmix", "vdn"))
    assert made.metrics == ("return", "final/return")
    assert repr(made) == "<Scores: 2 runs, 2 tasks, 2 algorithms; return, final/return>"


def test_curves_are_in_the_order_of_steps_whatever_the_order_of_rows():
    steps, values = Scores.from_rows(ROWS[1::-1]).curves("return")["spread", "qmix"][0]
    assert steps.tolist() == [100, 200]
    assert values.tolist() == [-3.0, 1 / 3]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("a", "b", 0, 1, "m"), "row 0: value missing"),
        ({"task": "a", "tsak": 1}, "unknown fields tsak"),
        (("", "b", 0, 1, "m", 1.0), "row 0: task: expected a name"),
        (("a\nb", "b", 0, 1, "m", 1.0), "row 0: task: expected a name"),
        (("a", "b", -1, 1, "m", 1.0), "row 0: seed: expected a whole number of at least 0, got -1"),
        (("a", "b", 0, 1.5, "m", 1.0), "row 0: step: expected a whole number"),
        (("a", "b", 0, 1, "m", "1"), "row 0: value: expected a number, got '1'"),
        (("a", "b", 0, 1, "m", True), "row 0: value: expected a number, got True"),
    ],
)
def test_rows_that_make_no_sense_are_refused_in_words(row, words):
    with pytest.raises(ConfigError, match=words):
        Scores.from_rows([row])


def test_the_same_number_twice_is_refused_naming_both():
    with pytest.raises(ConfigError, match=r"return of spread, qmix, seed 0 at step 100 is there twice, as -3 and 7"):
        Scores.from_rows([ROWS[0], (*ROWS[0][:5], 7.0)])


def test_numbers_that_are_not_finite_are_nan():
    assert math.isnan(Scores.from_rows([("a", "b", 0, 1, "m", math.inf)]).rows[0].value)
    assert math.isnan(Scores.from_rows([("a", "b", 0, 1, "m", 10**400)]).rows[0].value)


def test_other_names_bring_two_frameworks_together():
    ours = Scores.from_rows([("spread", "qmix", 0, 1, "evaluation_return", 1.0)])
    theirs = Scores.from_rows([("mpe/simple_spread", "QMIX", 0, 1, "return", 2.0)])
    names = {"mpe/simple_spread": "spread", "return": "evaluation_return"}
    both = ours + theirs.renamed(names)
    assert (both.tasks, both.algorithms, both.metrics) == (("spread",), ("qmix", "QMIX"), ("evaluation_return",))


# --- going out --------------------------------------------------------------------------------------------------------


def test_a_csv_gives_every_number_back_as_it_was(tmp_path):
    text = Scores.from_rows(ROWS).to_csv(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["value"] for row in rows] == ["-3.0", repr(1 / 3), "", "2.0"]
    assert rows[0]["episodes"] == "-2.0 -4.0"


def test_pandas_reads_a_column_for_each_field():
    pytest.importorskip("pandas")
    table = Scores.from_rows(ROWS).to_pandas()
    assert list(table.columns) == ["task", "algorithm", "seed", "step", "metric", "value", "episodes"]
    assert table[table.task == "spread"].value.tolist() == [-3.0, 1 / 3]


def test_marl_evals_json_has_its_structure_and_comes_back(tmp_path):
    made = Scores.from_rows(ROWS)
    data = made.to_marl_eval(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text()) == data
    assert data["scenarios"]["spread"]["qmix"]["seed_0"] == {
        "step_0": {"step_count": 100, "return": [-2.0, -4.0]},
        "step_1": {"step_count": 200, "return": [1 / 3]},
        "absolute_metrics": {"return": [1 / 3]},
    }
    assert data["marl"]["tag-v0"]["vdn"]["seed_12"]["step_0"]["return"] == [None]
    last = ScoreRow("spread", "qmix", 0, 200, "final/return", 1 / 3)  # marl-eval wants one of every run
    assert same(Scores.from_marl_eval(tmp_path / "scores.json").rows, [*made.rows, last])


# --- other frameworks -------------------------------------------------------------------------------------------------

OTHERS = {
    "smax": {
        "2s3z": {
            "ff_mappo": {
                "seed_7": {
                    "step_0": {"elapsed_time": 3.2, "step_count": 1000, "win_rate": [0.0, 1.0], "note": [2]},
                    "step_1": {"step_count": 2000.0, "win_rate": 1.0},
                    "absolute_metrics": {"win_rate": [1.0, 1.0, 0.0, 1.0]},
                },
            }
        }
    }
}


def test_json_of_another_framework_is_read():
    rows = {(row.step, row.metric): row for row in Scores.from_marl_eval(OTHERS).rows}
    assert rows[1000, "win_rate"] == ScoreRow("smax/2s3z", "ff_mappo", 7, 1000, "win_rate", 0.5, (0.0, 1.0))
    assert rows[2000, "win_rate"].value == 1.0
    assert rows[2000, "final/win_rate"].value == 0.75
    assert set(rows) == {(1000, "win_rate"), (1000, "note"), (2000, "win_rate"), (2000, "final/win_rate")}


def test_runs_without_a_number_of_their_own_are_counted():
    step = {"step_0": {"step_count": 1, "r": [1.0]}}
    for names, seeds in ((("run_3", "run_1"), [3, 1]), (("a", "b"), [0, 1]), (("x_1", "y_1"), [0, 1])):
        data = {"e": {"t": {"a": dict.fromkeys(names, step)}}}
        assert [row.seed for row in Scores.from_marl_eval(data).rows] == seeds


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "there are no scores"),
        ({"e": [1]}, "marl-eval: e: expected an object"),
        (
            {"e": {"t": {"a": {"run_1": {"step_0": {"r": [1.0]}}}}}},
            "step_0: step_count: expected a whole number, got None",
        ),
        ({"e": {"t": {"a": {"run_1": {"step_0": {"step_count": 1, "r": ["x"]}}}}}}, "r: expected a list of numbers"),
        ({"e": {"t": {"a": {"run_1": {"step_0": {"step_count": 1, "r": []}}}}}}, "r: expected a list of numbers"),
        ({"e": {"t\n": {"a": {"run_1": {"step_0": {"step_count": 1, "r": [1]}}}}}}, "task: expected a name"),
    ],
)
def test_json_of_another_structure_is_refused_naming_the_place(data, words):
    with pytest.raises(ConfigError, match=words):
        Scores.from_marl_eval(data)


def test_files_are_read_with_pythons_nan_and_refused_where_they_are_no_json(tmp_path):
    file = tmp_path / "m.json"
    file.write_text('{"e": {"t": {"a": {"run_1": {"step_0": {"step_count": 1, "r": [NaN, 1]}}}}}}')
    assert math.isnan(Scores.from_marl_eval(file).rows[0].value)
    for text in ("[1]", "{", '{"a": 1, "a": 2}', "[" * 100_000):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"m\.json: "):
            Scores.from_marl_eval(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        Scores.from_marl_eval(tmp_path / "nowhere.json")


# --- run folders ------------------------------------------------------------------------------------------------------


def test_run_folders_are_found_at_any_depth_and_named_by_what_they_trained(tmp_path):
    run_folder(tmp_path / "a" / "s10", learning(1.0, 2.0), seed=10)
    run_folder(tmp_path / "a" / "s9", learning(3.0), seed=9)
    run_folder(tmp_path / "q", learning(5.0), task="spread_qmix", learner=marl.qmix())
    run_folder(tmp_path / "asked", learning(5.0), learner=marl.ippo(), seed=11, algorithm="ippo")
    made = Scores.from_runs([tmp_path, tmp_path / "a"])  # twice the same folder is once
    runs = dict.fromkeys((row.task, row.algorithm, row.seed) for row in made.rows)
    assert list(runs) == [("spread", "ppo", 9), ("spread", "ppo", 10), ("spread", "ippo", 11), ("spread", "qmix", 0)]
    assert made.curves("evaluation_return")["spread", "ppo"][10][1].tolist() == [1.0, 2.0]
    assert set(made.metrics) == {"mean_return", "evaluation_return"}


def test_runs_of_other_settings_are_told_apart_by_what_differs(tmp_path):
    for seed in (0, 1):
        run_folder(tmp_path / f"slow{seed}", learning(1.0), learner=marl.ippo(lr=1e-4), seed=seed)
        run_folder(tmp_path / f"fast{seed}", learning(1.0), learner=marl.ippo(lr=1e-2), seed=seed)
    run_folder(tmp_path / "large", learning(1.0), learner=marl.ippo(lr=1e-2), env_kwargs={"agents": 5})
    made = Scores.from_runs(tmp_path)
    assert set(made.algorithms) == {"ppo (learner.lr=0.0001)", "ppo (learner.lr=0.01)", "ppo"}
    assert len(made.tasks) == 2
    assert "spread (env_kwargs.agents=5)" in made.tasks


def test_a_schedule_is_told_as_one_value(tmp_path):
    run_folder(tmp_path / "a", learning(1.0), learner=marl.ippo(lr=marl.Linear(1e-3, 0.0)))
    run_folder(tmp_path / "b", learning(1.0), learner=marl.ippo(lr=1e-4))
    names = {"ppo (learner.lr=Linear(0.001, 0.0))", "ppo (learner.lr=0.0001)"}
    assert set(Scores.from_runs(tmp_path).algorithms) == names


def test_runs_that_differ_in_much_are_numbered(tmp_path):
    run_folder(tmp_path / "a", learning(1.0), learner=marl.ippo())
    changed = marl.ippo(lr=1.0, clip=0.5, epochs=3, rollout=7, discount=0.5)
    run_folder(tmp_path / "b", learning(1.0), learner=changed)
    assert len(Scores.from_runs(tmp_path).algorithms) == 2
    assert all("and 2 more" in name for name in Scores.from_runs(tmp_path).algorithms)


def test_two_runs_of_the_same_settings_and_seed_are_refused_naming_both(tmp_path):
    run_folder(tmp_path / "a", learning(1.0))
    run_folder(tmp_path / "b", learning(1.0))
    with pytest.raises(ConfigError, match=r"/a and .*/b are of the same settings and seed \(spread, ppo, seed 0\)"):
        Scores.from_runs(tmp_path)


def test_the_evaluation_at_the_end_comes_with_its_episodes_beside_random_play(tmp_path):
    report = {"mean_return": -2.0, "returns": [-1.0, -3.0]}
    run_folder(tmp_path / "a", [], summary={"steps": 500, "evaluation": report, "random": {"mean_return": -9.0}})
    final, random = Scores.from_runs(tmp_path).rows
    assert final == ScoreRow("spread", "ppo", 0, 500, "final/evaluation_return", -2.0, (-1.0, -3.0))
    assert (random.metric, random.value, random.episodes) == ("random_return", -9.0, ())


def test_a_run_that_logged_nothing_is_not_forgotten(tmp_path):
    run_folder(tmp_path / "a", learning(1.0), seed=0)
    run_folder(tmp_path / "b", [{"steps": 50, "mean_return": 0.0}], seed=1)
    run_folder(tmp_path / "c", learning(None), seed=2)
    values = {row.seed: row.value for row in Scores.from_runs(tmp_path).rows if row.metric == "evaluation_return"}
    assert values[0] == 1.0
    assert math.isnan(values[1])
    assert math.isnan(values[2])


def test_any_metric_may_be_asked_for(tmp_path):
    run_folder(tmp_path / "a", learning(1.0, metric="entropy"))
    assert "entropy" not in Scores.from_runs(tmp_path).metrics
    assert Scores.from_runs(tmp_path, ["entropy"]).curves("entropy")
    with pytest.raises(ConfigError, match="no kl in any of them; known: entropy, mean_return"):
        Scores.from_runs(tmp_path, ["kl"])


def test_a_study_names_its_cells_and_those_that_have_not_begun_count(tmp_path):
    cells = [
        {"task": "small", "algorithm": "qmix lr=0.1", "seed": seed, "folder": f"small/qmix/seed-{seed}"}
        for seed in (0, 1)
    ]
    run_folder(tmp_path / "cells" / "small" / "qmix" / "seed-0", learning(4.0))
    run_folder(tmp_path / "replaced" / "old", learning(5.0))
    said = {"study": "mine", "cells": cells, "references": {"small": {"random": None, "best": 9}, "other": {}}}
    (tmp_path / "study.json").write_text(json.dumps(said))
    rows = [row for row in Scores.from_runs(tmp_path).rows if row.metric == "evaluation_return"]
    assert [(row.task, row.algorithm, row.seed) for row in rows] == [("small", "qmix lr=0.1", seed) for seed in (0, 1)]
    assert rows[0].value == 4.0
    assert math.isnan(rows[1].value)
    assert references_of([tmp_path]) == {"small": (None, 9.0), "other": (None, None)}
    cells[0]["folder"] = "../../elsewhere"
    (tmp_path / "study.json").write_text(json.dumps(said))
    with pytest.raises(ConfigError, match="cells: expected task, algorithm, seed and folder"):
        Scores.from_runs(tmp_path)


def test_folders_without_runs_and_damaged_ones_are_refused_in_words(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no metrics\.jsonl; expected a folder that marl train wrote"):
        Scores.from_runs(tmp_path)
    run_folder(tmp_path / "a", [])
    with pytest.raises(ConfigError, match="no episode had ended"):
        Scores.from_runs(tmp_path)
    for damaged in ({}, {"settings": 3}, {"settings": {"learner": {}, "seed": "x"}}):
        (tmp_path / "a" / "config.json").write_text(json.dumps(damaged))
        with pytest.raises(ConfigError, match=r"config\.json: .*was it edited"):
            Scores.from_runs(tmp_path)
