"""``marl train`` by ranks of which one is killed at a wanted point: what tests/test_rank_faults.py has them do.

One process imports everything once, and forks the ranks of one life after another.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from marl import checkpoint, launched
from marl.cli import main as marl_main
from marl.optim import Stepper
from tests.support.commands import SCENARIO

SIZE = 2


@dataclass(frozen=True)
class Death:
    """Which rank dies, where, and at what: the number of a gradient step, the step of a checkpoint, of a message.

    elsewhere: what is done in the other ranks before they train.
    """

    rank: int
    prepare: Callable[[int], None]
    at: int
    elsewhere: Callable[[], None] = lambda: None


def die() -> NoReturn:
    """As by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def between_gradient_steps(at: int) -> None:
    """Before the gradient step of this number, and after those of the same update before it."""
    step, count = Stepper.step, 0

    def counted(self: Stepper, max_norm: float | None = None) -> Any:
        nonlocal count
        count += 1
        if count == at:
            die()
        return step(self, max_norm)

    Stepper.step = counted  # type: ignore[method-assign]


def between_bytes_of_a_checkpoint(at: int) -> None:
    """With half of a file of this step's checkpoint on the disk."""
    write = checkpoint.files.write_new

    def halved(path: Path, data: bytes) -> None:
        if path.name == checkpoint.TENSORS and f"step-{at:012d}" in path.parent.name:
            write(path, data[: len(data) // 2])
            die()
        write(path, data)

    checkpoint.files.write_new = halved


def between_messages_to_rank_0(at: int) -> None:
    """Before the message of this number, where each part of a checkpoint is one with its size and one with itself."""
    send, count = dist.send, 0

    def counted(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            die()
        send(*arguments)

    dist.send = counted


def launcher_before_a_gradient_step(at: int) -> None:
    """The launcher dies before the gradient step of this number, which waits until rank 0 knows."""
    step, count = Stepper.step, 0

    def counted(self: Stepper, max_norm: float | None = None) -> Any:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getppid(), signal.SIGKILL)
            while not Path("signalled").exists():
                time.sleep(0.05)
        return step(self, max_norm)

    Stepper.step = counted  # type: ignore[method-assign]


def tell_of_signals() -> None:
    """Leave a file where this rank has sent itself one: it hears it once it waits for the others no more."""
    kill = os.kill

    def told(pid: int, number: int) -> None:
        kill(pid, number)
        Path("signalled").touch()

    os.kill = told


def launcher_before_all_have_joined(at: int) -> None:
    """The launcher dies, and this rank, once rank 0 waits for it."""
    while not Path("rendezvous.store").exists():
        time.sleep(0.05)
    os.kill(os.getppid(), signal.SIGKILL)
    die()


def hurry() -> None:
    """Wait no half minute for what does not come."""
    launched.GRACE = 0.1


# Of 640 steps; there are 4 gradient steps in the update after every 64, and a checkpoint after every 192.
STEPS, SAVE_EVERY = 640, 192
LIVES: dict[str, Death | None] = {
    "unbroken": None,
    "update": Death(1, between_gradient_steps, 18),  # the second one of the update at step 320
    "save by rank 0": Death(0, between_bytes_of_a_checkpoint, 384),
    "save by rank 1": Death(1, between_messages_to_rank_0, 4),  # the second checkpoint of a life that begins at 192
    # Of the update at step 512, in a life that begins at 384.
    "launcher": Death(1, launcher_before_a_gradient_step, 6, tell_of_signals),
    "rendezvous": Death(1, launcher_before_all_have_joined, 0, hurry),
    "end": None,
}


def train(rank: int, words: list[str], store: Path, death: Death | None) -> int:
    """Be one of the ranks."""
    Path(f"{store.stem}-{rank}.pid").write_text(str(os.getpid()))
    os.environ |= {"TORCHELASTIC_RUN_ID": "mortal", "WORLD_SIZE": str(SIZE), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    dist.init_process_group = functools.partial(
        dist.init_process_group, init_method=f"file://{store}", rank=rank, world_size=SIZE
    )
    if death is not None and death.rank == rank:
        death.prepare(death.at)
    elif death is not None:
        death.elsewhere()
    return marl_main(words)


def live(folder: Path, name: str, words: list[str], death: Death | None) -> list[int]:
    """The exit statuses of all ranks, children of a launcher; if that one dies they become ours."""
    launcher = os.fork()
    if launcher == 0:
        ranks = [begin(folder, name, words, death, rank) for rank in range(SIZE)]
        for rank, child in enumerate(ranks):
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            Path(f"{name}-{rank}.status").write_text(str(status))
        os._exit(0)
    while True:
        try:
            child, status = os.wait()
        except ChildProcessError:
            break
        for rank in range(SIZE):
            if child == int(Path(f"{name}-{rank}.pid").read_text()):
                Path(f"{name}-{rank}.status").write_text(str(os.waitstatus_to_exitcode(status)))
    return [int(Path(f"{name}-{rank}.status").read_text()) for rank in range(SIZE)]


def begin(folder: Path, name: str, words: list[str], death: Death | None, rank: int) -> int:
    """Fork a rank; its process."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(f"{name}-{rank}.txt", "wb") as said:
            os.dup2(said.fileno(), 2)
            os.dup2(said.fileno(), 1)
        status = train(rank, words, folder / f"{name}.store", death)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main(folder: Path) -> None:
    """Live all lives, and write what was left after each of them."""
    torch.set_num_threads(1)
    os.chdir(folder)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    (folder / "tiny.py").write_text(SCENARIO)
    words = ["train", str(folder / "tiny.py"), "--quiet", "--resume", "--trust", "--run-dir"]
    assert marl_main([*words, "warm", "--steps", "4", "--episodes", "1"]) == 0  # imports all that there is to import
    found = {}
    for name, death in LIVES.items():
        run = folder / ("unbroken" if name == "unbroken" else "broken")
        asked = [*words, str(run), "--no-evaluate", "--steps", str(STEPS), "--save-every", str(SAVE_EVERY)]
        status = live(folder, name, asked, death)
        whole = [checkpoint.load(path)[0]["steps"] for path in sorted(run.glob("checkpoints/step-*"))]
        found[name] = {"status": status, "whole": whole, "torn": len(list(run.glob("checkpoints/.*.tmp")))}
    (folder / "lives.json").write_text(json.dumps(found))


def once(mark: Path, words: list[str]) -> int:
    """Be a rank that torchrun has started; rank 1 dies in an update unless a file says that it has done so before."""
    if os.environ["RANK"] == "1" and not mark.exists():
        mark.touch()
        between_gradient_steps(26)
    return marl_main(words)


if __name__ == "__main__":
    if sys.argv[1] == "once":
        raise SystemExit(once(Path(sys.argv[2]), sys.argv[3:]))
    main(Path(sys.argv[1]))
