"""Worker processes as the learner sees them: started, asked, listened to, ended."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import time
from typing import Any

from marl.adapters.faults import Tell
from marl.adapters.handle import START_SECONDS, Handle, WorkerFault
from marl.adapters.pipe import Pipe
from marl.adapters.shared import Arena, anonymous_file, lay_out
from marl.adapters.spawn import kill, spawn
from marl.types import Array, ConfigError, ResourceError, Spec, Step


class Worker(Handle):
    """One worker process: a socket to ask it, and shared memory that it writes into."""

    def __init__(
        self, index: int, first: int, count: int, num_envs: int, payload: bytes, memory: int, hear: Tell
    ) -> None:
        """Nothing is started yet."""
        super().__init__(index, first, count, hear)
        self._init = (payload, first, count, num_envs)
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._trace = -1
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
            raise self.fault
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
        self._awaited = False
        return self.judged(*answer)

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
        self.fault = WorkerFault(kind, f"{detail}\n{trace}" if trace else detail)
        self.kill()
        return self.fault

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


class Processes:
    """This machine as a place for workers, with one block of memory that all of them share."""

    called, alone = "worker", "workers=0"

    def __init__(self) -> None:
        """The block is sized once the specification is known."""
        if os.name != "posix":
            raise ConfigError("worker processes need Linux or macOS; use workers=0 on this system")
        self._memory = anonymous_file("marl-step")

    def worker(self, index: int, first: int, count: int, num_envs: int, payload: bytes, hear: Tell) -> Handle:
        """A handle on one process, not started yet."""
        return Worker(index, first, count, num_envs, payload, self._memory, hear)

    def lay(self, spec: Spec, num_envs: int) -> tuple[Step, tuple[Array, ...]]:
        """Size the shared block and lay the step over it."""
        sizer = Arena(None)
        lay_out(spec, num_envs, sizer)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._memory, 0, sizer.size)
            else:
                os.ftruncate(self._memory, sizer.size)
            block = mmap.mmap(self._memory, sizer.size)
        except OSError as error:
            raise ResourceError(
                f"no room for {sizer.size / 2**20:.1f} MiB of shared memory for {num_envs} copies ({error}); "
                "lower num_envs or use workers=0"
            ) from error
        return lay_out(spec, num_envs, Arena(block))

    def close(self) -> None:
        """Forget the block; it is gone with the last process that holds it."""
        os.close(self._memory)
