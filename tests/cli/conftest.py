"""A tiny scenario, one finished run of it, and two ways to call the command: in this process, and in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCENARIO = """
import marl

scenario = marl.Scenario(
    name="tiny",
    about="CartPole, much too short",
    env="CartPole-v1",
    agents=marl.ippo(rollout=16, minibatches=2, epochs=2, lr=marl.Linear(1e-3, 0.0), network=marl.MLP((8,))),
    num_envs=4,
    steps=1280,
)
"""
DUEL = """
import marl
from tests.tiny import Team

scenario = marl.Scenario(
    name="duel",
    env=Team,
    env_kwargs={"length": 5},
    agents={"agent_0": marl.ippo(rollout=8, minibatches=1, network=marl.MLP((8,))), "agent_*": marl.ia2c(rollout=8)},
    num_envs=2,
    steps=160,
)
"""


MARL = [sys.executable, "-c", "import sys; from marl.cli import main; sys.exit(main())"]


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture(scope="session")
def scenario(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "tiny.py"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="session")
def duel(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "duel.py"
    path.write_text(DUEL)
    return path


READ_RUNS = ("evaluate", "sweep", "play", "tournament", "exploit")


@pytest.fixture
def marl_command(capsys):
    """``marl ...`` in this process. Runs of these tests are their own, of scenarios in files: they are trusted."""
    from marl.cli import main

    def call(*words: object) -> Said:
        if words[0] in READ_RUNS or "--resume" in words:
            words = (*words, "--trust")
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return call


def start(*words: object, code: str | None = None) -> subprocess.Popen[str]:
    """``marl ...`` in a process of its own."""
    program = code or "import sys; from marl.cli import main; sys.exit(main())"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str], seconds: float = 600) -> Said:
    """Wait for it."""
    try:
        out, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
    return Said(process.returncode, out, err)


@pytest.fixture(scope="session")
def finished(scenario, tmp_path_factory) -> Path:
    """The folder of an unbroken run, with evaluations on the way."""
    from marl.cli import main

    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    words = ["train", scenario, "--run-dir", folder, "--evaluate-every", 400, "--evaluate-episodes", 2, "--quiet"]
    assert main([*map(str, words), "--save-every", "320", "--episodes", "4", "--json"]) == 0
    return folder
