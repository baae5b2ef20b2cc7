"""``marl report`` and ``marl plot`` on run folders that nobody had to train."""

from __future__ import annotations

import json
import math

import pytest

import marl
from marl.studies.run_curves import groups, runs_figure
from marl.types import ConfigError
from tests.support.runs import learning, run_folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two algorithms on two tasks, six seeds each, one of which diverged."""
    folder = tmp_path_factory.mktemp("study")
    for task, low in (("spread", -80.0), ("foraging", 0.0)):
        for name, learner, gain in (("mappo", marl.mappo(), 1.0), ("qmix", marl.qmix(), 0.6)):
            for seed in range(6):
                ends = [low + (gain + seed / 50) * share * 10 for share in (0.2, 0.7, 1.0)]
                ended: list[float | None] = (
                    [*ends[:2], None] if (task, name, seed) == ("spread", "qmix", 5) else [*ends]
                )
                where = folder / task / name / f"seed-{seed}"
                run_folder(where, learning(*ended), seed=seed, task=task, learner=learner, env=f"marl/{task}-v0")
    return folder


REFERENCES = ("--reference", "spread=-80,-70", "--reference", "foraging=0,10")


def test_report_prints_tables_and_what_was_left_out(study, marl_command):
    told = marl_command("report", study, *REFERENCES, "--resamples", 200, "--threshold", 0.9)
    assert told.code == 0, told.err
    assert "spread at 300" in told.out
    assert "normalized scores" in told.out
    assert "mappo is better" in told.out
    assert "normalized score 0.9" in told.out
    assert (
        "note: left out of every number: spread, qmix, seed 5: diverged: no finite number after 200 steps" in told.out
    )


def test_report_as_json_has_every_number_and_nothing_else(study, marl_command, tmp_path):
    out = tmp_path / "deep"
    files = ("--csv", out / "all.csv", "--marl-eval", out / "scores.json")
    told = marl_command("report", study, *REFERENCES, "--resamples", 200, "--json", *files)
    data = json.loads(told.out)
    assert data["written"] == [str(out / "all.csv"), str(out / "scores.json")]
    assert data["normalized"] is True
    assert {entry["algorithm"] for entry in data["entries"]} == {"mappo", "qmix"}
    assert data["aggregates"]["mappo"]["mean"]["value"] == pytest.approx(1 + 2.5 / 50)
    assert len(data["pairs"]) == 1
    # The JSON of marl-eval is read again, beside run folders too.
    again = marl_command(
        "report", out / "scores.json", "--rename", "scenarios/spread=spread", "--resamples", 9, "--json"
    )
    assert json.loads(again.out)["entries"][0]["scores"] == data["entries"][0]["scores"]


def test_report_speaks_markdown_and_latex(study, marl_command):
    markdown = marl_command("report", study / "spread", "--resamples", 9, "--markdown").out
    assert "| mappo | **" in markdown
    assert "\n- left out of every number" in markdown
    latex = marl_command("report", study / "spread", "--resamples", 9, "--latex").out
    assert latex.count(r"\begin{tabular}") == 3
    assert "% left out of every number" in latex


def test_report_draws_curves_profiles_aggregates_and_pairs(study, marl_command, tmp_path):
    pytest.importorskip("matplotlib")
    told = marl_command("report", study, *REFERENCES, "--resamples", 9, "--plot", tmp_path)
    assert told.code == 0, told.err
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"curves.png", "profiles.png", "aggregates.png", "pairs.png"}
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "WHAT is missing"),
        (("nowhere",), r"run nowhere: there is no metrics.jsonl"),
        (("STUDY", "--metric", "nothing"), "there is no nothing in any of them; known: evaluation_return"),
        (("STUDY", "--reference", "spread=3"), "--reference: expected TASK=RANDOM,BEST, two numbers, got 'spread=3'"),
        (("STUDY", "--reference", "spraed=0,1"), "references: no task 'spraed'; tasks: "),
        (("STUDY", "--rename", "spread"), "--rename: expected OLD=NEW, got 'spread'"),
        (("STUDY", "--json", "--latex"), "exclude each other"),
        (("STUDY", "--resamples", "0"), "resamples: expected a whole number of at least 1"),
        (("STUDY", "--resamples", "9", "--csv", "/dev/null/x"), "--csv /dev/null/x: cannot be written"),
    ],
)
def test_what_report_cannot_do_is_said_in_one_line(study, marl_command, words, error):
    told = marl_command("report", *(study if word == "STUDY" else word for word in words))
    assert told.code == 2
    assert error in told.error


# --- marl plot --------------------------------------------------------------------------------------------------------


def test_seeds_of_the_same_settings_are_one_line_with_its_interval(study):
    pytest.importorskip("matplotlib")
    figure = runs_figure(groups([study / "foraging"]), ["evaluation_return"])
    (axis,) = figure.axes
    assert axis.get_legend_handles_labels()[1] == [
        "mappo, mean of 6 seeds, 95 % CI",
        "qmix, mean of 6 seeds, 95 % CI",
    ]
    means = [line for line in axis.get_lines() if str(line.get_label()).startswith("mappo")]
    assert means[0].get_ydata()[-1] == pytest.approx(10 * (1 + 2.5 / 50))
    assert len(axis.get_lines()) == 2 * (1 + 6)  # each seed thin
    assert len(axis.collections) == 2
    assert axis.get_xlabel() == "environment steps (all copies)"
    assert axis.get_ylabel() == "return of evaluations (greedy), sum over all agents"


def test_one_run_is_drawn_as_it_is_and_smoothed_on_request(tmp_path, marl_command):
    pytest.importorskip("matplotlib")
    run = run_folder(tmp_path / "run", learning(1.0, 3.0, 8.0, metric="entropy"))
    (line,) = runs_figure(groups([run]), ["entropy"]).axes[0].get_lines()
    assert (list(line.get_ydata()), line.get_label()) == ([1.0, 3.0, 8.0], "run")
    (line,) = runs_figure(groups([run]), ["entropy"], smooth=2).axes[0].get_lines()
    assert list(line.get_ydata()) == [1.0, 2.0, 5.5]
    assert runs_figure(groups([run]), ["entropy"]).axes[0].get_ylabel() == "entropy of policies (nat)"
    said = marl_command("plot", run, "--metric", "entropy", "--smooth", 2, "--out", tmp_path / "x" / "curve.svg")
    assert said.code == 0, said.err
    assert b"<svg" in (tmp_path / "x" / "curve.svg").read_bytes()
    assert marl_command("plot", run, "--smooth", 0).error.endswith("expected a whole number of at least 1, got 0")
    assert "there is no nothing to plot" in marl_command("plot", run, "--metric", "nothing").error
    assert "--out" in marl_command("plot", run, "--out", tmp_path / "curve.xyz").error


def test_seeds_with_other_steps_are_drawn_on_common_ones(tmp_path):
    pytest.importorskip("matplotlib")
    run_folder(tmp_path / "a", [{"steps": n, "mean_return": float(n)} for n in (100, 200, 300)], seed=0)
    run_folder(tmp_path / "b", [{"steps": n, "mean_return": float(n)} for n in (110, 210, 250)], seed=1)
    mean = next(line for line in runs_figure(groups([tmp_path])).axes[0].get_lines() if "mean of 2" in line.get_label())
    assert list(mean.get_xdata()) == [110.0, 205.0, 300.0]
    assert list(mean.get_ydata()) == pytest.approx([110.0, 205.0, 300.0])


def test_a_run_with_nothing_to_draw_is_named(tmp_path):
    pytest.importorskip("matplotlib")
    run_folder(tmp_path / "a", learning(1.0))
    run_folder(tmp_path / "b", [{"steps": 1, "seconds": math.pi}], seed=1)
    with pytest.raises(ConfigError, match=r"b: there is nothing to plot yet"):
        runs_figure(groups([tmp_path]))
