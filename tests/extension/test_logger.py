"""A logger of one's own, given to ``train`` or found by its name."""

from __future__ import annotations

import json
import sys

import pytest

import marl
from marl.cli import main
from tests.extension.support import trains_saves_loads_resumes
from tests.support.tiny import Constant

SOURCE = '''
import json
import os
from dataclasses import dataclass
from pathlib import Path

import marl
from marl.extend import LoggedRun, Logger, Sink
from tests.support.tiny import Team


@dataclass(frozen=True)
class Lines(Logger):
    """A line of JSON for each row, in a file of each process's own."""

    folder: Path

    def build(self, run: LoggedRun) -> Sink:
        return Writer(self.folder / f"{os.getpid()}.jsonl", run)


class Writer:
    def __init__(self, path, run):
        self.file = open(path, "a")
        self.steps = 0
        self.write({"name": run.name, "resumed_at": run.resumed_at})

    def write(self, row):
        self.file.write(json.dumps(row) + "\\n")

    def log(self, metrics):
        self.write(dict(metrics))

    def tick(self, steps):
        self.steps = steps

    def close(self):
        self.write({"last": self.steps})
        self.file.close()


def make():
    return {"agents": marl.ippo(rollout=8, minibatches=1, network=marl.MLP((8,))), "env": Team, "num_envs": 2}


def train():
    return {"loggers": [Lines(Path(__file__).parent)]}
'''


def test_a_logger_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    runs = {len(rows): rows for path in tmp_path.glob("*.jsonl") for rows in [path.read_text().splitlines()]}
    (short, alone), (long, straight) = sorted(runs.items())
    assert long == 2 * short  # the new process went on once, this one trained twice
    rows = [json.loads(line) for line in straight]
    begun = [row for row in rows if "name" in row]
    assert begun == [{"name": "team_v0", "resumed_at": None}, {"name": "team_v0", "resumed_at": 96}]
    assert [row["last"] for row in rows if "last" in row] == [96, 192]
    assert [row["steps"] for row in rows if "steps" in row] == came.history["steps"] == [32, 64, 96, 128, 160, 192]
    clocks = ("steps_per_second",)
    rows = [
        [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in part] for part in (alone, straight)
    ]
    assert rows[0] == rows[1][short:]


PACKAGE = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Lines:
    name: str = "lines.txt"

    def build(self, run):
        return Writer((run.folder / self.name).open("a"), run)


class Writer:
    def __init__(self, file, run):
        self.file = file
        print(run.name, run.resumed_at, run.settings["tunable"]["steps"], file=file)

    def log(self, metrics):
        print(int(metrics["steps"]), round(metrics["seconds"]) >= 0, file=self.file)

    def tick(self, steps):
        pass

    def close(self):
        self.file.close()


nothing = 3
"""
TASK = """
import marl
from tests.support.tiny import Constant

agents = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,)))
scenario = marl.Scenario(name="mine", env=Constant, agents=agents, num_envs=1, steps=16)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    place = tmp_path / "site"
    info = place / "line_logger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: line-logger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[marl.loggers]\nlines = line_logger:Lines\nnothing = line_logger:nothing\n")
    (place / "line_logger.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(place)
    yield
    sys.modules.pop("line_logger", None)


def test_the_command_line_finds_loggers_of_installed_packages(package, tmp_path, capsys):
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(TASK)
    words = ["train", str(file), "--run-dir", str(run), "--quiet", "--no-evaluate"]
    assert main([*words, "--logger", "lines"]) == 0, capsys.readouterr().err
    assert (run / "lines.txt").read_text().splitlines() == ["mine None 16", "8 True", "16 True"]
    assert main([*words, "--resume", "--steps", "24"]) == 0  # is named again, or does not log
    assert main([*words, "--resume", "--steps", "32", "--log", "lines"]) == 0
    assert (run / "lines.txt").read_text().splitlines()[3:] == ["mine 24 32", "32 True"]
    assert main([*words, "--force", "--log", "line"]) == 2
    said = capsys.readouterr().err
    assert (
        "unknown logger 'line'; did you mean 'lines'? (known: csv, lines, mlflow, nothing, tensorboard, wandb)" in said
    )
    assert main([*words, "--force", "--logger", "nothing"]) == 2
    assert "logger 'nothing': expected a class or object with build(run), got 3" in capsys.readouterr().err


def test_tensorboard_is_a_logger(tmp_path):
    pytest.importorskip("tensorboard")
    with marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), Constant, num_envs=1) as system:
        system.train(steps=16, loggers=[marl.logs.TensorBoard(tmp_path / "events")])
        assert list((tmp_path / "events").iterdir())
        with pytest.raises(
            marl.ConfigError, match=r"this run has no folder; say where to write: TensorBoard\('events'\)"
        ):
            system.train(steps=16, loggers=[marl.logs.TensorBoard()])
        with pytest.raises(marl.ConfigError, match="expected loggers such as"):
            system.train(steps=16, loggers=[print])
        assert system.steps == 16
