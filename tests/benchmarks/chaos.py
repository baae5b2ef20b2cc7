"""A training that is mistreated at random must end well.

    python -m tests.benchmarks.chaos --way ranks --seconds 600

One life of ``marl train --resume`` follows the other, spread over processes in one of four ways. In each, workers,
actors or ranks are killed, some are stopped too, files of any size are refused as by a full disk, or the run folder is
moved away, and in the end the command is killed, preempted or interrupted, or gets to its end; between two lives the
newest checkpoint may be damaged. What must hold:

- every life ends by itself after what was done to it, with one of the exit statuses meant for that;
- nothing is left of it: no process, and no traceback on stderr;
- metrics and checkpoints can be read at any time, and steps only go up;
- the last life, left alone but for one killed worker, goes on to the scenario's own number of steps. The run is
  finished then, with that fault in its summary, and plays as well as one that was never mistreated.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl import checkpoint
from marl.types import CheckpointError
from tests.support.processes import born_at, descendants, parents, title_of

ROOT = Path(__file__).parents[2]
SCENARIO = """
import dataclasses
import marl
from marl_scenarios import cartpole

scenario = dataclasses.replace(cartpole.scenario, name="chaos", algorithms={}, CHANGES)
"""
STEPS, EXPECTED = 100_000, 475.0  # of CartPole; what Gymnasium calls solved
LIFE = 12_000  # steps that each life has before it
HANGS = 300.0  # seconds: longer than a worker's deadline, its restarts and the patience with a full disk together
ENDS = {"kill": (-signal.SIGKILL,), "preempt": (75,), "interrupt": (130,), "leave": (0,)}
# A training may have come to its end, or given up on workers or the disk, before we got to end it; and then Python
# itself may have been on its way out, where signals do what they do by default.
ALWAYS = {"preempt": (-signal.SIGTERM,), "interrupt": (-signal.SIGINT,)}


@dataclass(frozen=True)
class Way:
    """How a training is spread over processes.

    words: of its command that say so.
    acts: what is done to it, what is named often often.
    changes: of the scenario.
    launcher: Python's arguments that start the command's module; it answers 1 whatever ended the ranks that it started,
        and shows a traceback of its own.
    title: how the system calls the processes that are killed; empty: children of the command.
    """

    words: tuple[str, ...]
    acts: tuple[str, ...]
    changes: str = ""
    launcher: tuple[str, ...] = ()
    title: str = ""


KILLS = (*("kill",) * 5, "kill all", "pause", "pause")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3")
IMPALA = "num_envs=16, agents=marl.impala(rollout=16, lr=marl.Linear(2e-3, 0.0), entropy=0.01)"
WAYS = {
    "workers": Way(("--workers", "3"), (*KILLS, "stop", "full", "move")),
    "ray": Way(("--ray", "local", "--actors", "2"), (*KILLS, "move"), title="ray::Actor"),
    "asynchronous": Way(
        ("--ray", "local", "--actors", "2", "--staleness", "2"), (*KILLS, "move"), IMPALA, title="ray::Collector"
    ),
    "ranks": Way((), KILLS, launcher=TORCHRUN),
}


class Life:
    """One process of the training, what was done to it, and what it said."""

    def __init__(self, folder: Path, number: int, way: Way, last: bool = False) -> None:
        """Start it, or go on with what is there; the ``last`` one goes on to the scenario's own number of steps."""
        self.folder, self.run, self.way = folder, folder / "run", way
        self.steps = max(newest(self.run) + LIFE, STEPS if last else 0)
        self.said = open(folder / f"life-{number}.txt", "wb")  # noqa: SIM115
        paths = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
        words = (
            "--run-dir",
            str(self.run),
            "--resume",
            "--trust",
            "--save-every",
            "1000",
            "--episodes",
            "20",
            "--quiet",
            "--steps",
            str(self.steps),
            *way.words,
        )
        self.process = subprocess.Popen(
            [sys.executable, *way.launcher, "-m", "marl", "train", str(folder / "chaos.py"), *words],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=self.said,
        )
        self.seen: set[tuple[int, str]] = set()  # its processes and when they began

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait_for_checkpoint(self) -> None:
        """Wait until it has saved something, or ended."""
        began = newest(self.run)
        while self.lives and newest(self.run) <= began:
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """The processes that are killed. Remembers all that belong to it."""
        found = descendants(self.process.pid)
        self.seen.update((pid, born) for pid in found if (born := born_at(pid)))
        if not self.way.title:
            above = parents()
            return [pid for pid in found if above.get(pid) == self.process.pid]
        return [pid for pid in found if title_of(pid).startswith(self.way.title)]

    @property
    def left(self) -> list[int]:
        """Those of its processes that are still there."""
        return [pid for pid, born in self.seen if born_at(pid) == born]

    def signal_some(self, rng: random.Random, number: int, most: int) -> int:
        """Send a signal to some workers; to how many."""
        found = self.workers()
        chosen = rng.sample(found, min(len(found), rng.randint(1, most)))
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(chosen)

    def refuse_files(self, seconds: float) -> None:
        """No file may grow, as on a full disk."""
        try:
            _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1, hard))
            time.sleep(seconds)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        except ProcessLookupError:
            return

    def move_folder(self, rng: random.Random) -> None:
        """Take the run folder away."""
        if self.run.exists():
            self.run.rename(self.folder / f"moved-{rng.randrange(10**9)}")

    def end(self, how: str) -> int:
        """End it, or leave it alone as long as it goes on; its exit status."""
        self.workers()
        number = {"kill": signal.SIGKILL, "preempt": signal.SIGTERM, "interrupt": signal.SIGINT}.get(how)
        if number is not None and self.lives:
            self.process.send_signal(number)
        began, until = newest(self.run), time.monotonic() + HANGS
        while self.lives:
            if newest(self.run) != began:
                began, until = newest(self.run), time.monotonic() + HANGS
            if time.monotonic() > until:
                self.process.kill()
                raise AssertionError(f"hangs: did not end after {how}; see {self.said.name}")
            time.sleep(0.05)
        self.said.close()
        return self.process.returncode

    def wait_for_the_others(self) -> float:
        """Wait until nothing is left of it; how many seconds that took."""
        began = time.monotonic()
        while left := self.left:
            told = [f"{pid} {title_of(pid)}" for pid in left]
            assert time.monotonic() < began + HANGS, f"{told} outlive it; see {self.said.name}"
            time.sleep(0.05)
        return time.monotonic() - began


def newest(run: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name[5:]) for path in run.glob("checkpoints/step-*")), default=0)


def damage(run: Path, rng: random.Random) -> None:
    """Flip a bit of the newest checkpoint, if there is an older one."""
    found = sorted(run.glob("checkpoints/step-*"))
    if len(found) > 1:
        file = found[-1] / rng.choice([checkpoint.TREE, checkpoint.TENSORS, checkpoint.MANIFEST])
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)


def check(run: Path) -> None:
    """Whether what lies there is whole: all rows of metrics, and at least one checkpoint if there are any."""
    if (run / "metrics.jsonl").exists():
        *rows, torn = (run / "metrics.jsonl").read_bytes().split(b"\n")
        del torn  # the one that was being written when the learner was killed
        steps = [json.loads(row)["steps"] for row in rows if row]
        assert steps == sorted(set(steps)), f"{run}: steps go back: {steps}"
    found = sorted(run.glob("checkpoints/step-*"), reverse=True)
    errors = []
    for path in found:
        try:
            state, _ = checkpoint.load(path)
        except CheckpointError as error:
            errors.append(str(error))
            continue
        assert state["steps"] == int(path.name[5:])
        return
    assert not found, f"{run}: no checkpoint can be loaded: {errors}"


def chaos(
    folder: Path, seconds: float, seed: int = 0, way: Way = WAYS["workers"], say: Callable[[str], None] = print
) -> tuple[Counter[str], float]:
    """Mistreat a training for so long.

    Returns:
        How often what was done, and the greedy mean return in the end.

    Raises:
        AssertionError: for what must not be.
    """
    rng = random.Random(seed)
    (folder / "chaos.py").write_text(SCENARIO.replace("CHANGES", way.changes))
    until, number, done, stayed = time.monotonic() + seconds, 0, Counter[str](), 0.0
    while time.monotonic() < until:
        life, number = Life(folder, number, way), number + 1
        how = rng.choice(list(ENDS))
        if rng.random() < 0.7:
            life.wait_for_checkpoint()
        began = time.monotonic()
        while life.lives and time.monotonic() < min(until, began + rng.uniform(2.0, 30.0)):
            time.sleep(rng.uniform(0.0, 1.5))
            mistreat(life, rng, done)
        code = life.end(how)
        text = Path(life.said.name).read_text(errors="replace")
        say(f"life {number}: {how}, exit status {code}, step {newest(life.run):,}: {' '.join(text.split())[-160:]}")
        allowed = {0, 6, *ENDS[how], *ALWAYS.get(how, ()), *((1,) if way.launcher else ())}
        assert code in allowed, f"exit status {code} after {how}; see {life.said.name}"
        assert way.launcher or "Traceback" not in text, f"a traceback; see {life.said.name}"
        done[f"ended by {how}"] += 1
        stayed = max(stayed, life.wait_for_the_others())
        check(life.run)
        if rng.random() < 0.2:
            damage(life.run, rng)
            done["damage"] += 1
    life = Life(folder, number, way, last=True)
    life.wait_for_checkpoint()
    assert life.signal_some(rng, signal.SIGKILL, 1) == 1, f"nothing was there to be killed; see {life.said.name}"
    code = life.end("leave")
    assert code == 0, f"exit status {code} of a life that was left alone; see {life.said.name}"
    stayed = max(stayed, life.wait_for_the_others())
    summary: dict[str, Any] = json.loads((life.run / "summary.json").read_text())
    assert summary["status"] == "finished", summary
    assert summary["steps"] >= life.steps, summary  # rollouts are whole
    assert way.launcher or summary["faults"]["killed"] >= 1, summary["faults"]
    check(life.run)
    assert not (life.run / "run.lock").exists()
    assert not list(life.run.glob("checkpoints/.*"))
    say(f"{number + 1} lives, {sum(done.values())} blows: {dict(done)}; at the end {life.steps:,} steps")
    say(f"the last life survived {summary['faults']}; no process stayed longer than {stayed:.1f} s")
    return done, float(summary["evaluation"]["mean_return"])


def mistreat(life: Life, rng: random.Random, done: Counter[str]) -> None:
    """Do something to it, and count that."""
    act = rng.choice(life.way.acts)
    done[act] += life.lives
    if act == "kill":
        life.signal_some(rng, signal.SIGKILL, 1)
    elif act == "kill all":
        life.signal_some(rng, signal.SIGKILL, 3)
    elif act == "stop":
        life.signal_some(rng, signal.SIGSTOP, 1)
    elif act == "pause":
        life.signal_some(rng, signal.SIGSTOP, 3)
        time.sleep(rng.uniform(0.0, 0.5))
        for pid in life.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    elif act == "full":
        life.refuse_files(rng.uniform(0.1, 2.0))
    else:
        life.move_folder(rng)


def main() -> bool:
    """As a program; whether the training ends as well as one that was never mistreated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--way", choices=WAYS, default="workers", help="how the training is spread (default: workers)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="marl-chaos-"))
    _, found = chaos(folder, asked.seconds, asked.seed, WAYS[asked.way], functools.partial(print, flush=True))
    shutil.rmtree(folder)
    print(
        f"{asked.way}: greedy mean return {found:g}, expected {EXPECTED:g}: {'met' if found >= EXPECTED else 'MISSED'}"
    )
    return found >= EXPECTED


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
