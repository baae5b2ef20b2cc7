"""One worker process as the learner sees it: started, asked, listened to, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from typing import Any

from marl.adapters.faults import Tell
from marl.adapters.pipe import Pipe
from marl.adapters.shared import anonymous_file
from marl.adapters.spawn import kill, spawn
from marl.types import ResourceError

START_SECONDS = 120.0  # to import the environment's modules and create the copies


class WorkerFault(Exception):
    """Why a worker did not answer: ``killed``, ``hung``, ``exited`` or ``raised``, and what it left to read."""

    def __init__(self, kind: str, detail: str) -> None:
        """``kind``: one of these words."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Worker:
    """The learner's end of one worker: its process, its range of copies, and how it has fared."""

    def __init__(
        self, index: int, first: int, count: int, num_envs: int, payload: bytes, memory: int, hear: Tell
    ) -> None:
        """Nothing is started yet."""
        self.index = index
        self.hear = hear  # what its copies tell of their first faults
        self.first = first
        self.count = count
        self.rows = slice(first, first + count)
        self.generation = 0  # how often its copies got a new process since reset
        self.strikes = 0  # faults since one of its copies last finished an episode
        self.counted: dict[str, int] = {}  # what its copies mended or threw away
        self.pending = False  # its copies start anew, which the next step has to tell
        self._init = (payload, first, count, num_envs)
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._trace = -1
        self._fault = WorkerFault("exited", "never started")
        self._awaited = False  # an answer is due

    @property
    def pid(self) -> int:
        """The process id, 0 while there is no process."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; its first answer says that its copies exist."""
        with contextlib.ExitStack() as undo:
            try:
                mine, theirs = socket.socketpair()
                undo.callback(mine.close)
                with theirs:
                    trace = anonymous_file("marl-trace")
                    undo.callback(os.close, trace)
                    fds = (theirs.fileno(), self._memory, trace)
                    self._process = spawn("marl.adapters.serve", "serve", fds)
            except OSError as error:
                raise ResourceError(f"cannot start worker {self.index} ({error}); lower workers") from error
            undo.pop_all()
        self._trace = trace
        self._pipe = Pipe(mine)
        self._awaited = False
        self.send(self._init)

    def send(self, message: tuple[Any, ...]) -> None:
        """Ask for something. A worker that cannot be asked says so in ``receive``."""
        if self._process is None:
            return
        with contextlib.suppress(OSError, EOFError):
            while self._awaited:  # the caller was interrupted before it read the last answer
                self._awaited = self._pipe.receive(START_SECONDS)[0] == "told"
            self._awaited = True
            self._pipe.send(message, START_SECONDS)

    def receive(self, until: float) -> Any:
        """The answer to the last question. Raises what the worker reports, or a fault if it is lost."""
        if self._process is None:
            raise self._fault
        answer = None
        while answer is None:
            left = until - time.monotonic()
            try:
                answer = self._pipe.receive(min(max(left, 0.001), 1.0))
            except TimeoutError:
                # Children that an environment forked may hold the socket open: look at the process itself too.
                if self._process.poll() is not None:
                    raise self._lost("exited") from None
                if time.monotonic() >= until:
                    raise self._lost("hung") from None
            except (OSError, EOFError):
                raise self._lost("exited") from None
            if answer is not None and answer[0] == "told":
                self.hear(*answer[1])
                answer = None
        verdict, value = answer
        self._awaited = False
        if verdict == "breach":
            kind, text, where = value
            raise kind(text) from WorkerFault("raised", where)
        if verdict == "raised":
            self._fault = WorkerFault("raised", value)
            self.kill()
            raise self._fault
        return value

    def _lost(self, kind: str) -> WorkerFault:
        """End what is left of the process and say what happened to it."""
        assert self._process is not None
        if kind == "hung":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR1)  # it writes where it stands, if it still can
            time.sleep(0.05)
            detail = "no answer within the deadline"
        else:
            try:
                code = self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                code = 0
            if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
                kind = "killed"
            detail = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        trace = os.pread(self._trace, 1 << 16, 0).decode(errors="replace").strip()
        self._fault = WorkerFault(kind, f"{detail}\n{trace}" if trace else detail)
        self.kill()
        return self._fault

    def kill(self) -> None:
        """End the process, and whatever it has started itself, at once."""
        if self._process is None:
            return
        process, self._process = self._process, None
        kill(process)
        self._pipe.close()
        os.close(self._trace)

    def ask_to_close(self) -> None:
        """Let the environment close itself; ``close`` follows."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._pipe.send(("close",), 0.1)

    def close(self, until: float) -> None:
        """Wait for the process to end, then end it."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=max(until - time.monotonic(), 0.001))
            self.kill()
