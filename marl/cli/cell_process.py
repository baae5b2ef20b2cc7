"""A process that trains cells of a study, one after the other: it imports and compiles once for all of them."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from marl.adapters.spawn import kill, spawn

SERVER = "marl.cli.cell_server"  # whose ``serve`` is the main function of the process
EVALUATED = "evaluated"  # a line that asks whether to go on: this word, steps, a return
GO_ON, STOP, PAUSE = "go on", "stop", "pause"  # answers; a reason may follow on STOP, which ends the run for good


@dataclass(frozen=True)
class Evaluated:
    """A run was evaluated, and waits to be told whether to go on.

    Args:
        steps: environment steps of the run.
        value: the mean return.
    """

    steps: int
    value: float


class CellWorker(Protocol):
    """Runs ``marl`` commands somewhere, one after the other, as :class:`CellProcess` does."""

    socket: socket.socket
    """Can be read once there is an answer."""

    def run(self, words: Sequence[str], log: Path, asks: bool = False) -> None:
        """Begin a command."""
        ...

    def answer(self) -> int | Evaluated | None:
        """What it says."""
        ...

    def reply(self, verdict: str) -> None:
        """Whether a run that was evaluated goes on."""
        ...

    def interrupt(self) -> None:
        """Let the command save and end."""
        ...

    def end(self) -> str:
        """End it at once; returns how it ended."""
        ...


class CellProcess:
    """Runs ``marl`` commands in a process of its own, which dies with this one."""

    def __init__(self) -> None:
        """Start it. Raises OSError if there is no room for another one."""
        self.socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process: subprocess.Popen[bytes] = spawn(SERVER, "serve", (theirs.fileno(),))
            except OSError:
                self.socket.close()
                raise

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def run(self, words: Sequence[str], log: Path, asks: bool = False) -> None:
        """Begin a command; what it says is appended to ``log``. Raises OSError if the process is gone.

        asks: a training asks after each evaluation whether to go on.
        """
        said = {"words": list(words), "log": str(log), "asks": asks}
        self.socket.sendall(json.dumps(said).encode() + b"\n")

    def answer(self) -> int | Evaluated | None:
        """What it says once its socket can be read: an exit status, or how it was evaluated, see :meth:`reply`.

        None: the process is gone, see :meth:`end`.
        """
        try:
            words = self.socket.recv(128).split()
        except OSError:
            return None
        if len(words) == 3:
            return Evaluated(int(words[1]), float(words[2]))
        return int(words[0]) if words else None

    def reply(self, verdict: str) -> None:
        """Whether a run that was evaluated goes on: GO_ON, PAUSE, or STOP with a reason behind it."""
        with contextlib.suppress(OSError):  # it is gone, as the next answer says
            self.socket.sendall(verdict.encode() + b"\n")

    def interrupt(self) -> None:
        """Let the command save and end; where there is none, end the process."""
        self._process.terminate()

    def end(self) -> str:
        """End it at once, with what it has started; returns how it ended."""
        self.socket.close()
        code = self._process.poll()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(0.2) if code is None else code  # it may be on its way
        kill(self._process)
        return _death(self._process.returncode if code is None else code)


def _death(code: int) -> str:
    """How a process ended that trained a cell: with an exit status, or by minus a signal."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with status {code}"
