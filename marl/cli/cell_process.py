"""A process that trains cells of a study, one after the other: it imports and compiles once for all of them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from marl.adapters.spawn import kill, spawn

SERVER = "marl.cli.cell_server"  # whose ``serve`` is the main function of the process


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

    def run(self, words: Sequence[str], log: Path) -> None:
        """Begin a command; what it says is appended to ``log``. Raises OSError if the process is gone."""
        self.socket.sendall(json.dumps({"words": list(words), "log": str(log)}).encode() + b"\n")

    def answer(self) -> int | None:
        """The command's exit status once its socket can be read; None: the process is gone, see :meth:`end`."""
        try:
            said = self.socket.recv(64)
        except OSError:
            return None
        return int(said) if said.strip() else None

    def interrupt(self) -> None:
        """Let the command save and end; where there is none, end the process."""
        self._process.terminate()

    def end(self) -> int:
        """End it at once, with what it has started; returns how it ended: an exit status, or minus a signal."""
        self.socket.close()
        code = self._process.poll()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(0.2) if code is None else code  # it may be on its way
        kill(self._process)
        return self._process.returncode if code is None else code
