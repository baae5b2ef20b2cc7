"""Scenarios whose environment, network and hooks are defined in the scenario's own file."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

from marl.adapters import make
from marl.scenario import find
from marl.types import ConfigError

FILE = """
import dataclasses, gymnasium, marl, numpy as np, torch
from gymnasium.spaces import Box, Discrete
from helper import LENGTH

@dataclasses.dataclass
class Rules:
    length: int = LENGTH

class Count(gymnasium.Env):
    observation_space, action_space = Box(0, 1, (2,), np.float32), Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look(), {}

    def look(self):
        return self.np_random.random(2).astype(np.float32)

    def step(self, action):
        self.time += 1
        return self.look(), float(action), self.time == Rules().length, False, {}

def bonus(seen):
    return np.ones_like(seen.reward)

def network(shape, extra):
    return torch.nn.Sequential(torch.nn.Linear(shape[0] + extra, 4), torch.nn.Tanh())

scenario = marl.Scenario(
    name="own",
    env=Count,
    agents=marl.ippo(rollout=8, minibatches=1, network=marl.Custom(network, 4)),
    shaping=(marl.shaping.Function(bonus),),
    num_envs=3,
    steps=96,
)
"""


def write(folder: Path, text: str = FILE, length: int = 5) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "helper.py").write_text(f"LENGTH = {length}\n")
    (folder / "own.py").write_text(text)
    return folder / "own.py"


@pytest.fixture(autouse=True)
def _forget():
    """Modules beside one test's file are not another's."""
    before, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name == "helper" or name.startswith("marl_scenario_"):
            del sys.modules[name]


def test_workers_get_what_a_scenario_file_defines(tmp_path, marl_command):
    path = write(tmp_path)
    said = {}
    for workers in (0, 2):
        run = tmp_path / f"run{workers}"
        result = marl_command("train", path, "--workers", workers, "--run-dir", run, "--quiet", "--json")
        assert result.code == 0, result.err
        said[workers] = json.loads(result.out)
    assert said[0]["evaluation"] == said[2]["evaluation"]
    assert said[0]["evaluation"]["episode_lengths"] == [5] * 100
    assert marl_command("evaluate", tmp_path / "run2", "--episodes", 2).code == 0


def test_a_file_is_loaded_once_and_again_when_it_has_changed(tmp_path):
    path = write(tmp_path)
    first, again = find(str(path)), find(str(path))
    assert first.env is again.env
    assert pickle.loads(pickle.dumps(first.env)) is first.env
    path.write_text(FILE.replace("num_envs=3", "num_envs=4"))  # as long, within the same second
    assert find(str(path)).num_envs == 4
    assert find(str(path)).env is not first.env


def test_files_of_one_name_in_two_folders_do_not_get_in_each_others_way(tmp_path):
    text = FILE.replace("from helper import LENGTH", "LENGTH = 2")
    paths = [write(tmp_path / str(n), text.replace("LENGTH = 2", f"LENGTH = {n}")) for n in (2, 3)]
    ends = []
    for scenario in [find(str(path)) for path in paths]:
        assert pickle.loads(pickle.dumps(scenario.env)) is scenario.env
        env = make(scenario.env, 1, workers=1)
        step, length = env.reset(0), 0
        while not step.finished:
            step, length = env.step([step.teams[0].acting.astype(int)]), length + 1
        ends.append(length)
        env.close()
    assert ends == [2, 3]


def test_a_file_that_ends_the_program_is_bad_input(tmp_path, marl_command):
    path = write(tmp_path, "import sys\nsys.exit(0)\n")
    for words in (("train", path), ("check", path)):
        said = marl_command(*words)
        assert said.code == 2
        assert "SystemExit" in said.error
    assert "marl_scenario_own" not in sys.modules
    with pytest.raises(ConfigError, match="SystemExit"):
        find(str(path))


PROGRAM = (
    FILE
    + """
with marl.MultiAgentSystem(scenario.agents, Count, num_envs=2, workers=2) as system:
    system.train(steps=32)
    print(system.history["episode_lengths"])
"""
)


def test_a_module_that_is_run_by_its_name_needs_no_guard_for_workers(tmp_path):
    write(tmp_path, PROGRAM)
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    said = subprocess.run(
        [sys.executable, "-m", "own"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert set(json.loads(said.stdout)) == {5}


def test_cells_that_belong_to_no_file_reach_the_workers_too(tmp_path, monkeypatch, capsys):
    cells = types.ModuleType("cells")
    monkeypatch.setitem(sys.modules, "cells", cells)
    exec(PROGRAM.replace("from helper import LENGTH", "LENGTH = 5"), vars(cells))
    assert set(json.loads(capsys.readouterr().out)) == {5}
