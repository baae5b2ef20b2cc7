"""Workers, threads and devices that fail a training: how it ends, what is saved, and that it always ends."""

from __future__ import annotations

import json
import os
import signal

import pytest

from marl import checkpoint
from marl.learners.ppo import PPOLearner
from marl.run import Run
from marl.training import loop
from marl.training.history import EpisodeLog
from tests.support.commands import at, finish, gone, start, wait_until, words


@pytest.fixture
def pids(monkeypatch):
    """Of all workers there ever were."""
    found: set[int] = set()
    tick = Run.tick

    def patched(self, system):
        found.update(getattr(system.env, "pids", ()))
        return tick(self, system)

    monkeypatch.setattr(Run, "tick", patched)
    return found


def summary_of(run):
    return json.loads((run / "summary.json").read_text())


def test_workers_that_are_killed_again_and_again_end_a_run_that_is_saved_and_says_so(
    pids, scenario, tmp_path, monkeypatch, marl_command
):
    run, tick = tmp_path / "run", Run.tick

    def kill(self, system):
        ended = tick(self, system)
        if system.steps >= 320:
            for pid in system.env.pids:
                os.kill(pid, signal.SIGKILL)
        return ended

    monkeypatch.setattr(Run, "tick", kill)
    said = marl_command(*words(scenario, run, "--workers", 2, "--save-every", 10**6))
    assert said.code == 6, said.err
    summary = summary_of(run)
    assert (summary["status"], summary["exit_code"]) == ("failed", 6)
    assert summary["faults"]["killed"] >= 3
    saved = checkpoint.load(run / "checkpoints" / "last")[0]["steps"]
    assert saved == summary["steps"] >= 320
    wait_until(lambda: all(map(gone, pids)))
    monkeypatch.undo()
    assert marl_command("train", "--run-dir", run, "--resume", "--steps", saved + 64, "--quiet").code == 0


@pytest.mark.parametrize("where", [(PPOLearner, "update"), (EpisodeLog, "record"), (loop, "collect")])
def test_an_exception_in_a_learner_or_in_what_watches_it_leaves_no_worker(
    where, pids, scenario, tmp_path, monkeypatch, marl_command
):
    call, calls = getattr(*where), []

    def fail(*args, **kwargs):
        calls.append(where)
        if len(calls) > 2:
            raise LookupError("nowhere")
        return call(*args, **kwargs)

    monkeypatch.setattr(*where, fail)
    said = marl_command(*words(scenario, tmp_path / "run", "--workers", 2))
    assert said.code == 1
    assert "LookupError: nowhere" in said.err
    assert len(pids) == 2
    wait_until(lambda: all(map(gone, pids)))
    assert summary_of(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / "run.lock").exists()


THREADS = """
import threading, time
import marl
from tests.support.tiny import Constant

class Busy(Constant):
    def reset(self, seed=None, options=None):
        threading.Thread(target=time.sleep, args=(3600,), name="for ever").start()
        return super().reset(seed=seed, options=options)

learner = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,)))
scenario = marl.Scenario(name="busy", env=Busy, agents=learner, num_envs=1, steps=16)
"""


def test_threads_that_an_environment_leaves_running_do_not_keep_a_command_from_ending(tmp_path):
    (tmp_path / "busy.py").write_text(THREADS)
    said = finish(start("train", tmp_path / "busy.py", "--run-dir", tmp_path / "run", "--no-evaluate", "--quiet"))
    assert said.code == 0, said.err
    assert "still ran" in said.err
    assert "'for ever'" in said.err
    assert summary_of(tmp_path / "run")["status"] == "finished"


def test_a_gpu_that_is_not_there_is_bad_input_or_done_without(scenario, tmp_path, monkeypatch, marl_command):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = marl_command(*words(scenario, tmp_path / "run", "--device", "cuda"))
    assert said.code == 2
    assert "not available here" in said.error
    assert not (tmp_path / "run").exists()
    said = marl_command(*words(scenario, tmp_path / "run", "--device", "auto", "--steps", 64))
    assert said.code == 0
    assert "the CPU computes" in said.error
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["tunable"]["device"] == "auto"


def test_a_gpu_that_is_lost_ends_the_run_beside_its_last_checkpoint(scenario, tmp_path, monkeypatch, marl_command):
    def lose():
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")

    at(monkeypatch, 700, lose)
    said = marl_command(*words(scenario, tmp_path / "run"))
    assert said.code == 6
    assert "the GPU was lost (CUDA error: unspecified launch failure" in said.error
    assert summary_of(tmp_path / "run")["exit_code"] == 6
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last")[0]["steps"] == 640
