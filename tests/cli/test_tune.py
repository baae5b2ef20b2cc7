"""``marl tune``, ``race``, ``find-optimizer``, ``find-lr``: trials are runs, bad ones end early, nothing is lost."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from marl.cli import main
from marl.logs import read_metrics
from marl.logs.files import read_json
from marl.scenario import find
from marl.studies.trials import Trials
from tests.support.commands import HereAsking

FILE = """
import marl

tiny = marl.Scenario(
    name="tiny",
    env="CartPole-v1",
    agents=marl.ippo(rollout=8, minibatches=1, epochs=2, lr=1e-3, network=marl.MLP((8,))),
    algorithms={"iql": {"agents": marl.iql(learning_starts=16, batch=8, network=marl.MLP((8,)))}},
    num_envs=2,
    steps=144,
)
search = marl.Search(
    {"learner.lr": marl.LogUniform(1e-3, 1.0), "learner.clip": marl.Choice([0.1, 0.2])},
    trials=5,
    reduction=3,
    evaluate_episodes=2,
    final_seeds=0,
)
"""


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr("marl.cli.schedule.CellProcess", HereAsking)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tuning") / "space.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def unbroken(file):
    """A search from beginning to end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marl.cli.schedule.CellProcess", HereAsking)
        out = file.parent / "unbroken"
        assert main(["tune", str(file), "--out", str(out), "--jobs", "1", "--json"]) == 0
    return out


def trials(out):
    return read_json(out / "result.json")["trials"]


def test_a_search_ends_with_its_best_trial_as_a_scenario(unbroken):
    said = read_json(unbroken / "result.json")
    assert [trial["number"] for trial in said["trials"]] == list(range(5))
    assert {trial["status"] for trial in said["trials"]} == {"complete", "pruned"}
    whole = [trial for trial in said["trials"] if trial["status"] == "complete"]
    assert said["best"]["value"] == max(trial["value"] for trial in whole)
    assert said["steps"] == sum(trial["steps"] for trial in said["trials"])
    assert said["share"] == pytest.approx(said["steps"] / (5 * 2 * 144))
    assert said["share"] < 1
    scenario = find(str(unbroken / "best.py"))
    assert (scenario.name, scenario.steps) == ("tiny_tuned", 144)
    assert repr(scenario.agents.lr) == said["best"]["settings"]["learner.lr"]
    assert repr(scenario.agents.clip) == said["best"]["settings"]["learner.clip"]
    assert {"parallel.png", "trials.png"} <= {path.name for path in unbroken.iterdir()}


def test_a_trials_value_is_the_mean_of_its_seeds_last_evaluations(unbroken):
    for trial in trials(unbroken):
        folder = unbroken / "trials" / f"{trial['number']:04d}"
        rows = [[row for row in read_metrics(run) if "evaluation_return" in row] for run in sorted(folder.iterdir())]
        last = [each[-1]["evaluation_return"] for each in rows]
        assert trial["value"] == pytest.approx(sum(last) / len(last))
        trained = sum(int(each[-1]["steps"]) for each in rows)
        assert trial["steps"] == trained
        assert (trained == 2 * 144) == (trial["status"] == "complete")


def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(file, unbroken, here, monkeypatch):
    out, calls = file.parent / "broken", []
    report = Trials.report

    def cut_off(self, number, steps, value):
        calls.append(number)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return report(self, number, steps, value)

    monkeypatch.setattr(Trials, "report", cut_off)
    assert main(["tune", str(file), "--out", str(out), "--jobs", "1", "--quiet"]) == 130
    assert not (out / "result.json").exists()
    with open(out / "optuna.journal", "a") as journal:
        journal.write('{"op_code": 4, "wor')  # the half of a line, as a kill leaves it
    monkeypatch.setattr(Trials, "report", report)
    assert main(["tune", str(file), "--out", str(out), "--jobs", "1", "--quiet"]) == 0
    assert trials(out) == trials(unbroken)
    for run in sorted((unbroken / "trials").glob("*/seed-*")):
        there = [row["steps"] for row in read_metrics(out / run.relative_to(unbroken))]
        assert there == [row["steps"] for row in read_metrics(run)], run


def test_more_trials_go_on_with_a_search_and_keep_what_is_there(file, unbroken, here, tmp_path):
    out = tmp_path / "more"
    shutil.copytree(unbroken, out)
    assert main(["tune", str(file), "--out", str(out), "--jobs", "1", "--trials", "6", "--quiet"]) == 0
    assert trials(out)[:5] == trials(unbroken)
    assert len(trials(out)) == 6


def test_two_workers_share_a_search(file, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["tune", str(file), "--out", str(out), "--jobs", "2", "--trials", "4", "--seeds", "1", "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert [trial["number"] for trial in said["trials"]] == [0, 1, 2, 3]
    assert not [trial for trial in said["trials"] if trial["status"] not in ("complete", "pruned")]
    assert sorted(run.parent.name for run in out.glob("trials/*/seed-0")) == ["0000", "0001", "0002", "0003"]


def test_the_best_is_compared_with_the_default_on_fresh_seeds_and_episodes(file, here, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["tune", str(file), "--out", str(out), "--jobs", "1", "--trials", "2", "--seeds", "1", "--json"]
    assert main([*words, "--final-seeds", "1"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    study = read_json(out / "final" / "study.json")
    assert study["seeds"] == [1]  # trials had seed 0
    assert study["algorithms"] == ["tuned", "default"]
    searched = read_json(out / "trials/0000/seed-0/config.json")["asked"]
    fresh = read_json(out / "final/cells/tiny/tuned/seed-1/config.json")["asked"]
    assert (searched["evaluate_seed"], searched["evaluate"]) == (0, False)
    assert (fresh["evaluate_seed"], fresh["evaluate"]) == (2, True)  # and 3 at the end
    assert [*fresh["set"]] == [f"{key}={value}" for key, value in said["best"]["settings"].items()]
    entries = {entry["algorithm"]: entry["seeds"] for entry in said["final"]["entries"]}
    assert entries == {"tuned": [1], "default": [1]}


@pytest.mark.parametrize(
    ("changed", "words", "said"),
    [
        ({"learner.lr": "learner.lrr"}, [], r"search: space: learner\.lrr: unknown key; did you mean 'learner\.lr'"),
        ({"[0.1, 0.2]": "[0.1, -2.0]"}, [], r"search: space: learner\.clip=-2\.0: "),
        ({"LogUniform(1e-3, 1.0)": "LogUniform(1e-1, 1e-4)"}, [], "LogUniform: expected 0 < low < high, got 0.1"),
        ({"search = marl": "raise RuntimeError('oh no')\nsearch = marl"}, [], r"space\.py: RuntimeError: oh no"),
        ({"search = marl": "other = marl"}, ["--sampler", "gradient"], "search: unknown sampler 'gradient'"),
        ({"trials=5": "seeds=0"}, [], "search: seeds: expected a whole number of at least 1, got 0"),
        ({"trials=5": "evaluate_every=145"}, [], r"evaluate_every: 145 steps are more than a run has \(144\)"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_trained(changed, words, said, tmp_path, capsys):
    text = FILE
    for old, new in changed.items():
        text = text.replace(old, new)
    (tmp_path / "space.py").write_text(text)
    assert main(["tune", str(tmp_path / "space.py"), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error), error
    assert not (tmp_path / "out").exists()


def test_an_empty_space_is_refused(tmp_path, capsys):
    (tmp_path / "space.py").write_text("import marl\nsearch = marl.Search({})\n")
    assert main(["tune", "cartpole", "--search", str(tmp_path / "space.py")]) == 2
    assert capsys.readouterr().err == "marl: error: search: space: it is empty, so there is nothing to search\n"


def test_another_search_in_the_same_folder_is_refused_and_nothing_is_lost(file, unbroken, tmp_path, capsys):
    before = (unbroken / "optuna.journal").read_bytes()
    words = ["tune", str(file), "--out", str(unbroken), "--seeds", "3"]
    assert main(words) == 2
    assert "holds another search (search.seeds: 2 -> 3); undo that" in capsys.readouterr().err
    assert (unbroken / "optuna.journal").read_bytes() == before


def test_without_optuna_one_line_names_the_extra(file, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["tune", str(file)]) == 2
    assert capsys.readouterr().err == "marl: error: optuna is not installed: pip install 'marl-system[tune]'\n"


def test_a_race_halves_its_entrants_and_keeps_the_best(file, here, tmp_path, capsys):
    out = tmp_path / "race"
    words = ["race", f"{file}:tiny", "--algorithms", "own", "iql", "ia2c", "--seeds", "1", "--steps", "64"]
    words += ["--evaluate-episodes", "2", "--episodes", "2", "--jobs", "1", "--out", str(out), "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted((place["rounds"], place["steps"]) for place in said["places"]) == [(1, 32), (1, 32), (2, 64)]
    assert said["steps"] == 32 + 32 + 64
    best = said["best"]["name"]
    rounds = {name: place for place in said["places"] if (name := place["name"])}
    firsts = {}
    for name in rounds:
        rows = [row for row in read_metrics(out / "race" / name / "seed-0") if "evaluation_return" in row]
        assert [row["steps"] for row in rows] == ([32, 64] if name == best else [32])
        firsts[name] = rows[0]["evaluation_return"]
    assert firsts[best] == max(firsts.values())
    assert find(said["best"]["file"]).steps == 64
    assert main(words) == 0  # again: everything is there already
    assert json.loads(capsys.readouterr().out) == said


def test_optimizers_race_with_rates_of_their_own(file, here, tmp_path, capsys):
    words = [
        "find-optimizer",
        f"{file}:tiny",
        "--optimizers",
        "SGD",
        "--seeds",
        "1",
        "--steps",
        "64",
        "--reduction",
        "3",
    ]
    words += ["--evaluate-episodes", "2", "--episodes", "2", "--jobs", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert {place["name"] for place in said["places"]} == {"SGD lr=0.033", "SGD lr=0.1", "SGD lr=0.3"}
    found = find(said["best"]["file"])
    assert type(found.agents.optimizer).__name__ == "SGD"
    assert f"SGD lr={found.agents.lr:g}" == said["best"]["name"]


@pytest.mark.parametrize("algorithm", ["ippo", "iql"])
def test_a_range_test_suggests_a_rate_or_says_that_it_cannot(algorithm, file, tmp_path, capsys):
    words = ["find-lr", f"{file}:tiny", "--algorithm", algorithm, "--steps", "200", "--points", "10"]
    assert main([*words, "--out", str(tmp_path / "range.png"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rates"][0] == pytest.approx(1e-6)
    assert said["rates"][-1] == pytest.approx(1.0)
    assert "return" in said["signals"]
    assert any(name.endswith("loss") for name in said["signals"])
    assert (tmp_path / "range.png").stat().st_size > 1000


def test_a_range_test_of_a_learner_without_a_rate_is_one_line(tmp_path, capsys):
    text = FILE.replace(
        "marl.ippo(rollout=8, minibatches=1, epochs=2, lr=1e-3, network=marl.MLP((8,)))", "marl.Random()"
    )
    (tmp_path / "random.py").write_text(text)
    assert main(["find-lr", str(tmp_path / "random.py")]) == 2
    assert "unknown setting that may change while training 'learner.lr'" in capsys.readouterr().err
