"""Runs that are killed, interrupted, damaged or changed: what was saved is whole, resuming equals never stopping."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys

import pytest

from marl import checkpoint
from marl.logs import read_metrics
from marl.run import Run
from tests.support.commands import KILLED, at, finish, start, words
from tests.support.equality import CLOCKS, assert_equal_runs, assert_equal_trees


@pytest.mark.parametrize(
    ("name", "step", "code", "status"),
    [
        ("SIGINT", 8, 130, "interrupted"),
        ("SIGTERM", 500, 75, "preempted"),
        ("SIGUSR1", 1276, 75, "preempted"),
        ("SIGTERM", 640, 75, "preempted"),
    ],
)
def test_a_signal_ends_the_step_saves_and_resumes_exactly(
    name, step, code, status, scenario, finished, tmp_path, monkeypatch, marl_command
):
    with monkeypatch.context() as patch:
        at(patch, step, lambda: os.kill(os.getpid(), getattr(signal, name)))
        before = signal.getsignal(signal.SIGTERM)
        said = marl_command(*words(scenario, tmp_path / "run"))
    assert said.code == code
    assert "Traceback" not in said.err
    assert f"{status} at step {step:,}" in said.err
    assert signal.getsignal(signal.SIGTERM) == before
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["exit_code"]) == (status, step, code)
    assert marl_command("train", "--run-dir", tmp_path / "run", "--resume", *words(scenario, 0)[4:]).code == 0
    assert_equal_runs(finished, tmp_path / "run")


def test_a_killed_run_resumes_as_if_it_had_never_stopped(scenario, finished, tmp_path, marl_command):
    run = tmp_path / "run"
    died = finish(start(*words(scenario, run), code=KILLED.format("os.kill(os.getpid(), signal.SIGKILL)")))
    assert died.code == -signal.SIGKILL
    assert (run / "run.lock").exists()
    (run / "checkpoints" / ".step-000000000700.12345678.tmp").mkdir()
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"steps": 792, "episo')  # a torn line
    said = marl_command(*words(scenario, run, "--resume"))
    assert said.code == 0
    assert "took over the lock of process" in said.err
    assert "resuming" in said.err
    assert_equal_runs(finished, run)
    assert not list((run / "checkpoints").glob(".*"))
    assert not (run / "run.lock").exists()


def test_a_second_signal_ends_at_once_and_spares_the_last_checkpoint(scenario, tmp_path):
    twice = (
        "import time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.3); "
        "system.save = lambda path: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(600))"
    )
    said = finish(start(*words(scenario, tmp_path), code=KILLED.format(twice)))
    assert said.code == 128 + signal.SIGTERM
    assert "Traceback" not in said.err
    assert checkpoint.load(tmp_path / "checkpoints" / "last")[0]["steps"] == 640


def test_ctrl_c_while_importing_is_quiet():
    program = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch._C":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from marl.cli import main
sys.exit(main())
"""
    said = finish(start("check", "CartPole-v1", code=program))
    assert said.code == 130
    assert said.error == "interrupted"


def test_a_signal_before_or_after_the_training_is_quiet_too(scenario, tmp_path, monkeypatch, marl_command):
    from marl.system import MultiAgentSystem

    def preempt(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MultiAgentSystem, "__init__", preempt)
        said = marl_command(*words(scenario, tmp_path / "never"))
    assert (said.code, said.error) == (75, "preempted")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_run_that_is_ended_in_its_final_evaluation_is_not_finished_and_resuming_evaluates(
    name, code, scenario, tmp_path, monkeypatch, marl_command
):
    from marl.system import MultiAgentSystem

    status = {75: "preempted", 130: "interrupted"}[code]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(MultiAgentSystem, "evaluate", lambda *_, **__: os.kill(os.getpid(), getattr(signal, name)))
        said = marl_command("train", scenario, "--run-dir", run, "--steps", 64, "--episodes", 2, "--quiet", "--json")
    assert said.code == code
    assert f"{status} in the final evaluation" in said.error
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"], summary["steps"]) == (status, code, 64)
    assert json.loads(said.out)["status"] == status
    assert not (run / "run.lock").exists()
    monkeypatch.setattr(MultiAgentSystem, "train", None)  # there is nothing left to train
    said = marl_command("train", "--run-dir", run, "--resume", "--json")
    assert said.code == 0, said.err
    assert len(json.loads(said.out)["evaluation"]["returns"]) == 2
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_a_run_whose_final_evaluation_fails_is_not_finished(scenario, tmp_path, monkeypatch, marl_command):
    from marl.system import MultiAgentSystem
    from marl.types import EnvContractError

    def fail(*_, **__):
        raise EnvContractError("no observation")

    monkeypatch.setattr(MultiAgentSystem, "evaluate", fail)
    said = marl_command("train", scenario, "--run-dir", tmp_path / "run", "--steps", 64, "--quiet")
    assert said.code == 3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["exit_code"], summary["steps"]) == ("failed", 3, 64)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_in_the_first_step_waits_for_nothing_and_saves_nothing(
    name, code, scenario, tmp_path, monkeypatch, marl_command
):
    """The first step may compile for a minute."""

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("marl.training.loop.advance", lambda *_: os.kill(os.getpid(), getattr(signal, name)))
        said = marl_command(*words(scenario, run))
    assert said.code == code
    assert "before the next step was taken" in said.error
    assert list((run / "checkpoints").iterdir()) == []
    assert json.loads((run / "summary.json").read_text())["exit_code"] == code
    assert marl_command("train", "--run-dir", run, "--resume", "--steps", 64, "--no-evaluate", "--quiet").code == 0


def test_sigterm_ends_other_commands_in_order(finished, monkeypatch, marl_command):
    """An evaluation has processes to end and folders to take away."""
    from marl.system import MultiAgentSystem

    cleaned = []

    def ended(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(sys.exc_info()[0])

    monkeypatch.setattr(MultiAgentSystem, "evaluate", ended)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        said = marl_command("evaluate", finished)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (said.code, said.err.strip().splitlines()[-1]) == (128 + signal.SIGTERM, "interrupted")
    assert cleaned == [KeyboardInterrupt]


def test_a_second_process_is_refused_and_harms_nothing(scenario, tmp_path, marl_command):
    with Run(tmp_path):
        for more in ((), ("--resume",), ("--force",)):
            said = marl_command(*words(scenario, tmp_path, *more))
            assert said.code == 2
            assert f"process {os.getpid()}" in said.error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run, cut back to what was there at step 960."""
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)
    return run


def damage(path, how="flip"):
    file = path / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_resume_falls_back_to_the_newest_whole_checkpoint_and_says_so(scenario, finished, copy, marl_command):
    newest = sorted((copy / "checkpoints").glob("step-*"))[-1]
    damage(newest)
    said = marl_command(*words(scenario, copy, "--resume"))
    assert said.code == 0
    assert f"{newest.name}: tensors.safetensors is damaged" in said.err
    assert "falling back to" in said.err
    assert f"set aside as aside-{newest.name}" in said.err
    assert_equal_runs(finished, copy)


def test_resume_from_a_damaged_checkpoint_by_name_is_exit_5(scenario, copy, marl_command):
    newest = (copy / "checkpoints" / "last").resolve()
    damage(newest)
    said = marl_command(*words(scenario, copy, "--resume", newest))
    assert said.code == 5
    assert "damaged" in said.error
    said = marl_command("evaluate", copy, "--checkpoint", newest.name)
    assert said.code == 5
    assert "damaged" in said.error


def test_resume_with_nothing_but_damage_is_exit_5(scenario, copy, marl_command):
    for path in (copy / "checkpoints").glob("step-*"):
        damage(path)
    said = marl_command(*words(scenario, copy, "--resume"))
    assert said.code == 5
    assert "none of the" in said.err
    assert marl_command("evaluate", copy).code == 5


def test_resume_from_an_older_checkpoint_goes_back_in_time(scenario, finished, copy, marl_command):
    older = sorted((copy / "checkpoints").glob("step-*"))[-2]
    said = marl_command(*words(scenario, copy, "--resume", older))
    assert said.code == 0, said.err
    assert_equal_runs(finished, copy)


def test_a_changed_identity_is_refused_with_its_difference(scenario, copy, marl_command):
    for more, expected in (
        (("--seed", 3), "seed: 0 -> 3"),
        (("--num-envs", 2), "num_envs: 4 -> 2"),
        (("--set", "learner.epochs=3"), "learner.epochs: 2 -> 3"),
        (("--set", "env_kwargs.sutton_barto_reward=true"), "env_kwargs.sutton_barto_reward: null -> true"),
    ):
        said = marl_command(*words(scenario, copy, "--resume", *more))
        assert said.code == 2
        assert expected in said.error


def test_more_steps_and_other_evaluations_may_be_asked_for(scenario, copy, marl_command):
    said = marl_command(*words(scenario, copy, "--resume", "--steps", 1408, "--evaluate-episodes", 3))
    assert said.code == 0
    assert json.loads((copy / "summary.json").read_text())["steps"] == 1408


def test_resuming_keeps_what_was_asked_and_takes_what_is_asked_anew(scenario, tmp_path, monkeypatch, marl_command):
    run = tmp_path / "run"
    asked = ("--tensorboard", "--keep", 2, "--episodes", 3, "--save-every", 160, "--save-minutes", 5, "--workers", 0)
    with monkeypatch.context() as patch:
        at(patch, 500, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert marl_command("train", scenario, "--run-dir", run, *asked, "--quiet").code == 75
    first = json.loads((run / "config.json").read_text())
    events = len(list((run / "tensorboard").iterdir()))
    said = marl_command("train", "--run-dir", run, "--resume", "--json")
    assert said.code == 0, said.err
    assert len(json.loads(said.out)["evaluation"]["returns"]) == 3
    assert [path.name[-4:] for path in sorted((run / "checkpoints").glob("step-*"))][-2:] == ["1120", "1280"]
    assert len(list((run / "tensorboard").iterdir())) == events + 1
    again = json.loads((run / "config.json").read_text())
    assert again["tunable"] == first["tunable"]
    ours = {"resume", "trust", "json", "quiet"}
    assert {k: v for k, v in again["asked"].items() if k not in ours} == {
        k: v for k, v in first["asked"].items() if k not in ours
    }
    anew = ("--no-tensorboard", "--episodes", 100, "--keep", 3, "--set", "steps=1408", "--no-evaluate")  # the defaults
    assert marl_command("train", "--run-dir", run, "--resume", *anew, "--quiet").code == 0
    assert len(list((run / "tensorboard").iterdir())) == events + 1
    last = json.loads((run / "config.json").read_text())
    assert last["tunable"]["steps"] == json.loads((run / "summary.json").read_text())["steps"] == 1408
    changed = {"tensorboard": False, "episodes": 100, "keep": 3, "evaluate": False, "save_every": 160}
    assert changed.items() <= last["asked"].items()


@pytest.mark.parametrize(("name", "value"), [("keep", "3"), ("tensorboard", 1), ("save_minutes", -1), ("device", None)])
def test_a_config_with_options_that_make_no_sense_is_bad_input(name, value, copy, marl_command):
    config = json.loads((copy / "config.json").read_text())
    config["asked"][name] = value
    (copy / "config.json").write_text(json.dumps(config))
    said = marl_command("train", "--run-dir", copy, "--resume")
    assert said.code == 2
    assert name.replace("_", "-") in said.error.replace("_", "-")


def test_another_fingerprint_is_named(scenario, copy, monkeypatch, marl_command):
    here = checkpoint.fingerprint()
    monkeypatch.setattr(checkpoint, "fingerprint", lambda: here | {"torch": "9.9"})
    said = marl_command(*words(scenario, copy, "--resume"))
    assert said.code == 0
    assert "not bit-exact" in said.err
    assert "torch" in said.err
    assert "finished already" in said.err


def test_resume_without_anything_saved_starts_anew(scenario, finished, tmp_path, marl_command):
    said = marl_command(*words(scenario, tmp_path / "run", "--resume"))
    assert said.code == 0
    assert "nothing was saved yet" in said.err
    assert_equal_runs(finished, tmp_path / "run")


def test_a_full_disk_ends_a_run_only_after_patience(scenario, tmp_path, monkeypatch, marl_command):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(Run.__init__.__kwdefaults__, "retry_seconds", 0.001)
    monkeypatch.setattr(checkpoint.os, "fsync", full)
    said = marl_command(*words(scenario, tmp_path / "run"))
    assert said.code == 6
    assert "cannot be written" in said.error
    monkeypatch.undo()
    monkeypatch.setitem(Run.__init__.__kwdefaults__, "retry_seconds", 0.001)
    monkeypatch.setattr("marl.system.checkpoint.save", lambda *_: full(0))
    said = marl_command(*words(scenario, tmp_path / "run"))
    assert said.code == 6
    assert "training goes on" in said.err
    assert "6 times in a row (No space left on device)" in said.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit_code"] == 6


def rows_of(run):
    return str([{k: v for k, v in row.items() if k not in CLOCKS} for row in read_metrics(run)])


@pytest.mark.parametrize("what", ["", "metrics.jsonl", "checkpoints", "config.json", "run.lock"])
def test_a_run_whose_folder_is_removed_makes_it_again_and_loses_nothing_learnt(
    what, scenario, finished, tmp_path, monkeypatch, marl_command
):
    run, left = tmp_path / "run", tmp_path / "left"
    at(monkeypatch, 644, lambda: (run / what).rename(left))
    said = marl_command(*words(scenario, run, "--tensorboard"))
    assert said.code == 0, said.err
    assert said.err.count("was removed or changed while training") == 1
    assert rows_of(run) == rows_of(finished)
    states = [checkpoint.load(folder / "checkpoints" / "last")[0] for folder in (finished, run)]
    for state in states:
        for clock in CLOCKS:
            state["history"].pop(clock, None)
    assert_equal_trees(*states)
    assert json.loads((run / "config.json").read_text())["asked"]["tensorboard"]
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert not (run / "run.lock").exists()
    assert list((run / "tensorboard").iterdir())
    assert marl_command("evaluate", run, "--episodes", 1).code == 0


def test_a_folder_that_is_removed_in_the_final_evaluation_is_made_again(scenario, tmp_path, monkeypatch, marl_command):
    from marl.system import MultiAgentSystem

    run, evaluate = tmp_path / "run", MultiAgentSystem.evaluate
    monkeypatch.setattr(MultiAgentSystem, "evaluate", lambda *a, **k: (shutil.rmtree(run, True), evaluate(*a, **k))[1])
    assert marl_command("train", scenario, "--run-dir", run, "--steps", 64, "--episodes", 2).code == 0
    assert checkpoint.load(run / "checkpoints" / "last")[0]["steps"] == 64
    assert "evaluation" in json.loads((run / "summary.json").read_text())


def test_a_run_whose_folder_was_given_to_another_run_ends_and_spares_it(scenario, tmp_path, monkeypatch, marl_command):
    run, other = tmp_path / "run", []

    def usurp():
        shutil.rmtree(run)
        other.append(Run(run))
        other[0].begin({"mine": True})

    at(monkeypatch, 644, usurp)
    said = marl_command(*words(scenario, run))
    assert said.code == 6
    assert "was removed while training, and now" in said.err.strip().splitlines()[-1]
    with other[0]:
        assert json.loads((run / "config.json").read_text()) == {"mine": True}
        assert not (run / "summary.json").exists()
        assert list((run / "checkpoints").iterdir()) == []
        assert (run / "metrics.jsonl").read_bytes() == b""
        assert (run / "run.lock").exists()


def test_the_latest_run_of_a_scenario_is_found(scenario, tmp_path, monkeypatch, marl_command):
    monkeypatch.chdir(tmp_path)
    assert marl_command("train", scenario, "--steps", 64, "--no-evaluate", "--quiet").code == 0
    said = marl_command("train", scenario, "--resume", "--no-evaluate", "--quiet", "--steps", 128)
    assert said.code == 0
    assert "from step 64" in said.err
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_non_finite_training_is_exit_4(scenario, tmp_path, monkeypatch, marl_command):
    from marl.types import NonFiniteError

    def fail(state, overlapping, learnt):
        raise NonFiniteError("training: loss became nan")

    monkeypatch.setattr("marl.training.loop.update", fail)
    said = marl_command(*words(scenario, tmp_path / "run"))
    assert said.code == 4
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_an_unexpected_error_is_one_line_too(scenario, tmp_path, monkeypatch, marl_command):
    at(monkeypatch, 64, lambda: 1 / 0)
    said = marl_command(*words(scenario, tmp_path / "run"))
    assert said.code == 1
    assert "ZeroDivisionError: division by zero (unexpected; --debug shows where)" in said.error
    assert not (tmp_path / "run" / "run.lock").exists()


def test_memory_that_runs_out_is_exit_6(scenario, tmp_path, monkeypatch, marl_command):
    def fail():
        raise MemoryError("Unable to allocate 9 EiB")

    at(monkeypatch, 64, fail)
    said = marl_command(*words(scenario, tmp_path / "run"))
    assert said.code == 6
    assert "lower num_envs" in said.error


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
def test_a_reader_that_leaves_early_is_no_error(finished):
    program = "import os, sys; r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)\n"
    program += "from marl.cli import main; sys.exit(main())"
    said = finish(start("list", code=program))
    assert said.code == 0
    assert "Traceback" not in said.err


MINE = """
import marl
from dataclasses import dataclass
from tests.support.tiny import Constant

@dataclass(frozen=True)
class Mine:
    width: int = 4

    def build(self, owner, inputs, generators):
        return marl.MLP((self.width,)).build(owner, inputs, generators)

scenario = marl.Scenario(
    name="mine",
    env=lambda: Constant(),
    agents=marl.ippo(rollout=8, minibatches=1, network=Mine(4)),
    num_envs=1,
    steps=32,
)
"""


def test_learners_with_code_of_their_author_are_brought_back_by_their_scenario(tmp_path, marl_command):
    path, run = tmp_path / "mine.py", tmp_path / "run"
    path.write_text(MINE)
    assert marl_command("train", path, "--run-dir", run, "--no-evaluate", "--quiet", "--save-every", 16).code == 0
    assert marl_command("evaluate", run, "--episodes", 1).code == 0
    said = marl_command("play", run)
    assert said.code == 2
    assert "takes no render_mode" in said.error
    fork = ("train", "--resume", run / "checkpoints" / "step-000000000016", "--run-dir", tmp_path / "fork")
    said = marl_command(*fork, "--no-evaluate", "--quiet")
    assert said.code == 0, said.err
    ends = [checkpoint.load(folder / "checkpoints" / "last")[0]["learners"] for folder in (run, tmp_path / "fork")]
    assert_equal_trees(*ends)
    path.write_text(MINE.replace("Mine(4)", "Mine(5)"))
    said = marl_command("train", "--run-dir", run, "--resume")
    assert said.code == 2
    assert "learner.network.width: 4 -> 5" in said.error
    said = marl_command("evaluate", run)
    assert said.code == 5
    assert max(map(len, said.err.splitlines())) < 500


@pytest.mark.parametrize("step", [10, 86])
def test_teams_and_recurrent_policies_resume_exactly(step, duel, tmp_path, monkeypatch, marl_command):
    options = ("--set", "agent_0.network=GRU(8)", "--no-evaluate", "--quiet")
    assert marl_command("train", duel, "--run-dir", tmp_path / "whole", *options).code == 0
    with monkeypatch.context() as patch:
        at(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert marl_command("train", duel, "--run-dir", tmp_path / "cut", *options).code == 75
    assert marl_command("train", "--run-dir", tmp_path / "cut", "--resume", "--no-evaluate", "--quiet").code == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")
