"""``marl.Study``: the grid of its cells, what varies where, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest

import marl
from marl.config import in_words
from marl.overrides import agents_said
from marl.scenario import find
from marl.studies import Axis, Reference, ScoreRow, Scores, Study, StudyFolder
from marl.types import ConfigError


def study(**fields):
    return Study(**{"name": "question", "tasks": ["cartpole"], "algorithms": ["ppo"], "seeds": 1, **fields})


def names(one):
    return [cell.name for cell in one.cells()]


def test_every_seed_is_complete_before_the_next():
    one = study(tasks=["cartpole", "pendulum"], algorithms=["ppo", "sac"], seeds=[3, 7])
    assert names(one) == [
        f"{task}/{algorithm}/seed-{seed}"
        for seed in (3, 7)
        for task in ("cartpole", "pendulum")
        for algorithm in ("ppo", "sac")
    ]
    assert repr(one) == "<Study 'question': 8 runs, 4 kinds, 2 seeds>"


def test_every_value_of_an_axis_meets_every_value_of_the_others():
    one = study(variations={"learner.lr": [1e-3, 3e-4], "num_envs": [4, 8]})
    assert [cell.label for cell in one.cells()] == [
        f"ppo lr={lr} num_envs={copies}" for lr in ("0.001", "0.0003") for copies in (4, 8)
    ]
    assert names(one)[0] == "cartpole/ppo/lr=0.001/num_envs=4/seed-0"


def test_an_axis_may_be_for_some_algorithms_and_tasks_only():
    one = study(
        tasks=["cartpole", "pendulum"],
        algorithms=["ppo", "sac"],
        variations={"learner.clip": Axis([0.1, 0.2], algorithms=["ppo"], tasks=["cartpole"])},
    )
    assert names(one) == [
        "cartpole/ppo/clip=0.1/seed-0",
        "cartpole/ppo/clip=0.2/seed-0",
        "cartpole/sac/seed-0",
        "pendulum/ppo/seed-0",
        "pendulum/sac/seed-0",
    ]


def test_an_axis_may_depend_on_another_one_wherever_it_stands():
    one = study(
        algorithms=["dqn"],
        variations={
            "learner.optimizer.alpha": Axis([0.9, 0.99], given={"learner.optimizer": marl.optim.RMSprop()}),
            "learner.optimizer": [marl.optim.Adam(), marl.optim.RMSprop()],
        },
    )
    assert [cell.settings for cell in one.cells()] == [
        (("learner.optimizer", "Adam()"),),
        (("learner.optimizer", "RMSprop()"), ("learner.optimizer.alpha", "0.9")),
        (("learner.optimizer", "RMSprop()"), ("learner.optimizer.alpha", "0.99")),
    ]


def test_algorithms_may_differ_by_task_and_be_left_out():
    learner = marl.qmix(lr=1e-4)
    one = study(
        tasks={"a": "spread", "b": "tag"},
        algorithms={"tuned": {"a": learner, "b": None}, "teams": {"adversary_*": marl.mappo(), "agent_*": marl.iql()}},
    )
    assert names(one) == ["a/tuned/seed-0", "a/teams/seed-0", "b/teams/seed-0"]
    assert one.learners("tuned", "a") is learner
    assert set(one.learners("teams", "a")) == {"adversary_*", "agent_*"}


def test_folders_have_plain_names_that_never_meet():
    one = study(tasks=["sisl/pursuit-v5"], variations={"learner.network": [marl.MLP((8,)), marl.MLP((8,), "relu")]})
    found = names(one)
    assert len(set(found)) == 2
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzMLP0123456789/=~.,-_") for name in found)


@pytest.mark.parametrize("name", ["spread", "foraging", "tag", "speaker_listener_maddpg"])
def test_learners_in_words_are_the_learners(name):
    agents = find(name).agents
    for learner in agents.values() if isinstance(agents, dict) else [agents]:
        assert agents_said([in_words(learner)]) == learner


@pytest.mark.parametrize("text", ["all", "none", "1", " x ", "it's", "", "True", "a,b"])
def test_texts_in_words_stay_texts(text):
    from marl.overrides import _literal

    assert _literal(in_words(text)) == text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tasks": []}, "tasks: it is empty, so there is nothing to train"),
        ({"tasks": {}}, "tasks: there is none"),
        ({"tasks": "spread"}, "tasks: expected a list, got 'spread'"),
        ({"tasks": ["spread", "spread"]}, "tasks: spread is there twice"),
        ({"tasks": ["a/mine.py", "b/mine.py"]}, "tasks: 'mine' is there twice; name them"),
        ({"tasks": [3]}, "tasks: expected scenarios or names, got 3"),
        ({"algorithms": []}, "algorithms: it is empty"),
        ({"algorithms": ["ppo", "ppo"]}, "algorithms: ppo is there twice"),
        ({"algorithms": [marl.ippo()]}, "algorithms: learners have names"),
        ({"algorithms": {"mine": 3}}, "algorithms['mine']: expected the name of an algorithm or a learner, got 3"),
        ({"algorithms": {"mine": {"cartpole": None}}}, "left out on every task"),
        ({"algorithms": {"mine": {"cartpole": "ppo", "pendulum": "ppo"}}}, "unknown task 'pendulum'"),
        (
            {"tasks": ["cartpole", "pendulum"], "algorithms": {"mine": {"cartpole": "ppo"}}},
            "nothing is said for task 'pendulum'; None leaves it out",
        ),
        (
            {"algorithms": {"mine": marl.ippo(network=marl.Custom(lambda shape, extra: None, 8))}},
            "put learners with code of your own into a scenario's algorithms",
        ),
        ({"seeds": 0}, "seeds: expected a whole number of at least 1"),
        ({"seeds": []}, "seeds: it is empty"),
        ({"seeds": [1, 1]}, "seeds: 1 is there twice"),
        ({"seeds": [-1]}, "seeds: expected a whole number of at least 0"),
        ({"steps": {"spread": 10}}, "steps: unknown task 'spread'"),
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"variations": {"learner.lr": []}}, "variations['learner.lr']: Axis.values: it is empty"),
        ({"variations": {"learner.lr": [0.1, 0.1]}}, "0.1 is there twice"),
        (
            {"variations": {"learner.lr": Axis([0.1], algorithms=["pppo"])}},
            "unknown algorithm 'pppo'; did you mean 'ppo'",
        ),
        ({"variations": {"learner.lr": Axis([0.1], tasks=["poled"])}}, "unknown task 'poled'"),
        ({"variations": {"learner.lr": Axis([0.1], given={"learner.clip": 0.1})}}, "unknown axis 'learner.clip'"),
        ({"seeds": 10**7}, "expected at most 100,000"),
        ({"references": {"spread": Reference(best=1.0)}}, "references: unknown task 'spread'"),
        ({"episodes": 0}, "episodes: expected a whole number of at least 1"),
        ({"name": ""}, "name: expected a word"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_in_a_sentence(fields, expected):
    with pytest.raises(ConfigError) as refused:
        study(**fields)
    assert expected in str(refused.value)


def finished(folder, value, rows):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {"status": "finished", "steps": 20, "evaluation": {"mean_return": value}, "random": {"mean_return": 0.5}}
    (folder / "summary.json").write_text(json.dumps(said))


def test_a_studys_numbers_are_plain_rows(tmp_path):
    cells = [
        {"task": "t", "algorithm": f"a lr={lr}", "seed": 0, "settings": {"learner.lr": lr}, "steps": 20}
        | {"folder": f"t/a/lr={lr}/seed-0", "words": ["train", "t"]}
        for lr in ("1", "2")
    ]
    said = {"study": "s", "references": {"t": {"random": None, "best": 2.0}}, "cells": cells}
    (tmp_path / "study.json").write_text(json.dumps(said))
    rows = [{"steps": 10, "mean_return": 1.0}, {"steps": 10, "evaluation_return": 1.5}]
    finished(tmp_path / "cells/t/a/lr=1/seed-0", 2.0, rows)
    folder = StudyFolder.read(tmp_path)
    scores = Scores.from_runs(tmp_path).of("evaluation_return", "final/evaluation_return", "random_return")
    assert {row for row in scores.rows if row.algorithm == "a lr=1"} == {
        ScoreRow("t", "a lr=1", 0, 10, "evaluation_return", 1.5),
        ScoreRow("t", "a lr=1", 0, 20, "final/evaluation_return", 2.0),
        ScoreRow("t", "a lr=1", 0, 20, "random_return", 0.5),
    }
    assert all(math.isnan(row.value) for row in scores.rows if row.algorithm == "a lr=2")  # it has not begun
    assert [(state.status, state.steps) for state in folder.states()] == [("finished", 20), ("waiting", 0)]
    assert folder.references["t"]["best"] == 2.0


@pytest.mark.parametrize("folder", ["../../elsewhere", "/etc"])
def test_a_folder_from_somebody_else_names_no_place_outside(folder, tmp_path):
    cell = {"task": "t", "algorithm": "a", "seed": 0, "settings": {}, "steps": 1, "folder": folder, "words": []}
    (tmp_path / "study.json").write_text(json.dumps({"study": "s", "cells": [cell]}))
    with pytest.raises(ConfigError, match="expected one within cells"):
        StudyFolder.read(tmp_path)
