"""A training that is mistreated at random must end well: ``python tests/benchmarks/chaos.py --seconds 600``.

One life of ``marl train --workers 3 --resume`` follows the other. In each, workers are killed and stopped, files of any
size are refused as by a full disk, the run folder is moved away, and in the end the learner is killed, preempted or
interrupted, or gets to its end; between two lives the newest checkpoint may be damaged. What must hold:

- every life ends by itself after what was done to it, with one of the exit statuses meant for that;
- nothing is left of it: no process, and no traceback on stderr;
- metrics and checkpoints can be read at any time, and steps only go up;
- after the last life, left alone but for one killed worker, the run is finished, with that fault in its summary.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

from marl import checkpoint
from marl.types import CheckpointError

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "marl"]
SCENARIO = """
import marl
from tests.support.tiny import Team

scenario = marl.Scenario(
    name="chaos",
    env=Team,
    agents=marl.ippo(rollout=16, minibatches=2, network=marl.MLP((16,)), channel=marl.CommNet(size=2)),
    num_envs=6,
    steps=10_000,
)
"""
LIFE = 12_000  # steps that each life has before it
ACTS = (*("kill",) * 5, "kill all", "stop", "pause", "pause", "full", "move")
ENDS = {"kill": (-signal.SIGKILL,), "preempt": (75,), "interrupt": (130,), "leave": (0,)}
HANGS = 300.0  # seconds: longer than a worker's deadline, its restarts and the patience with a full disk together


class Life:
    """One process of the training, what was done to it, and what it said."""

    def __init__(self, folder: Path, number: int) -> None:
        """Start it, or go on with what is there."""
        self.folder, self.run = folder, folder / "run"
        self.steps = newest(self.run) + LIFE
        self.said = open(folder / f"life-{number}.txt", "wb")  # noqa: SIM115
        paths = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry)])
        words = ("--workers", "3", "--save-every", "1000", "--episodes", "2", "--quiet", "--steps", str(self.steps))
        self.process = subprocess.Popen(
            [*COMMAND, "train", str(folder / "chaos.py"), "--run-dir", str(self.run), "--resume", *words],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=self.said,
        )
        self.workers: set[int] = set()

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait_for_checkpoint(self) -> None:
        """Wait until it has saved something, or ended."""
        began = newest(self.run)
        while self.lives and newest(self.run) <= began:
            time.sleep(0.05)

    def children(self) -> list[int]:
        """Its workers, as the system knows them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[1]) == self.process.pid and fields[0] != "Z":
                    found.append(int(entry.name))
        self.workers.update(found)
        return found

    def signal_some(self, rng: random.Random, number: int, most: int) -> None:
        """Send a signal to some workers."""
        found = self.children()
        for pid in rng.sample(found, min(len(found), rng.randint(1, most))):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

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
        """End it, and see that nothing is left."""
        self.children()
        number = {"kill": signal.SIGKILL, "preempt": signal.SIGTERM, "interrupt": signal.SIGINT}.get(how)
        if number is not None and self.lives:
            self.process.send_signal(number)
        try:
            code = self.process.wait(timeout=HANGS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"hangs: did not end after {how}; see {self.said.name}") from None
        self.said.close()
        until = time.monotonic() + HANGS
        while left := [pid for pid in self.workers if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < until, f"workers {left} outlive it; see {self.said.name}"
            time.sleep(0.05)
        return code


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


def chaos(folder: Path, seconds: float, seed: int = 0, say: Callable[[str], None] = print) -> Counter[str]:
    """Mistreat a training for so long; returns how often what was done. Raises AssertionError for what must not be."""
    rng = random.Random(seed)
    (folder / "chaos.py").write_text(SCENARIO)
    until, number, done = time.monotonic() + seconds, 0, Counter[str]()
    while time.monotonic() < until:
        life, number = Life(folder, number), number + 1
        how = rng.choice(list(ENDS))
        if rng.random() < 0.7:
            life.wait_for_checkpoint()
        began = time.monotonic()
        while life.lives and time.monotonic() < min(until, began + rng.uniform(2.0, 30.0)):
            time.sleep(rng.uniform(0.0, 1.5))
            act = rng.choice(ACTS)
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
                for pid in life.children():
                    os.kill(pid, signal.SIGCONT)
            elif act == "full":
                life.refuse_files(rng.uniform(0.1, 2.0))
            else:
                life.move_folder(rng)
        code = life.end(how)
        # A training may have come to its end, or given up on workers or the disk, before we got to end it; and then
        # Python itself may have been on its way out, where signals do what they do by default.
        allowed = {0, 6, *ENDS[how], *{"preempt": (-signal.SIGTERM,), "interrupt": (-signal.SIGINT,)}.get(how, ())}
        text = Path(life.said.name).read_text(errors="replace")
        say(f"life {number}: {how}, exit status {code}, step {newest(life.run):,}: {' '.join(text.split())[-160:]}")
        assert code in allowed, f"exit status {code} after {how}; see {life.said.name}"
        assert "Traceback" not in text, f"a traceback; see {life.said.name}"
        done[f"ended by {how}"] += 1
        check(life.run)
        if rng.random() < 0.2:
            damage(life.run, rng)
            done["damage"] += 1
    life = Life(folder, number)
    life.wait_for_checkpoint()
    life.signal_some(rng, signal.SIGKILL, 1)
    code = life.end("leave")
    assert code == 0, f"exit status {code} of a life that was left alone; see {life.said.name}"
    summary = json.loads((life.run / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", life.steps), summary
    assert summary["faults"]["killed"] >= 1, summary["faults"]
    check(life.run)
    assert not (life.run / "run.lock").exists()
    assert not list(life.run.glob("checkpoints/.*"))
    blows = f"{number + 1} lives, {sum(done.values())} blows: {dict(done)}"
    say(f"{blows}; at the end {life.steps:,} steps, survived {summary['faults']}")
    return done


def main() -> None:
    """As a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="marl-chaos-"))
    chaos(folder, asked.seconds, asked.seed)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
