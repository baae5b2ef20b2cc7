"""The side of :mod:`marl.cli.cell_process` that trains: commands come in, exit statuses go out."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from marl.adapters.spawn import die_with
from marl.cli.entry import main


def serve(descriptor: int, parent: int, from_main: int) -> None:
    """The process: commands come in, a line of JSON each; exit statuses go out."""
    die_with(parent, bool(from_main))
    with socket.socket(fileno=descriptor) as channel, channel.makefile("r") as asked:
        for line in asked:
            said = json.loads(line)
            with _saying_to(Path(said["log"])), _asking(channel, asked) if said["asks"] else contextlib.nullcontext():
                code = main(said["words"])
            gc.collect()  # a replay memory may be large
            channel.sendall(b"%d\n" % code)


@contextlib.contextmanager
def _asking(channel: socket.socket, answers: TextIO) -> Iterator[None]:
    """Trainings ask on a channel after each evaluation whether to go on."""
    from marl.cli.asking import Asking
    from marl.cli.train import LOOKING_ON

    before = LOOKING_ON.set((Asking(channel, answers),))
    try:
        yield
    finally:
        LOOKING_ON.reset(before)


@contextlib.contextmanager
def _saying_to(log: Path) -> Iterator[None]:
    """What this process, its libraries and its children print goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for text in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                text.flush()
