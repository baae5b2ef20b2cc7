"""Studies, searches, games on a Ray cluster: the numbers of this machine alone, whatever becomes of workers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys

import pytest

from marl import parallel
from marl.cli import cell_actor
from marl.cli.cell_actor import PROBE, Place
from marl.cluster import joined
from marl.logs import read_metrics
from marl.logs.files import read_json
from marl.run.lock import writer_of
from tests.support.commands import Here, HereAsking, gone, marl_command  # noqa: F401, the fixture
from tests.support.equality import assert_equal_runs

pytest.importorskip("ray")

FILE = '''
import os, signal
from pathlib import Path
import marl

class Death(marl.callbacks.Callback):
    """Kills, once, the process that started the one that trains, where a file says so."""

    def on_step(self, training):
        kill = Path(__file__).parent / "kill"
        if training.steps >= 500 and kill.exists():
            kill.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()

def tiny(name, lr):
    return marl.Scenario(
        name=name,
        env="CartPole-v1",
        agents=marl.ippo(rollout=16, minibatches=2, epochs=2, lr=lr, network=marl.MLP((8,))),
        num_envs=4,
        steps=1280,
        callbacks=[Death()],
    )

slow, fast = tiny("slow", 1e-4), tiny("fast", 1e-2)
study = marl.Study(
    name="question",
    tasks=[slow, fast],
    algorithms=["own"],
    seeds=2,
    evaluate_every=400,
    evaluate_episodes=2,
    episodes=2,
)
search = marl.Search(
    {"learner.lr": marl.LogUniform(1e-3, 1.0)},
    trials=2,
    seeds=1,
    steps=144,
    evaluate_episodes=2,
    final_seeds=1,
    episodes=2,
)
'''
GAME = '''
import os, signal
from pathlib import Path
import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
import marl

class Throws(ParallelEnv):
    """Rock, paper, scissors. Kills, once, the process that started this one, where a file says so: its text is the
    id of the process that is spared."""

    metadata = {"name": "throws_v0", "render_modes": []}
    possible_agents = ["agent_0", "agent_1"]

    def __init__(self):
        kill = Path(__file__).parent / "kill"
        if kill.exists() and int(kill.read_text()) != os.getpid():
            kill.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()

    def observation_space(self, agent):
        return Box(-1, 1, (1,))

    def action_space(self, agent):
        return Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self.looks(), {agent: {} for agent in self.agents}

    def looks(self):
        return {agent: np.zeros(1, np.float32) for agent in self.possible_agents}

    def step(self, actions):
        won = float((0, 1, -1)[(actions["agent_0"] - actions["agent_1"]) % 3])
        who, self.agents = self.agents, []
        ends = dict.fromkeys(who, True), dict.fromkeys(who, False)
        return self.looks(), {"agent_0": won, "agent_1": -won}, *ends, {agent: {} for agent in who}

learner = marl.ippo(rollout=8, minibatches=2, network=marl.MLP((8,)))
throws = marl.Scenario(
    name="throws", env=Throws, agents={"agent_0": learner, "agent_1": learner}, num_envs=2, steps=64
)
'''
CELLS = ["slow/own/seed-0", "slow/own/seed-1", "fast/own/seed-0", "fast/own/seed-1"]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with joined("local", cpus=2) as ray:
        yield ray


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("question") / "question.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def local(file):
    """The study in this process alone."""
    from marl.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marl.cli.schedule.CellProcess", Here)
        assert main(["study", "run", str(file), "--out", str(file.parent / "local"), "--quiet"]) == 0
    return file.parent / "local"


@pytest.fixture
def nothing_here(monkeypatch):
    """No cell may be trained by a process that this one starts."""

    def refused():
        raise AssertionError("a cell is trained on this machine alone")

    monkeypatch.setattr("marl.cli.schedule.CellProcess", refused)


@pytest.mark.usefixtures("nothing_here")
def test_a_study_on_a_cluster_is_that_of_one_process_bit_for_bit_though_a_worker_is_killed(
    file,
    local,
    tmp_path,
    marl_command,  # noqa: F811
):
    (file.parent / "kill").touch()
    said = marl_command("study", "run", file, "--out", tmp_path, "--ray", "auto", "--quiet", "--json")
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert (answer["trained"], answer["finished"], answer["failed"]) == (4, 4, {})
    assert not (file.parent / "kill").exists()
    assert re.search("own/seed-[01]: its Ray worker was lost .*; tried again from what it saved", said.err)
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["begun"] for line in journal if "begun" in line].count(True) == 1
    for name in CELLS:
        assert_equal_runs(local / "cells" / name, tmp_path / "cells" / name)
    assert not (tmp_path / PROBE).exists()


@pytest.mark.usefixtures("nothing_here")
def test_ctrl_c_saves_what_trains_and_leaves_no_process(file, tmp_path, monkeypatch, marl_command):  # noqa: F811
    pids = set()

    def press(self):
        run = tmp_path / "cells" / CELLS[0]
        if any(row["steps"] >= 64 for row in read_metrics(run)):
            pids.add(writer_of(run / "run.lock"))
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("marl.cli.schedule.Schedule._look", press)
        patch.setattr("marl.cli.schedule.POLL_SECONDS", 0.01)
        said = marl_command("study", "run", file, "--out", tmp_path, "--ray", "auto", "--jobs", 1)
    assert said.code == 130
    assert f"to go on: marl study run {file} --out {tmp_path} --ray auto" in said.err
    assert all(gone(pid) for pid in pids), pids
    assert len(pids) == 1
    summary = read_json(tmp_path / "cells" / CELLS[0] / "summary.json")
    assert (summary["status"], summary["steps"] < 1280) == ("preempted", True)


def test_a_search_on_a_cluster_tries_and_finds_the_same(file, tmp_path, monkeypatch, marl_command, request):  # noqa: F811
    pytest.importorskip("optuna")
    told = []
    monkeypatch.setattr("marl.cli.schedule.CellProcess", HereAsking)
    for more in ((), ("--ray", "auto")):
        words = ("tune", f"{file}:slow", "--search", file, "--out", tmp_path / str(len(told)), "--jobs", 1, "--json")
        said = marl_command(*words, *more)
        assert said.code == 0, said.err
        told.append({key: json.loads(said.out)[key] for key in ("trials", "steps", "final")})
        request.getfixturevalue("nothing_here")
    assert told[0] == told[1]
    assert {trial["status"] for trial in told[0]["trials"]} == {"complete"}


@pytest.fixture(scope="module")
def duel(tmp_path_factory):
    """Two runs of a game."""
    from marl.cli import main

    folder = tmp_path_factory.mktemp("game")
    (folder / "game.py").write_text(GAME)
    runs = [folder / f"run-{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        assert main(["train", f"{folder}/game.py:throws", "--seed", str(seed), "--run-dir", str(run), "--quiet"]) == 0
    return runs


@pytest.mark.usefixtures("nothing_here")
@pytest.mark.parametrize("more", [("tournament", 1, "--games", 6), ("exploit", 0, "--games", 6, "--steps", 32)])
def test_matches_and_responses_on_a_cluster_are_those_of_one_process_though_a_worker_is_killed(
    more,
    duel,
    tmp_path,
    marl_command,  # noqa: F811
):
    command, others, *more = more
    words = (command, *duel[: others + 1], *more, "--json")
    alone = json.loads(marl_command(*words).out)
    (duel[0].parent / "kill").write_text(str(os.getpid()))
    said = marl_command(*words, "--ray", "auto", "--out", tmp_path)
    assert said.code == 0, said.err
    assert json.loads(said.out) == alone
    assert re.search("its Ray worker was lost .*; tried again", said.err)
    assert not (duel[0].parent / "kill").exists()
    assert len(list(tmp_path.glob("parts/*.json"))) == 2


def test_a_node_that_does_not_share_the_folder_is_refused_in_one_line(file, tmp_path, monkeypatch, marl_command):  # noqa: F811
    monkeypatch.setattr(cell_actor, "PROBE", ".elsewhere")  # of this process; a node looks for its own
    said = marl_command("study", "run", file, "--out", tmp_path, "--ray", "auto")
    assert said.code == 2
    assert f"does not see {tmp_path}, or may not write there: choose an --out on a file system that" in said.error
    assert not list(tmp_path.glob("cells/*"))


def test_a_node_with_another_version_is_refused(tmp_path):
    fault = Place(str(tmp_path), "word", str(tmp_path), cell_actor.installed() | {"torch": "0.0.1"}).fault()
    assert re.search(r"has torch \S+, not 0.0.1: install the same on all nodes", fault)


def test_a_cell_that_fits_on_no_node_is_refused_in_one_line(file, tmp_path, marl_command):  # noqa: F811
    many = 64 * parallel.available_cores()
    (tmp_path / "wide.py").write_text(FILE.replace("seeds=2,", f"seeds=2, threads={many},"))
    said = marl_command("study", "run", tmp_path / "wide.py", "--out", tmp_path / "out", "--ray", "auto")
    assert said.code == 2
    assert f"ray: no node has {many} cores" in said.error


def test_without_ray_one_line_says_what_to_install(file, tmp_path, monkeypatch, marl_command):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    said = marl_command("study", "run", file, "--out", tmp_path / "out", "--ray", "auto")
    assert (said.code, said.error) == (2, "marl: error: ray is not installed: pip install 'marl-system[ray]'")
    assert not (tmp_path / "out").exists()
