"""Cells of a study over some processes: who trains what, what to do when one ends badly."""

from __future__ import annotations

import contextlib
import json
import selectors
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from marl.cli.cell_process import PAUSE, CellProcess, CellWorker, Evaluated
from marl.cli.cells import hash_of
from marl.cli.output import note
from marl.cli.status import config_error

POLL_SECONDS = 0.25
LOOK_SECONDS = 1.0  # between two looks at the study's files
SAVE_SECONDS = 60.0  # for cells to save in when all are to end
HOPELESS = (2, 4)  # bad input, divergence: the same again


class Work(Protocol):
    """What a process does: a cell that it trains, or anything else that a command does."""

    @property
    def name(self) -> str:
        """Of it, and of its log."""
        ...

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        ...

    def command(self, begun: bool) -> list[str]:
        """The words of the command that does it, or goes on with it."""
        ...

    def fault(self, code: int) -> str | None:
        """Why it is not finished, though its command has ended with this status; empty: who knows. None: it is."""
        ...


W = TypeVar("W", bound=Work)
Told = TypeVar("Told", bound=Work, contravariant=True)


class Watch(Protocol[Told]):
    """Is told what happens."""

    def began(self, cell: Told) -> None:
        """A process works on it now."""
        ...

    def finished(self, cell: Told, seconds: float) -> None:
        """It is finished."""
        ...

    def failed(self, cell: Told, error: str, again: bool) -> None:
        """It ended badly, and is tried again or left out."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...


class Failures:
    """Says what ends badly, and nothing else.

    again: what is said where it is tried again.
    """

    def __init__(self, again: str = "tried again from what it saved") -> None:
        """Nothing has happened yet."""
        self._again = again

    def began(self, cell: Work) -> None:
        """Nothing to say."""

    def finished(self, cell: Work, seconds: float) -> None:
        """Nothing to say."""

    def failed(self, cell: Work, error: str, again: bool) -> None:
        """It ended badly."""
        note(f"{cell.name}: {error}" + (f"; {self._again}" if again else ""))

    def tick(self) -> None:
        """Nothing to say."""


@dataclass
class Job(Generic[W]):
    """One process and what it does."""

    process: CellWorker
    cell: W | None = None
    began: float = 0.0


class Schedule(Generic[W]):
    """Trains cells, or does other work, each in one of some processes.

    Args:
        cells: what to do, in this order.
        path: the study's folder.
        jobs: how many processes.
        retries: how often a cell that ended badly is gone on with, from its newest checkpoint.
        files: the files that the study is made of, with their hashes.
        watch: is told what happens; it may :meth:`add` cells.
        decide: says whether a cell that was evaluated goes on; None: all do.
        start: starts one of the processes, or says by None that there is no room for it yet; on this machine unless
            given.
    """

    def __init__(
        self,
        cells: Sequence[W],
        path: Path,
        jobs: int,
        retries: int,
        files: Mapping[Path, str],
        watch: Watch[W],
        decide: Callable[[W, Evaluated], str] | None = None,
        start: Callable[[], CellWorker | None] | None = None,
    ) -> None:
        """Nothing is started yet."""
        self._decide = decide
        self._start: Callable[[], CellWorker | None] = start or CellProcess
        self._waiting, self._path, self._count, self._retries = deque(cells), path, jobs, retries
        self._files, self._watch = files, watch
        self._tries: dict[str, int] = {}
        self._jobs: list[Job[W]] = []
        self._selector = selectors.DefaultSelector()
        self._looked = time.monotonic()
        self.errors: dict[str, str] = {}  # of cells that were left out

    def run(self) -> None:
        """Train them all; returns when none is left. Processes end with it.

        Raises:
            ConfigError: if a file of the study changes meanwhile; what was trained is saved.
            KeyboardInterrupt: on Ctrl-C, once all that train have saved.
        """
        with self:
            self.go_on()

    def go_on(self, cells: Sequence[W] = ()) -> None:
        """Train these, and all that wait; returns when none is left. Processes stay for those to come.

        Raises:
            ConfigError: if a file of the study changes meanwhile; what was trained is saved.
            KeyboardInterrupt: on Ctrl-C, once all that train have saved.
        """
        self._waiting.extend(cells)
        try:
            while self._waiting or any(job.cell is not None for job in self._jobs):
                self._fill()
                for key, _ in self._selector.select(POLL_SECONDS):
                    self._ended(key.data)
                self._look()
                self._watch.tick()
        except BaseException:
            self._interrupt()
            raise

    def __enter__(self) -> Schedule[W]:
        """Use as a context manager to end the processes at last."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the processes."""
        for job in self._jobs:
            job.process.end()
        self._selector.close()

    def add(self, cell: W) -> None:
        """Train this too, before all that wait."""
        self._waiting.appendleft(cell)

    @property
    def running(self) -> list[W]:
        """What trains now."""
        return [job.cell for job in self._jobs if job.cell is not None]

    def _fill(self) -> None:
        """Give every idle process a cell; start another one where there may be more."""
        while self._waiting:
            idle = next((job for job in self._jobs if job.cell is None), None)
            if idle is None:
                if len(self._jobs) >= self._count:
                    return
                process = self._start()
                if process is None:
                    return
                idle = Job(process)
                self._jobs.append(idle)
                self._selector.register(idle.process.socket, selectors.EVENT_READ, idle)
            cell = self._waiting.popleft()
            begun = cell.begun
            self._write(cell, begun=begun)
            idle.cell, idle.began = cell, time.monotonic()
            self._watch.began(cell)
            try:
                idle.process.run(cell.command(begun), self._log_of(cell), asks=self._decide is not None)
            except OSError:  # it died while it had nothing to do
                self._ended(idle)

    def _ended(self, job: Job[W]) -> None:
        """A process has answered, or is gone."""
        code, cell = job.process.answer(), job.cell
        if isinstance(code, Evaluated):
            assert cell is not None
            assert self._decide is not None
            try:
                verdict = self._decide(cell, code)
            except BaseException:
                job.process.reply(PAUSE)  # it waits for an answer before it can save
                raise
            job.process.reply(verdict)
            return
        job.cell = None
        how = "" if code is not None else job.process.end()
        if code is None:
            self._selector.unregister(job.process.socket)
            self._jobs.remove(job)
        if cell is None:
            return
        error = self._verdict(cell, code, how)
        seconds = time.monotonic() - job.began
        self._write(cell, code=code, error=error, seconds=round(seconds, 3))
        if error is None:
            self._watch.finished(cell, seconds)
            return
        tries = self._tries[cell.name] = self._tries.get(cell.name, 0) + 1
        again = code not in (0, *HOPELESS) and tries <= self._retries
        self._watch.failed(cell, error, again)
        if again:
            self._waiting.appendleft(cell)
        else:
            self.errors[cell.name] = error

    def _verdict(self, cell: W, code: int | None, how: str) -> str | None:
        """Why a cell is not finished; None: it is."""
        fault = how if code is None else cell.fault(code)
        return _last_error(self._log_of(cell)) or f"ended with status {code}" if fault == "" else fault

    def _look(self) -> None:
        """Raise ConfigError if a file of the study is another one now."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for path, before in self._files.items():
            if hash_of(path) != before:
                raise config_error(
                    f"{path} changed while the study runs; what was trained is saved: run it again, and what has "
                    "not changed goes on"
                )

    def _interrupt(self) -> None:
        """Let all that train save; a second signal ends them at once."""
        for job in self._jobs:
            job.process.interrupt()
        until = time.monotonic() + SAVE_SECONDS
        busy = [job for job in self._jobs if job.cell is not None]
        with contextlib.suppress(KeyboardInterrupt):
            while busy and time.monotonic() < until:
                for key, _ in self._selector.select(POLL_SECONDS):
                    code = key.data.process.answer()
                    if isinstance(code, Evaluated):
                        key.data.process.reply(PAUSE)
                        continue
                    self._selector.unregister(key.data.process.socket)
                    if key.data in busy:
                        busy.remove(key.data)
                        if code == 0:  # it was just finished
                            self._write(key.data.cell, code=0, error=None)

    def _log_of(self, cell: W) -> Path:
        from marl.studies.study_folder import LOGS

        return self._path / LOGS / f"{cell.name}.log"

    def _write(self, cell: W, **said: Any) -> None:
        """A line of the journal."""
        from marl.studies.study_folder import JOURNAL

        with open(self._path / JOURNAL, "a", encoding="utf-8") as file:
            file.write(json.dumps({"cell": cell.name, "time": round(time.time(), 3), **said}) + "\n")


def _last_error(log: Path, most: int = 65_536) -> str:
    """What a command said of its error, in its log."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - most))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.removeprefix("marl: error: ") for line in lines if line.startswith("marl: error: ")]
    return said[-1] if said else ""
