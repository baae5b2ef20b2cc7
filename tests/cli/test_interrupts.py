"""Ctrl-C at whatever a training does: exit 130, no wall of text, no process left, and nothing saved in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import MARL, finish, gone, wait_until

FILE = """
import os, signal
import marl, numba.core.event
from marl import checkpoint
from marl.learners.ppo import PPOLearner
from marl.system import MultiAgentSystem
from tests.support.tiny import Constant

os.environ.setdefault("LEARNER", str(os.getpid()))

def reached(point):
    if os.environ["POINT"] == point:
        os.environ["POINT"] = ""
        os.kill(int(os.environ["LEARNER"]), getattr(signal, os.environ["SIGNAL"]))

def after(point, owner, name):
    call = getattr(owner, name)
    def reaching(*args, **kwargs):
        reached(point)
        return call(*args, **kwargs)
    setattr(owner, name, reaching)

class Compiles(numba.core.event.Listener):
    def on_start(self, event):
        reached("compile")
    def on_end(self, event):
        pass

class Here(Constant):
    def __init__(self):
        super().__init__()
        with open("pids", "a") as file:
            file.write(f"{os.getpid()}\\n")
        reached("make")
    def reset(self, seed=None, options=None):
        reached("reset")
        return super().reset(seed=seed, options=options)
    def step(self, action):
        reached("step")
        return super().step(action)

numba.core.event.register("numba:compile", Compiles())
after("update", PPOLearner, "update")
after("save", checkpoint, "save")
after("evaluate", MultiAgentSystem, "evaluate")
reached("import")
scenario = marl.Scenario(
    name="here",
    env=Here,
    agents=marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,))),
    num_envs=2,
    steps=64,
)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("point", "workers", "saved"),
    [
        ("import", 0, None),
        ("make", 2, None),
        ("step", 2, 0),
        ("compile", 0, 0),
        ("update", 2, 16),
        ("save", 0, 16),
        ("evaluate", 2, 64),
    ],
)
def test_ctrl_c_ends_a_training_wherever_it_is(point, workers, saved, tmp_path):
    (tmp_path / "here.py").write_text(FILE)
    run = tmp_path / "run"
    words = ("here.py", "--run-dir", str(run), "--workers", str(workers), "--save-every", "16", "--episodes", "1")
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *(entry for entry in sys.path if entry)])
    env = os.environ | {"POINT": point, "SIGNAL": "SIGINT", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*MARL, "train", *words],
        cwd=tmp_path,
        env=env | ({"NUMBA_CACHE_DIR": str(tmp_path / "numba"), "MARL_COMPILED": "auto"} if point == "compile" else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    said = finish(process)
    assert said.code == 130, said.err
    assert "Traceback" not in said.err
    assert "ignored" not in said.err
    assert "interrupted" in said.err.strip().splitlines()[-1]
    if (tmp_path / "pids").exists():
        pids = {int(line) for line in (tmp_path / "pids").read_text().split()}
        wait_until(lambda: all(map(gone, pids)))
    found = sorted(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))
    if saved is None:
        assert not run.exists()
    else:
        assert found[-1:] == ([saved] if saved else [])
    assert not (run / "run.lock").exists()
