"""Ranks that are killed: the others end at once and say why, and what is resumed is the unbroken run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from marl import ranks
from marl.types import ResourceError
from tests.support.commands import SCENARIO
from tests.support.equality import assert_equal_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and prctl")
ROOT = Path(__file__).parents[1]


def mortal(*words: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run tests/support/mortal.py; nothing of it outlives this."""
    process = subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.support.mortal", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MARL_COMPILED": "off"},  # to load it takes longer than to train
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, said)


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """What was left after each life, and what each rank said."""
    folder = tmp_path_factory.mktemp("mortal")
    done = mortal(folder)
    assert done.returncode == 0, done.stdout
    found = {name: SimpleNamespace(**one) for name, one in json.loads((folder / "lives.json").read_text()).items()}
    for name, life in found.items():
        life.said = [(folder / f"{name}-{rank}.txt").read_text() for rank in range(2)]
    return SimpleNamespace(folder=folder, **{name.replace(" ", "_"): life for name, life in found.items()})


KILLED = -signal.SIGKILL


def assert_told(said: str) -> None:
    """That another rank is gone, in one line."""
    assert "waited for another rank, which is gone" in said
    assert "goes on from its last checkpoint with --resume" in said
    assert "Traceback" not in said


def test_a_rank_killed_in_the_middle_of_an_update_ends_the_others_and_nothing_half_done_is_saved(lives):
    assert lives.update.status == [6, KILLED], lives.update.said
    assert_told(lives.update.said[0])
    assert lives.update.whole == [192]
    summary = json.loads((lives.folder / "unbroken" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 640)


def test_rank_0_killed_in_the_middle_of_a_save_leaves_the_checkpoint_before_it(lives):
    life = lives.save_by_rank_0
    assert life.status == [KILLED, 6], life.said
    assert_told(life.said[1])
    assert life.whole == [192]
    assert life.torn == 1
    assert "resuming" in life.said[0]


def test_another_rank_killed_while_it_gives_its_part_leaves_the_checkpoint_before_it(lives):
    life = lives.save_by_rank_1
    assert life.status == [6, KILLED], life.said
    assert_told(life.said[0])
    assert life.whole == [192, 384]
    assert life.torn == 0


def test_ranks_whose_torchrun_is_killed_save_and_end(lives):
    life = lives.launcher
    assert life.status == [75, 0], life.said
    assert "preempted at step 512 and saved" in life.said[0]
    assert life.whole == [192, 384, 512]


def test_a_rank_that_waits_for_the_others_does_not_outlive_its_torchrun(lives):
    assert lives.rendezvous.status[0] in (KILLED, 75), lives.rendezvous.said


def test_ranks_that_do_not_find_each_other_say_so_and_end(monkeypatch):
    """After a restart gloo's may miss one another; its own patience are 30 minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in ({"TORCHELASTIC_RUN_ID": "alone"} | where).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "JOIN", timedelta(seconds=1))
    monkeypatch.setattr(ranks, "end_with_launcher", lambda first: None)
    with pytest.raises(ResourceError, match="rank 0 waited for another rank"):
        ranks.join()


def test_what_is_resumed_after_all_of_that_is_the_unbroken_run_bit_for_bit(lives):
    assert lives.end.status == lives.unbroken.status == [0, 0], lives.end.said
    assert_equal_runs(lives.folder / "unbroken", lives.folder / "broken")
    assert not list((lives.folder / "broken" / "checkpoints").glob(".*"))
    assert not (lives.folder / "broken" / "run.lock").exists()


@pytest.mark.slow
def test_torchrun_starts_all_ranks_again_from_the_newest_checkpoint(tmp_path):
    (tmp_path / "tiny.py").write_text(SCENARIO)
    run, torchrun = tmp_path / "run", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = ("train", tmp_path / "tiny.py", "--quiet", "--resume", "--no-evaluate", "--save-every", 192)
    done = mortal(
        "once", tmp_path / "mark", *words, "--steps", 768, "--run-dir", run, launcher=(*torchrun, "--max-restarts", "1")
    )
    assert done.returncode == 0, done.stdout
    assert "resuming" in done.stdout
    assert json.loads((run / "summary.json").read_text())["steps"] == 768
