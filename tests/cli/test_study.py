"""``marl study``: cells are runs of ``marl train``; a bad end costs one cell; run again, exactly the rest is done."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import threading
from pathlib import Path

import pytest

from marl.cli.cells import planned_cells
from marl.logs import read_metrics
from marl.run import Run
from marl.run.lock import Lock, writer_of
from marl.studies import Scores, StudyFolder
from marl.studies.study import find
from marl.system import MultiAgentSystem
from marl.types import NonFiniteError
from tests.support.commands import Here, start, wait_until
from tests.support.equality import assert_equal_runs

TASKS = """
import marl

tiny = marl.Scenario(
    name="tiny",
    env="CartPole-v1",
    agents=marl.ippo(rollout=16, minibatches=2, epochs=2, lr=marl.Linear(1e-3, 0.0), network=marl.MLP((8,))),
    num_envs=4,
    steps=1280,
)
"""
STUDY = """
study = marl.Study(
    name="question",
    tasks=[tiny],
    algorithms={"own": "own", "dqn": marl.iql(learning_starts=100, batch=32, network=marl.MLP((8,)))},
    seeds=SEEDS,
    evaluate_every=400,
    evaluate_episodes=2,
    episodes=2,
)
"""
CELLS = ["tiny/own/seed-0", "tiny/dqn/seed-0", "tiny/own/seed-1", "tiny/dqn/seed-1"]


def write(folder, seeds="2", **changed):
    """A study file; ``changed`` texts of it."""
    text = TASKS + STUDY.replace("SEEDS", seeds)
    for old, new in changed.items():
        text = text.replace(old, new)
    (folder / "question.py").write_text(text)
    return folder / "question.py"


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr("marl.cli.schedule.CellProcess", Here)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def file(folder):
    return write(folder)


@pytest.fixture(scope="module")
def unbroken(file, folder):
    """The study from beginning to end, in one process of its own for all cells."""
    from marl.cli import main

    assert main(["study", "run", str(file), "--out", str(folder / "unbroken"), "--jobs", "1", "--json"]) == 0
    return folder / "unbroken"


def assert_equal_studies(first, second):
    one, other = StudyFolder.read(first), StudyFolder.read(second)
    assert [cell.folder.relative_to(first) for cell in one.cells] == [
        cell.folder.relative_to(second) for cell in other.cells
    ]
    for mine, theirs in zip(one.cells, other.cells, strict=True):
        assert_equal_runs(mine.folder, theirs.folder)
    scores, others = (Scores.from_runs(folder, ["mean_return"]) for folder in (first, second))
    assert "evaluation_return" in scores.metrics
    assert scores.rows == others.rows


def test_cells_are_the_runs_of_marl_train_bit_for_bit(unbroken, tmp_path, marl_command):
    study = StudyFolder.read(unbroken)
    assert [cell.folder.relative_to(unbroken / "cells").as_posix() for cell in study.cells] == CELLS
    for cell in study.cells[:2]:
        said = marl_command(*cell.words, "--run-dir", tmp_path / cell.algorithm, "--quiet")
        assert said.code == 0, said.err
        assert_equal_runs(cell.folder, tmp_path / cell.algorithm)
        ours, theirs = (
            {path.relative_to(run).as_posix() for path in run.rglob("*")}
            for run in (cell.folder, tmp_path / cell.algorithm)
        )
        assert ours == theirs
        summaries = [json.loads((run / "summary.json").read_text()) for run in (cell.folder, tmp_path / cell.algorithm)]
        assert summaries[0]["evaluation"] == summaries[1]["evaluation"]


def test_cells_of_all_seeds_are_evaluated_in_the_same_episodes(unbroken):
    configs = [json.loads((cell.folder / "config.json").read_text()) for cell in StudyFolder.read(unbroken).cells]
    assert {config["settings"]["seed"] for config in configs} == {0, 1}
    assert {config["tunable"]["evaluate_seed"] for config in configs} == {0}


def test_the_seed_of_evaluations_is_the_one_that_was_asked_for_and_kept(file, tmp_path, monkeypatch, marl_command):
    evaluate, seeds = MultiAgentSystem.evaluate, []

    def noted(self, *arguments, **keywords):
        seeds.append(keywords["seed"])
        return evaluate(self, *arguments, **keywords)

    monkeypatch.setattr(MultiAgentSystem, "evaluate", noted)
    words = ("train", f"{file}:tiny", "--run-dir", tmp_path, "--evaluate-every", 64, "--episodes", 2, "--quiet")
    assert marl_command(*words, "--steps", 128, "--evaluate-seed", 7, "--seed", 3).code == 0
    assert seeds == [7, 7, 8, 8]  # at the end the agents, then random ones in the same episodes
    assert marl_command(*words[:4], "--resume", "--steps", 192, "--quiet").code == 0
    assert seeds[4:] == [7, 8, 8]


def test_killed_at_random_times_and_run_again_it_is_the_unbroken_study(file, unbroken, folder, tmp_path, marl_command):
    """First the whole study is killed, then two of its cells, one after the other."""
    chance, out = random.Random(), tmp_path / "study"
    whole = start("study", "run", file, "--out", out, "--jobs", 2, "--quiet")
    at = chance.randrange(50, 1200)
    wait_until(lambda: whole.poll() is not None or any(steps_of(out / "cells" / name) >= at for name in CELLS))
    whole.kill()
    whole.wait()
    for stream in (whole.stdout, whole.stderr):
        stream.close()
    killed, over = [], threading.Event()

    def kill_cells():
        for step in (chance.randrange(50, 1200), chance.randrange(50, 1200)):
            while not over.wait(0.01) and not any(map(kill_at, CELLS, [step] * len(CELLS))):
                pass

    def kill_at(name, step):
        run = out / "cells" / name
        pid = writer_of(run / "run.lock")
        if pid in (None, os.getpid(), *killed) or steps_of(run) < step:
            return False
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
        return True

    killer = threading.Thread(target=kill_cells, daemon=True)
    killer.start()
    code = 7
    while code == 7:  # a cell that was killed more often than it is tried again goes on in the next run
        said = marl_command("study", "run", file, "--out", out, "--jobs", 1, "--json")
        code = said.code
    over.set()
    killer.join()
    assert code == 0, said.err
    assert killed
    assert_equal_studies(unbroken, out)
    again = marl_command("study", "run", file, "--out", out, "--json")
    assert json.loads(again.out)["trained"] == 0


def steps_of(run):
    rows = read_metrics(run)
    return rows[-1]["steps"] if rows else 0


def test_a_cell_that_crashes_its_process_is_tried_again_and_costs_no_other(
    here, file, unbroken, tmp_path, monkeypatch, marl_command
):
    tick, deaths = Run.tick, []

    def die(self, system):
        if self.path.parts[-2:] == ("dqn", "seed-0") and system.steps == 800 and len(deaths) < 1:
            deaths.append(system.steps)
            raise SystemExit(-signal.SIGSEGV)
        return tick(self, system)

    monkeypatch.setattr(Run, "tick", die)
    said = marl_command("study", "run", file, "--out", tmp_path)
    assert said.code == 0, said.err
    assert "tiny/dqn/seed-0: " in said.err
    assert "tried again from what it saved" in said.err
    assert_equal_studies(unbroken, tmp_path)


def test_a_cell_that_diverges_is_left_out_and_the_others_go_on(
    here, file, unbroken, tmp_path, monkeypatch, marl_command
):
    train = MultiAgentSystem.train

    def diverge(self, *arguments, **keywords):
        if self.seed == 1 and self.learners[0].__class__.__name__ == "DQNLearner":
            raise NonFiniteError("the loss is nan")
        return train(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(MultiAgentSystem, "train", diverge)
        said = marl_command("study", "run", file, "--out", tmp_path, "--retries", 5)
        assert said.code == 7
        assert said.err.count("tiny/dqn/seed-1: the loss is nan; left out") == 1
        assert "left out: tiny/dqn/seed-1: the loss is nan" in said.out
        status = json.loads(marl_command("study", "status", tmp_path, "--json").out)
        assert status["count"] == {"finished": 3, "diverged": 1}
        left = marl_command("study", "run", file, "--out", tmp_path, "--leave-failed", "--json")
        assert (left.code, json.loads(left.out)["trained"]) == (7, 0)
    again = marl_command("study", "run", file, "--out", tmp_path, "--json")
    assert (again.code, json.loads(again.out)["trained"]) == (0, 1)
    assert_equal_studies(unbroken, tmp_path)


def test_a_changed_file_trains_anew_what_changed_and_says_so(here, tmp_path, marl_command):
    out = tmp_path / "study"
    file = write(tmp_path, "1", **{"steps=1280": "steps=128", "batch=32": "batch=16"})
    assert marl_command("study", "run", file, "--out", out, "--quiet").code == 0
    before = {path: path.stat().st_mtime_ns for path in (out / "cells/tiny/own").rglob("*.json*")}
    first = (out / "cells/tiny/dqn/seed-0/metrics.jsonl").read_bytes()
    file = write(tmp_path, "2", **{"steps=1280": "steps=128", "batch=32": "batch=24"})
    said = marl_command("study", "run", file, "--out", out)
    assert said.code == 0, said.err
    assert "tiny/dqn/seed-0: changed since trained (learner.batch: 16 -> 24" in said.err
    assert "3 to train" in said.err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (out / "replaced/tiny/dqn/seed-0/metrics.jsonl").read_bytes() == first
    file = write(tmp_path, "1", **{"steps=1280": "steps=128", "batch=32": "batch=24"})
    said = marl_command("study", "run", file, "--out", out)
    assert "2 runs that the study does not ask for any more are kept, such as tiny/dqn/seed-1" in said.err
    assert "0 to train" in said.err


def test_a_file_that_changes_under_a_running_study_ends_it_and_loses_nothing(here, tmp_path, monkeypatch, marl_command):
    file = write(tmp_path, "1", **{"steps=1280": "steps=128"})
    text, began = file.read_text(), Run.begin

    def edit(self, *arguments):
        began(self, *arguments)
        file.write_text(text + "\n# a thought")

    monkeypatch.setattr("marl.cli.schedule.LOOK_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "begin", edit)
        said = marl_command("study", "run", file, "--out", tmp_path / "study", "--jobs", 1, "--quiet")
    assert said.code == 2
    assert "question.py changed while the study runs; what was trained is saved: run it again" in said.error
    assert not (tmp_path / "study/study.lock").exists()
    again = marl_command("study", "run", file, "--out", tmp_path / "study", "--json")
    assert (again.code, json.loads(again.out)["trained"]) == (0, 1)


def test_ctrl_c_saves_what_trains_and_run_again_it_is_the_unbroken_study(
    here, file, unbroken, tmp_path, monkeypatch, marl_command
):
    tick = Run.tick

    def press(self, system):
        if self.path.parts[-2:] == ("dqn", "seed-0") and system.steps == 700:
            os.kill(os.getpid(), signal.SIGINT)
        return tick(self, system)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "tick", press)
        patch.setattr("marl.cli.cells.ENDED_BY_SIGNAL", ())
        patch.setattr(Here, "answer", ctrl_c(Here.answer))
        said = marl_command("study", "run", file, "--out", tmp_path)
    assert said.code == 130
    assert f"what was trained is saved; to go on: marl study run {file} --out {tmp_path}" in said.err
    status = json.loads(marl_command("study", "status", tmp_path, "--json").out)
    assert status["count"] == {"finished": 1, "interrupted": 1, "waiting": 2}
    assert status["process"] is None
    assert marl_command("study", "run", file, "--out", tmp_path, "--quiet").code == 0
    assert_equal_studies(unbroken, tmp_path)


def ctrl_c(answer):
    """A process whose command was interrupted at a terminal: so is the study."""

    def answered(self):
        code = answer(self)
        if code == 130:
            raise KeyboardInterrupt
        return code

    return answered


def test_two_studies_never_write_to_one_folder(file, tmp_path, marl_command):
    lock = Lock(tmp_path / "study.lock", print)
    try:
        said = marl_command("study", "run", file, "--out", tmp_path)
    finally:
        lock.release()
    assert said.code == 2
    assert "is writing to this study; wait, stop it, or choose another --out" in said.error
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_another_study_is_refused(file, tmp_path, marl_command):
    (tmp_path / "study.json").write_text('{"study": "other"}')
    said = marl_command("study", "run", file, "--out", tmp_path)
    assert said.code == 2
    assert "holds the study 'other', not 'question'; choose another --out" in said.error
    assert (tmp_path / "study.json").read_text() == '{"study": "other"}'


BAD = [
    (
        "seeds=2",
        'seeds=2, variations={"learner.lrr": [1]}',
        "--set learner.lrr: unknown key; did you mean 'learner.lr'",
    ),
    ("seeds=2", 'seeds=2, settings=["learner.lr=x"]', "--set learner.lr=x: expected"),
    ("seeds=2", "seeds=[]", "seeds: it is empty"),
    ("seeds=2", "seeds=[1, 1]", "seeds: 1 is there twice"),
    ('"own": "own"', '"own": "qmax"', "unknown algorithm 'qmax'; did you mean 'qmix'"),
    ("tasks=[tiny]", "tasks=[]", "tasks: it is empty"),
    ("tasks=[tiny]", 'tasks=["spraed"]', "spraed"),
    ("tasks=[tiny]", 'tasks=[marl.Scenario(name="x", env="CartPole-v1", agents=marl.ippo())]', "a name of its own"),
    ("study = ", "other = marl.Study(name='o', tasks=['spread'])\nstudy = ", "found 2"),
    ("study = ", "print(", "SyntaxError"),
]


@pytest.mark.parametrize(("old", "new", "expected"), BAD)
def test_a_study_file_that_makes_no_sense_is_one_line_and_nothing_on_disk(old, new, expected, tmp_path, marl_command):
    file = write(tmp_path, **{old: new})
    said = marl_command("study", "run", file, "--out", tmp_path / "study")
    assert said.code == 2
    assert expected in said.error
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("study", "marl study: expected run or status, it is missing"),
        ("study ran x", "marl study: expected run or status, got 'ran'"),
        ("study run", "STUDY is missing: marl study run STUDY"),
        ("study run FILE --jobs 0", "--jobs: expected a whole number of at least 1"),
        ("study run FILE --retries x", "--retries: expected a whole number"),
        ("study run FILE --job 1", "did you mean --jobs?"),
        ("study run nowhere.py", "nowhere.py does not exist"),
        ("study run cooperativ", "unknown study 'cooperativ'; did you mean 'cooperative'"),
        ("study status FILE --out nowhere", "nothing was trained yet"),
        ("study status .", "there is no study.json in it"),
    ],
)
def test_commands_that_make_no_sense_are_one_line(words, expected, file, tmp_path, monkeypatch, marl_command):
    monkeypatch.chdir(tmp_path)
    said = marl_command(*(str(file) if word == "FILE" else word for word in shlex.split(words)))
    assert said.code == 2
    assert expected in said.error
    assert list(tmp_path.iterdir()) == []


def test_status_is_a_table(unbroken, marl_command):
    said = marl_command("study", "status", unbroken)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].split() == ["task", "algorithm", "finished", "steps", "return", "time", "left"]
    assert lines[1].split()[:8] == ["tiny", "own", "2/2", "2,560", "of", "2,560", "(100%)", lines[1].split()[7]]
    assert "study question: 4 finished; nobody trains it now" in said.out


def test_the_shipped_study_is_ninety_runs_on_equal_terms():
    cells = planned_cells(find("cooperative"), Path("out"))
    assert len(cells) == 90
    assert {cell.steps for cell in cells} == {200_000}
    assert len({cell.config["tunable"]["evaluate_every"] for cell in cells}) == 1
    assert {cell.cell.algorithm for cell in cells} == {"ippo", "mappo", "iql", "vdn", "qmix", "maddpg"}


def test_the_shipped_study_of_optimizers_differs_in_the_optimizer_alone():
    cells = planned_cells(find("optimizers"), Path("out"))
    assert len(cells) == 6
    learners = [dict(cell.config["settings"]["learner"]) for cell in cells]
    used = {learner.pop("optimizer")["$class"].rpartition(":")[2] for learner in learners}
    assert used == {"Adam", "RMSprop"}
    assert all(learner == learners[0] for learner in learners)
    assert learners[0]["lr"] == 5e-4


SMALL = """
import dataclasses
from marl_scenarios.studies.cooperative import foraging, speaker_listener, spread, study

study = dataclasses.replace(study, seeds=1, steps=6_400, evaluate_every=3_200, evaluate_episodes=2, episodes=2)
"""


@pytest.mark.slow
def test_the_shipped_study_runs_when_it_is_small(here, tmp_path, marl_command):
    (tmp_path / "small.py").write_text(SMALL)
    said = marl_command("study", "run", tmp_path / "small.py", "--out", tmp_path / "study", "--quiet")
    assert said.code == 0, said.err
    scores = Scores.from_runs(tmp_path / "study").of("final/evaluation_return")
    assert len({(row.task, row.algorithm) for row in scores.rows}) == 18
