"""A new optional feature costs one field and one class: a copy of the library gets the field, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BEFORE = "    league: Leagues | None = field(default=None, metadata=says())\n"
FIELD = "    wind: Any = field(default=None, metadata=says())\n"
SCENARIO = """
import dataclasses
from collections.abc import Mapping

import marl
from marl.training import Part


@dataclasses.dataclass(frozen=True)
class Wind:
    strength: float = 1.0

    def build_part(self, context, env):
        return Blow(self.strength)


class Blow(Part):
    name = "wind"

    def __init__(self, strength):
        self.strength, self.blown = strength, 0.0

    def stepped(self, transition):
        self.blown += self.strength

    def metrics(self):
        return {"wind": self.blown}

    def state_dict(self):
        return {"blown": self.blown}

    def load_state_dict(self, state):
        self.blown = state["blown"]


marl.extend.register(Wind)
scenario = marl.Scenario(
    name="windy", env="CartPole-v1", agents=marl.ippo(rollout=8), num_envs=2, steps=32, wind=Wind()
)
"""


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library with one line more."""
    folder = tmp_path_factory.mktemp("wider")
    shutil.copytree(ROOT / "marl", folder / "marl", ignore=shutil.ignore_patterns("__pycache__"))
    setup = folder / "marl" / "setup.py"
    source = setup.read_text()
    assert source.count(BEFORE) == 1
    setup.write_text(source.replace(BEFORE, BEFORE + FIELD))
    (folder / "windy.py").write_text(SCENARIO)
    return folder


def marl(folder: Path, *words: str, status: int = 0) -> str:
    """A command of the wider library, without compiling anything: what it says."""
    path = os.pathsep.join([str(folder), str(ROOT / "envs"), str(ROOT / "scenarios")])
    environment = {**os.environ, "PYTHONPATH": path, "MARL_COMPILED": "off", "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "marl", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_it_trains_logs_saves_resumes_and_is_part_of_what_a_run_is(wider):
    marl(wider, "train", "windy.py", "--run-dir", "run", "--quiet", "--set", "wind.strength=0.5")
    rows = [json.loads(line) for line in (wider / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["wind"] == 0.5 * 16  # steps of all copies
    config = json.loads((wider / "run" / "config.json").read_text())
    assert config["settings"]["wind"]["strength"] == 0.5

    marl(wider, "train", "windy.py", "--run-dir", "run", "--quiet", "--resume", "--steps", "64")
    rows = [json.loads(line) for line in (wider / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["wind"] == 0.5 * 32  # it went on from what was saved

    said = marl(
        wider,
        "train",
        "windy.py",
        "--run-dir",
        "run",
        "--resume",
        "--steps",
        "96",
        "--set",
        "wind.strength=2",
        status=2,
    )
    assert "wind.strength: 0.5 -> 2" in said
    said = marl(wider, "train", "windy.py", "--run-dir", "other", "--set", "wind=3", status=2)
    assert "only a scenario file can say this" in said
    assert "did you mean 'wind.strength'" in marl(
        wider, "train", "windy.py", "--run-dir", "other", "--set", "wind.strenght=3", status=2
    )


def test_a_checkpoint_brings_its_settings_back_and_a_run_without_it_is_as_before(wider):
    code = """
import marl, windy
with marl.MultiAgentSystem(None, windy.scenario) as system:
    system.train(steps=16)
    system.save("saved")
again = marl.MultiAgentSystem.load("saved", env="CartPole-v1")
assert again.setup.wind == windy.Wind() and again.setup.identity()["wind"] == system.setup.identity()["wind"]
again.train(steps=16)
assert again.training.part("wind").blown == 16.0
with marl.MultiAgentSystem(marl.ippo(rollout=8), "CartPole-v1", num_envs=2) as plain:
    plain.train(steps=16)
    assert plain.setup.wind is None and "wind" not in plain.training.parts
"""
    path = os.pathsep.join([str(wider), str(ROOT / "envs"), str(ROOT / "scenarios")])
    environment = {**os.environ, "PYTHONPATH": path, "MARL_COMPILED": "off", "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=wider, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
