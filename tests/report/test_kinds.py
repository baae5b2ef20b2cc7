"""Pages of eight kinds of runs in a real browser: nothing is complained of, nothing asked for, nothing left out."""

from __future__ import annotations

import json

import pytest

from marl.cli import main
from marl.logs.metrics import line_of
from tests.support.browser import browser, needs_browser

pytest.importorskip("scipy")
KINDS = {
    "spread_native": [],
    "tag_league": [],
    "tictactoe": [],
    "reference_tarmac": [],
    "gridworld_curriculum": [],
    "kuhn": ["--set", "league.response_steps=200", "--set", "league.games=20"],
}
SECTIONS = {"runs", "curves", "evaluation", "replay", "cost", "settings"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, request):
    """A short run of each, with episodes; one that was interrupted; a study of two tasks and two algorithms."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, more in KINDS.items():
        run = str(folder / name)
        sizes = ["--steps", "600", "--num-envs", "4", "--episodes", "4"]
        assert main(["train", name, *sizes, "--run-dir", run, "--json", *more]) == 0
        assert main(["play", run, "--record", f"{run}/episodes.npz", "--episodes", "3", "--json"]) == 0
    stopped = folder / "interrupted"
    stopped.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (stopped / name).write_bytes((folder / "spread_native" / name).read_bytes())
    with (stopped / "metrics.jsonl").open("ab") as file:
        file.write(b'nonsense\n{"steps": 700, "mean_ret')
    study(folder / "study")
    return folder


def study(folder):
    cells = []
    for task in ("near", "far"):
        for algorithm, slope in (("ippo", 1.0), ("vdn", 2.0)):
            for seed in range(3):
                place = f"{task}-{algorithm}-{seed}"
                cells.append({"task": task, "algorithm": algorithm, "seed": seed, "folder": place})
                (folder / "cells" / place).mkdir(parents=True)
                rows = [{"steps": 10 * n, "mean_return": slope * n + seed / 8} for n in range(1, 6)]
                (folder / "cells" / place / "metrics.jsonl").write_bytes(b"".join(map(line_of, rows)))
    references = {task: {"random": 0.0, "best": 10.0} for task in ("near", "far")}
    (folder / "study.json").write_text(json.dumps({"cells": cells, "references": references}))


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab()


def opened(tab, runs, name, capsys):
    """The page of a run, of which the browser says nothing."""
    out = runs / f"{name}.html"
    assert main(["report", str(runs / name), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    before = len(tab.asked)
    tab.open(f"file://{out}")
    assert tab.said == []
    assert tab.asked[before:] == [f"file://{out}"]
    return said, set(tab.run("[...document.querySelectorAll('section')].map((one) => one.id)"))


@needs_browser
@pytest.mark.parametrize("name", KINDS)
def test_a_run_has_all_its_sections(tab, runs, name, capsys):
    said, sections = opened(tab, runs, name, capsys)
    assert sections >= SECTIONS
    assert said["bytes"] < 1_500_000
    if name in ("tag_league", "tictactoe", "kuhn"):
        assert "league" in sections
        members = tab.texts("#league tbody th")
        assert len(members) >= 2
    if name == "kuhn":  # PSRO's table: who pays whom, with errors
        payoffs = tab.texts("#league .payoff")
        assert len(payoffs) >= 4
        assert all("±" in one for one in payoffs)
    if name == "reference_tarmac":
        assert "attention" in tab.texts("#heard thead th")
        tab.run("replayOf.go(5)")
        weight, share = tab.texts("#heard tbody td")[0], tab.texts("#heard tbody td")[2]
        assert (weight, share) == ("1", "1")  # of two agents each hears the other alone
    if name == "gridworld_curriculum":
        assert any("stage" in one for one in tab.texts(".choices label"))


@needs_browser
def test_an_interrupted_run_says_what_is_missing(tab, runs, capsys):
    _, sections = opened(tab, runs, "interrupted", capsys)
    assert {"runs", "curves", "notes"} <= sections
    notes = " ".join(tab.texts("#missing li"))
    assert "summary.json" in notes
    assert "1 lines of metrics.jsonl are damaged" in notes


@needs_browser
def test_a_study_has_curves_profiles_and_pairs_with_their_intervals(tab, runs, capsys):
    _, sections = opened(tab, runs, "study", capsys)
    assert "comparison" in sections
    titles = tab.texts("#comparison figcaption")
    assert [one.split(":")[0] for one in titles] == ["near", "far", "all tasks", "performance profile"]
    bands = tab.run(
        "[...document.querySelectorAll('#comparison svg .band')].filter((one) => one.getAttribute('d')).length"
    )
    assert bands == 8  # of two algorithms in four charts
    names, cells = tab.texts("#pairs tbody th"), tab.texts("#pairs tbody td")
    assert names == ["ippo", "vdn"]
    assert cells[1].split()[0] == "0"  # no run of IPPO is better than any of VDN
    assert cells[2].split()[0] == "1"
