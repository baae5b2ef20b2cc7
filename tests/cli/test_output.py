"""What reaches stdout: one JSON object however much others print, any path in any encoding; who may end a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import MARL

FILE = """
import atexit, ctypes, os, sys, threading
import marl
from tests.support.tiny import Constant

class Loud(Constant):
    def step(self, action):
        print("[python] tick")
        os.write(1, b"[descriptor] tick\\n")
        ctypes.CDLL(None).printf(b"[c] tick\\n")
        os.system("echo [child] tick")
        return super().step(action)

    def close(self):
        print("[close]")

class ExitsInClose(Constant):
    def close(self):
        sys.exit(0)

def exits(seen):
    sys.exit(0)

if __name__ == "marl_scenario_late":
    @atexit.register
    def late():
        print("[exit]")
        sys.__stdout__.write("[exit, too]")

scenario = marl.Scenario(
    name="loud",
    env=Loud,
    agents=marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,))),
    shaping=(),
    num_envs=1,
    steps=16,
)
"""


def write(folder: Path, *changes: tuple[str, str], name: str = "loud.py") -> Path:
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """``marl ...`` in a process of its own, with bytes as they come."""
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *(p for p in sys.path if p)])}
    env = os.environ | {"OMP_NUM_THREADS": "1"} | paths | environment
    return subprocess.run([*MARL, *map(os.fspath, words)], env=env, capture_output=True, timeout=600, check=False)


def test_json_is_all_of_stdout_whoever_else_prints_and_how(tmp_path):
    for workers in ("0", "1"):
        folder = tmp_path / workers
        options = ("--quiet", "--json", "--episodes", "1", "--workers", workers)
        said = run("train", write(tmp_path, name="late.py"), "--run-dir", folder, *options)
        assert said.returncode == 0, said.stderr
        assert json.loads(said.stdout)["evaluation"]["mean_return"] == 8.0
        for who in (b"python", b"descriptor", b"c", b"child", b"exit", b"exit, too"):
            assert b"[%s]" % who in said.stderr
    said = run("check", write(tmp_path), "--steps", "10", "--json")
    assert json.loads(said.stdout)["ok"], said.stderr


def test_json_is_all_of_stdout_for_a_caller_in_the_same_process_who_gets_stdout_back(tmp_path, capfd):
    from marl.cli import main

    folder = tmp_path / "run"
    options = ("--quiet", "--json", "--episodes", "1")
    stdout = sys.stdout
    assert main(["train", str(write(tmp_path)), "--run-dir", str(folder), *options]) == 0
    assert sys.stdout is stdout
    print("mine")
    os.write(1, b"mine, too\n")
    out, _ = capfd.readouterr()
    answer, *after = out.splitlines()
    assert json.loads(answer)["status"] == "finished"
    assert sorted(after) == ["mine", "mine, too"]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_that_exits_when_it_is_closed_ends_no_command(workers, tmp_path, marl_command):
    path = write(tmp_path, ("env=Loud", "env=ExitsInClose"))
    words = ("train", path, "--run-dir", tmp_path / "run", "--episodes", 2, "--evaluate-every", 8, "--workers", workers)
    said = marl_command(*words, "--json", "--quiet")
    assert said.code == 0, said.err
    assert json.loads(said.out)["evaluation"]["mean_return"] == 8.0
    said = marl_command("evaluate", tmp_path / "run", "--episodes", 1, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["mean_return"] == 8.0


def test_foreign_code_that_exits_never_ends_a_command_with_success(tmp_path, marl_command):
    path = write(tmp_path, ("shaping=()", "shaping=(marl.shaping.Function(exits),)"), ("env=Loud", "env=Constant"))
    said = marl_command("train", path, "--run-dir", tmp_path / "run", "--quiet")
    assert said.code == 1
    assert "ended the program: sys.exit(0)" in said.error
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("failed", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text need such a file system")
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_paths_that_stdout_cannot_print_are_printed_with_escapes(encoding, tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), "läufe-μ".encode(), b"\xff")
    path = write(tmp_path, ("env=Loud", "env=Constant"))
    said = run("train", path, "--run-dir", os.fsdecode(folder), "--episodes", "1", PYTHONIOENCODING=encoding)
    assert said.returncode == 0, said.stderr
    assert b"run folder: " in said.stdout
    assert b"\\udcff" in said.stdout
    assert os.path.exists(os.path.join(folder, b"checkpoints", b"last"))


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text need such a file system")
def test_a_path_that_is_no_text_serves_every_command(tmp_path, marl_command):
    folder = os.path.join(os.fspath(tmp_path), "\udcff")
    words = ("train", write(tmp_path, ("env=Loud", "env=Constant")), "--run-dir", folder, "--episodes", "1")
    assert marl_command(*words).code == 0
    said = marl_command("evaluate", folder, "--episodes", "1", "--json")
    assert json.loads(said.out)["checkpoint"].startswith(folder)
    assert marl_command("train", "--resume", "--run-dir", folder, "--quiet", "--steps", "24", "--tensorboard").code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("more", [(), ("--quiet",)])
def test_a_full_disk_under_stderr_ends_no_training(more, tmp_path):
    path = write(tmp_path, ("env=Loud", "env=Constant"))
    words = ("train", str(path), "--run-dir", str(tmp_path / "run"), "--no-evaluate", "--json", *more)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *(p for p in sys.path if p)])
    with open("/dev/full", "wb") as full:
        said = subprocess.run(
            [*MARL, *words], env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert json.loads(said.stdout)["status"] == "finished"
    assert said.returncode == 0


def test_python_m_marl_cli_is_the_command_too():
    for module in ("marl", "marl.cli"):
        done = subprocess.run([sys.executable, "-m", module, "trian"], capture_output=True, text=True)
        assert done.returncode == 2
        assert "did you mean train?" in done.stderr
