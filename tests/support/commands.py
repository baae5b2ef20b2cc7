"""The ``marl`` command in this process and in one of its own, and two scenarios for it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from marl.run import Run

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
from tests.support.tiny import Team

scenario = marl.Scenario(
    name="duel",
    env=Team,
    env_kwargs={"length": 5},
    agents={"agent_0": marl.ippo(rollout=8, minibatches=1, network=marl.MLP((8,))), "agent_*": marl.ia2c(rollout=8)},
    num_envs=2,
    steps=160,
)
"""

KILLED = """
import os, signal, sys
from marl.run import Run
tick = Run.tick
def patched(self, system):
    if system.steps == 788:
        {}
    return tick(self, system)
Run.tick = patched
from marl.cli import main
sys.exit(main())
"""
MARL = [sys.executable, "-c", "import sys; from marl.cli import main; sys.exit(main())"]
READ_RUNS = ("evaluate", "sweep", "play", "tournament", "exploit")


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr; where a cache was cold, other lines say so."""
        lines = [line for line in self.err.strip().splitlines() if not line.startswith("compiling ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


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


class Here:
    """Trains cells in this process, as soon as it is asked to: in place of ``CellProcess``."""

    pid = None

    def __init__(self):
        self.socket, self.theirs = socket.socketpair()
        self.died = 0

    def run(self, words, log, asks=False):
        from marl.cli import main

        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            code = main(words)
        except SystemExit as death:  # of its process
            self.died = death.code
            self.theirs.close()
            return
        self.theirs.sendall(b"%d\n" % code)

    def answer(self):
        said = self.socket.recv(64)
        return int(said) if said else None

    def interrupt(self):
        self.theirs.close()

    def end(self):
        self.theirs.close()
        self.socket.close()
        return f"died of {self.died}"


class HereAsking:
    """Trains in a thread of this process, and asks as a process of its own does."""

    pid = None

    def __init__(self):
        self.socket, self.theirs = socket.socketpair()
        self.reader = self.theirs.makefile("r")
        self.thread = None

    def run(self, words, log, asks=False):
        from marl.cli import main

        def work():
            if asks:
                from marl.cli.asking import Asking
                from marl.cli.train import LOOKING_ON

                LOOKING_ON.set((Asking(self.theirs, self.reader),))
            code = main(words)
            with contextlib.suppress(OSError):
                self.theirs.sendall(b"%d\n" % code)

        self.thread = threading.Thread(target=work)
        self.thread.start()

    def answer(self):
        from marl.cli.cell_process import Evaluated

        words = self.socket.recv(128).split()
        return Evaluated(int(words[1]), float(words[2])) if len(words) == 3 else int(words[0])

    def reply(self, verdict):
        self.socket.sendall(verdict.encode() + b"\n")

    def interrupt(self):
        pass

    def end(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        if self.thread is not None:
            self.thread.join()
        self.reader.close()
        self.theirs.close()
        self.socket.close()
        return ""


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


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return not Path("/proc").exists() or not Path(f"/proc/{pid}").exists()


def wait_until(condition) -> None:
    """Wait as long as it takes; only a hang takes two minutes."""
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, "hangs"
        time.sleep(0.02)


def words(scenario, run, *more):
    """A training with evaluations and checkpoints on the way."""
    options = ("--evaluate-every", 400, "--evaluate-episodes", 2, "--save-every", 320, "--quiet", "--no-evaluate")
    return ("train", scenario, "--run-dir", run, *options, *more)


def at(monkeypatch, step, action):
    """Do something when a training has taken ``step`` steps."""
    tick = Run.tick

    def patched(self, system):
        if system.steps == step:
            action()
        return tick(self, system)

    monkeypatch.setattr(Run, "tick", patched)
