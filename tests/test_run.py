"""The run folder as a watcher: what it keeps, when it saves, what it does about a disk that refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import marl
from marl import checkpoint
from marl.cli import main
from marl.config import described, differences
from marl.logs import read_metrics
from marl.run import Run, candidates, checkpoints, first_valid, read_best
from marl.types import CheckpointError, ConfigError, ResourceError
from tests.support.tiny import Constant, Team


@pytest.fixture
def system():
    with marl.MultiAgentSystem(
        marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,))), Constant, num_envs=1
    ) as made:
        yield made


@pytest.fixture
def notes():
    return []


@pytest.fixture
def run(tmp_path, notes):
    with Run(tmp_path / "run", save_every=16, note=notes.append, retry_seconds=0.0, patience=4) as made:
        made.begin({"asked": "nothing"})
        yield made


def names(run):
    return [path.name for path in checkpoints(run.path)]


def test_a_run_from_python_is_a_watcher(run, system):
    system.train(steps=80, evaluate_every=40, evaluate_episodes=1, watcher=run)
    run.end(system)
    run.summarize({"status": "finished"})
    assert names(run)[:3] == ["step-000000000080", "step-000000000064", "step-000000000048"]
    assert len(names(run)) <= 4
    assert read_best(run.path)["metric"] == "evaluation_return"
    assert json.loads((run.path / "config.json").read_text()) == {"asked": "nothing"}
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["last"] == "checkpoints/step-000000000080"
    rows = read_metrics(run.path)
    assert rows[-1]["steps"] == 80
    assert all(row["seconds"] >= 0 for row in rows)


def test_a_checkpoint_is_due_after_some_minutes_too(tmp_path, system):
    with Run(tmp_path, save_minutes=1e-9) as run:
        run.begin({})
        system.train(steps=3, watcher=run)
        assert names(run) == ["step-000000000003", "step-000000000002", "step-000000000001"]


def test_the_best_is_kept_by_rotation(run, system):
    values = iter([1.0, 5.0, 2.0, 4.5, 3.0, float("nan"), 4.0])
    system.train(steps=1)
    for value in values:
        system.train(steps=1)
        run.log({"steps": system.steps, "evaluation_return": value})
        run._next_steps = 0  # due at every step
        run.tick(system)
    assert read_best(run.path) == {
        "metric": "evaluation_return",
        "value": 5.0,
        "steps": 3,
        "checkpoint": "step-000000000003",
    }
    assert [int(name[5:]) for name in names(run)] == [8, 7, 6, 3]
    assert (run.checkpoints / "best").resolve().name == "step-000000000003"
    assert (run.checkpoints / "last").resolve().name == "step-000000000008"
    assert candidates(run.path)[0].name == "step-000000000003"
    assert candidates(run.path, "last")[0].name == "step-000000000008"
    run.log({"steps": 8, "evaluation_return": 5.0})
    run.save(system)
    assert read_best(run.path)["steps"] == 8  # of equals the later one


def test_with_several_teams_none_is_the_best(tmp_path):
    from tests.support.tiny import Turns

    learner = marl.ippo(rollout=4, minibatches=1, network=marl.MLP((4,)))
    with (
        Run(tmp_path) as run,
        marl.MultiAgentSystem({"player_0": learner, "player_1": learner}, Turns, num_envs=1) as both,
    ):
        for steps in (8, 16):
            run.begin({}, both.steps)
            both.train(steps=8, evaluate_every=4, evaluate_episodes=1, watcher=run)
            run.end(both)
            best = read_best(run.path)
            assert (best["metric"], best["steps"]) == ("last", steps)


def test_returns_in_training_name_a_best_only_without_evaluations(run, system):
    run.log({"steps": 1, "episodes": 5, "mean_return": 9.0})
    assert run._candidate is None  # too few episodes
    run.log({"steps": 1, "episodes": 500, "mean_return": 9.0})
    system.train(steps=1)
    assert run.save(system)
    assert read_best(run.path)["metric"] == "mean_return"
    run.log({"steps": 2, "evaluation_return": 1.0})
    system.train(steps=1)
    run.tick(system)
    assert read_best(run.path) == {
        "metric": "evaluation_return",
        "value": 1.0,
        "steps": 2,
        "checkpoint": "step-000000000002",
    }
    run.log({"steps": 3, "episodes": 500, "mean_return": 99.0})
    assert run._candidate is None


def test_successors_are_durable_before_anything_is_deleted(run, system, monkeypatch):
    events = []
    rename, fsync = os.rename, os.fsync

    def renamed(source, target, **kwargs):
        events.append((os.path.basename(source), os.path.basename(target)))
        return rename(source, target, **kwargs)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", lambda file: (events.append("fsync"), fsync(file))[1])
    for _ in range(5):
        system.train(steps=1)
        events.clear()
        run.save(system)
    arrived = next(place for place, event in enumerate(events) if event[1] == "step-000000000005")
    left = next(place for place, event in enumerate(events) if event[0] == "step-000000000002")
    assert arrived < left
    assert "fsync" in events[:arrived]  # the files
    assert "fsync" in events[arrived:left]  # the folder they came to


def test_a_reader_is_never_without_a_checkpoint(run, system, tmp_path):
    """A process that reads ``last`` and the newest valid one all the time, while another saves and rotates."""
    system.train(steps=1)
    run.save(system)
    program = (
        "import sys; from pathlib import Path; from marl import checkpoint\n"
        "from marl.run import candidates, first_valid\n"
        "path, seen = Path(sys.argv[1]), set()\n"
        "print('ready', flush=True)\n"
        "while len(seen) < 5:\n"
        "    seen.add(first_valid(candidates(path, 'last'), checkpoint.load, lambda text: None)[1][0]['steps'])\n"
    )
    reader = subprocess.Popen([sys.executable, "-c", program, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout.readline() == "ready\n"
        while reader.poll() is None:  # it ends by itself once it has seen five of them, or one that does not load
            system.train(steps=1)
            run.save(system)
        reader.communicate()
    finally:
        reader.kill()
    assert reader.returncode == 0


def test_a_full_disk_is_waited_out(run, system, notes, monkeypatch):
    system.train(steps=16, watcher=run)
    true, failures = checkpoint.save, iter([errno.ENOSPC, errno.EIO, errno.EROFS])

    def refuse(*args):
        number = next(failures, None)
        if number is None:
            return true(*args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "save", refuse)
    system.train(steps=20, watcher=run)
    run.end(system)
    assert system.steps == 36
    assert len(notes) == 3
    assert "No space left on device" in notes[0]
    assert names(run)[0] == "step-000000000036"
    assert "step-000000000016" in names(run)


def test_a_disk_that_stays_full_ends_the_run_with_what_was_saved(run, system, notes, monkeypatch):
    system.train(steps=16, watcher=run)

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", refuse)
    with pytest.raises(ResourceError, match="4 times in a row"):
        system.train(steps=100, watcher=run)
    assert len(notes) == 3
    assert checkpoint.load(run.checkpoints / "last")[0]["steps"] == 16


def test_metrics_wait_for_the_disk_too(run, system, monkeypatch):
    from marl.logs import metrics

    true = metrics.os.write
    failures = iter([1, 1])

    def refuse(*args):
        if next(failures, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return true(*args)

    monkeypatch.setattr(metrics.os, "write", refuse)
    system.train(steps=64, log_every=8, watcher=run)
    assert [row["steps"] for row in read_metrics(run.path)] == [8, 16, 24, 32, 40, 48, 56, 64]


def test_one_writer_at_a_time(run, tmp_path, notes):
    with pytest.raises(ConfigError, match=f"process {os.getpid()} on {socket.gethostname()}"):
        Run(run.path, resume=True)
    assert json.loads((run.path / "run.lock").read_text())["pid"] == os.getpid()
    other = tmp_path / "other"
    other.mkdir()
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    (other / "run.lock").write_text(json.dumps({"pid": int(dead.stdout), "host": socket.gethostname()}))
    with Run(other, note=notes.append):
        assert "took over the lock" in notes[0]
    assert not (other / "run.lock").exists()
    (other / "run.lock").write_bytes(b"\xff torn")
    Run(other).close()


def test_without_file_locks_the_process_id_decides(tmp_path, monkeypatch, notes):
    monkeypatch.setattr("marl.run.lock._flock", lambda file: None)
    lock = tmp_path / "run.lock"
    for owner, free in (
        ({"pid": os.getppid(), "host": socket.gethostname()}, False),
        ({"pid": 1, "host": "elsewhere"}, False),
        ({"pid": 2**22 + 1, "host": socket.gethostname()}, True),
        ({"pid": "x"}, True),
    ):
        lock.write_text(json.dumps(owner))
        if free:
            Run(tmp_path, note=notes.append).close()
        else:
            with pytest.raises(ConfigError, match="is writing to this run folder"):
                Run(tmp_path)


def test_an_older_start_sets_later_checkpoints_aside(run, system, tmp_path, notes):
    system.train(steps=48, watcher=run)
    run.end(system)
    run.close()
    with Run(run.path, resume=True, note=notes.append) as again:
        again.begin({}, 32)
        assert names(again) == ["step-000000000032", "step-000000000016"]
        assert (again.checkpoints / "aside-step-000000000048").is_dir()
        assert (again.checkpoints / "last").resolve().name == "step-000000000032"
        assert all(row["steps"] <= 32 for row in read_metrics(again.path))


def test_the_first_valid_checkpoint_is_found_and_the_others_named(run, system, notes):
    system.train(steps=48, watcher=run)
    (run.checkpoints / "step-000000000048" / "tree.json").write_text("{}")
    path, (state, _) = first_valid(checkpoints(run.path), checkpoint.load, notes.append)
    assert path.name == "step-000000000032"
    assert state["steps"] == 32
    assert "tree.json is damaged" in notes[0]
    assert "falling back" in notes[1]
    assert first_valid([], checkpoint.load, notes.append) is None
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        first_valid(checkpoints(run.path)[:1], checkpoint.load, notes.append)


def test_settings_are_described_and_compared(system):
    class Mine:
        pass

    said = described({"a": marl.ippo(), "b": Mine, "c": [Mine(), 1], "d": len})
    assert said["a"]["rollout"] == 128
    assert said["b"]["$code"].endswith("Mine")
    assert said["c"][1] == 1
    assert said["d"] == {"$code": "builtins:len"}
    json.dumps(said)
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": None}) == ["a.c: 2 -> 3"]


@pytest.mark.parametrize(
    ("learner", "why"),
    [
        (marl.DQN(), "its first update comes after 1,000 steps (learning_starts=1000)"),
        (marl.PPO(rollout=64), "its first update comes after 128 steps (rollout=64 x num_envs=2)"),
    ],
)
def test_a_training_without_a_single_update_says_so(learner, why, caplog):
    system = marl.MultiAgentSystem(learner, Constant, num_envs=2)
    system.train(steps=100)
    assert f"team 'team' has learnt nothing yet: {why}" in caplog.text
    system.train(steps=1000)
    marl.MultiAgentSystem(marl.Random(), Constant).train(steps=10)
    assert caplog.text.count("has learnt nothing yet") == 1


# --- from Python ------------------------------------------------------------------------------------------------------

LEARNER = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,)))


def made(env=Constant, learner=LEARNER, **how):
    return marl.MultiAgentSystem(learner, env, num_envs=1, **how)


def said(run, name="summary.json"):
    return json.loads((run / name).read_text())


def weights(system):
    return [learner.flat.values.clone() for learner in system.learners]


def test_training_in_a_folder_leaves_all_that_the_command_line_does(tmp_path, system):
    folder = tmp_path / "mine"
    history = system.train(
        steps=80, run_dir=folder, evaluate_every=40, evaluate_episodes=1, loggers=[marl.logs.TensorBoard()]
    )
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoints", "config.json", "metrics.jsonl", "summary.json", "tensorboard")
    ]
    assert checkpoints(folder)[0].name == "step-000000000080"
    assert read_best(folder)["metric"] == "evaluation_return"
    rows = read_metrics(folder)
    assert [{name: row[name] for name in row if name != "seconds"} for row in rows] == history.rows
    summary = said(folder)
    assert (summary["status"], summary["steps"], summary["exit_code"]) == ("finished", 80, 0)
    config = said(folder, "config.json")
    assert config["settings"]["learner"]["rollout"] == 8
    assert config["tunable"] | {"steps": 80, "evaluate_every": 40, "device": "cpu"} == config["tunable"]
    assert config["versions"]["torch"]


def test_a_second_training_in_the_same_folder_goes_on(tmp_path, system):
    system.train(steps=16, run_dir=tmp_path)
    system.train(steps=16, run_dir=tmp_path)
    assert said(tmp_path)["steps"] == 32
    assert [row["steps"] for row in read_metrics(tmp_path)] == system.history["steps"]


def test_the_run_of_another_system_is_refused_and_resume_takes_it(tmp_path, system):
    system.train(steps=16, run_dir=tmp_path)
    with made(seed=0) as other:
        with pytest.raises(ConfigError, match=r"holds a run of another system; go on with it by .*resume=True"):
            other.train(steps=48, run_dir=tmp_path)
        other.train(steps=48, run_dir=tmp_path, resume=True)
        assert (other.steps, other.episodes) == (48, said(tmp_path)["episodes"])
        assert said(tmp_path)["steps"] == 48
        with pytest.raises(ConfigError, match="holds this run at a later step, 48"):
            system.train(steps=16, run_dir=tmp_path)
    with (
        made(learner=marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,)), lr=1e-2)) as different,
        pytest.raises(
            ConfigError, match=r"resume: this is not the run that was begun there \(learner\.lr: 0.00025 -> "
        ),
    ):
        different.train(steps=64, run_dir=tmp_path, resume=True)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    with made(seed=5) as whole:
        whole.train(steps=80, run_dir=tmp_path / "whole")
    with made(seed=5) as first:
        first.train(steps=80, run_dir=tmp_path / "parts", callback=lambda row: row["steps"] >= 40)
        assert 40 <= first.steps < 80
    with made(seed=5) as second:
        second.train(steps=80, run_dir=tmp_path / "parts", resume=True)
    assert second.steps == 80
    assert all((a == b).all() for a, b in zip(weights(whole), weights(second), strict=True))
    assert second.history["episode_rewards"] == whole.history["episode_rewards"]


def test_a_finished_run_is_not_trained_further_by_resume(tmp_path, system):
    system.train(steps=16, run_dir=tmp_path)
    with made() as again:
        again.train(steps=16, run_dir=tmp_path, resume=True)
        assert again.steps == 16
    assert said(tmp_path)["status"] == "finished"


def test_resume_of_nothing_begins(tmp_path, system):
    system.train(steps=16, run_dir=tmp_path / "new", resume=True)
    assert said(tmp_path / "new")["steps"] == 16


def test_resume_needs_a_folder_and_a_watcher_none(run, system, tmp_path):
    with pytest.raises(ConfigError, match="resume= goes with run_dir="):
        system.train(steps=8, resume=True)
    with pytest.raises(ConfigError, match="watcher= with neither"):
        system.train(steps=8, watcher=run, run_dir=tmp_path / "other")


def test_ctrl_c_saves_and_then_raises(tmp_path, system):
    def press(row):
        if row["steps"] == 24:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # whatever started the tests may ignore it
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 24; saved in .*: everything"):
        system.train(steps=80, log_every=8, callback=press, run_dir=tmp_path)
    assert checkpoints(tmp_path)[0].name == "step-000000000024"
    summary = said(tmp_path)
    assert (summary["status"], summary["exit_code"], summary["steps"]) == ("interrupted", 130, 24)
    assert not (tmp_path / "run.lock").exists()
    assert signal.getsignal(signal.SIGINT) is before
    system.train(steps=8, run_dir=tmp_path)
    assert said(tmp_path)["status"] == "finished"


def test_ctrl_c_twice_ends_at_once_and_not_the_process(tmp_path, system, monkeypatch):
    monkeypatch.setattr("marl.run.writer.ECHO", 0.0)

    def press(row):
        if row["steps"] == 24:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"saved in .*: step 16"):
        system.train(steps=160, log_every=8, callback=press, run_dir=tmp_path)
    assert said(tmp_path)["status"] == "interrupted"


def test_a_scheduler_s_signal_saves_and_ends_the_program_with_its_status(tmp_path, system):
    def press(row):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        system.train(steps=80, log_every=8, callback=press, run_dir=tmp_path)
    assert ended.value.code == 75
    assert said(tmp_path)["status"] == "preempted"


def test_an_error_ends_the_run_and_is_told(tmp_path, system):
    def fail(row):
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        system.train(steps=80, callback=fail, run_dir=tmp_path)
    assert said(tmp_path) | {"status": "failed", "error": "no more", "exit_code": 1} == said(tmp_path)
    assert not (tmp_path / "run.lock").exists()


def test_in_a_thread_training_hears_no_signals_and_works(tmp_path, system):
    thread = threading.Thread(target=lambda: system.train(steps=16, run_dir=tmp_path))
    thread.start()
    thread.join()
    assert said(tmp_path)["status"] == "finished"


@pytest.fixture
def cartpole(tmp_path):
    with marl.MultiAgentSystem(LEARNER, "CartPole-v1", num_envs=1, seed=2) as made:
        made.train(steps=32, run_dir=tmp_path / "run")
    return tmp_path / "run"


def test_the_command_line_evaluates_and_resumes_a_run_whose_environment_has_a_name(cartpole, capsys):
    assert main(["evaluate", str(cartpole), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 32
    assert main(["train", "--run-dir", str(cartpole), "--resume", "--steps", "48", "--quiet"]) == 0
    assert said(cartpole)["steps"] == 48
    assert said(cartpole, "config.json")["tunable"]["steps"] == 48
    assert main(["train", "--run-dir", str(cartpole), "--resume", "--set", "learner.lr=1", "--quiet"]) == 2
    assert "--set: " in capsys.readouterr().err


def test_the_command_line_says_what_must_be_named_again(tmp_path, system, capsys):
    system.train(steps=16, run_dir=tmp_path)
    for words in (["evaluate", str(tmp_path)], ["train", "--run-dir", str(tmp_path), "--resume", "--quiet"]):
        assert main(words) == 2
        assert "name it again, in Python by env= of MultiAgentSystem.load, on the command line by --env" in (
            capsys.readouterr().err
        )
    with pytest.raises(CheckpointError, match=r"it is a run folder: name .*, such as .*checkpoints/last"):
        marl.MultiAgentSystem.load(tmp_path)
    what = "tests.support.tiny:Constant"
    assert main(["evaluate", str(tmp_path), "--env", what, "--episodes", "1"]) == 0
    assert main(["train", what, "--run-dir", str(tmp_path), "--resume", "--steps", "24", "--quiet"]) == 0


def test_every_command_that_reads_a_run_takes_its_environment_named_again(tmp_path, capsys):
    run, bundle, what = str(tmp_path / "run"), str(tmp_path / "bundle"), "tests.support.tiny:Team"
    learner = marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,)), channel=marl.CommNet(size=1, rounds=1))
    with marl.MultiAgentSystem(learner, Team, num_envs=1) as made:
        made.train(steps=16, run_dir=run)
    capsys.readouterr()
    assert main(["export", run, "--out", bundle, "--env", what]) == 0
    assert f"marl verify {bundle} {run} --env {what}" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"no checkpoint's: marl_runtime\.load reads a bundle"):
        marl.MultiAgentSystem.load(bundle)
    few = ["--states", "8", "--episodes", "1", "--calls", "2", "--no-processes"]
    assert main(["verify", bundle, run, "--env", what, *few]) == 0
    assert main(["sweep", run, "--env", what, "--link", "loss=1", "--episodes", "1"]) == 0
    assert main(["exploit", run, "--env", what, "--steps", "8", "--games", "2"]) in (0, 2)  # a team has no opponent
    assert "without its environment" not in capsys.readouterr().err
    assert main(["play", run, "--env", what]) == 2
    assert "team_v0 renders no pictures" in capsys.readouterr().err
