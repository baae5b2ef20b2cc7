"""Metrics as TensorBoard events (extra ``tensorboard``)."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from marl.logs.logger import LoggedRun, Sink
from marl.types import ConfigError

COUNT = itertools.count()  # two files of one process in one second have two names


@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard events, a scalar for each metric (extra ``tensorboard``).

    Args:
        folder: where to write them; None: ``tensorboard`` in the run's folder.
    """

    folder: str | Path | None = None

    def build(self, run: LoggedRun) -> Sink:
        """Open a file of events. Raises ConfigError where TensorBoard is not installed, or there is no folder."""
        folder = Path(self.folder) if self.folder is not None else run.folder and run.folder / "tensorboard"
        if folder is None:
            raise ConfigError("TensorBoard.folder: this run has no folder; say where to write: TensorBoard('events')")
        return Events(folder, run.resumed_at, run.note)


class Events:
    """Writes each metric as a scalar over environment steps.

    It writes its file itself: PyTorch's writer does so in a thread, where a full disk or a removed folder ends in a
    traceback there and in an error at some later row. Here rows wait until they can be written, and training goes on.
    """

    def __init__(
        self, folder: Path, resumed_at: int | None = None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        """``resumed_at``: later events are hidden. Raises ConfigError where TensorBoard is not installed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from tensorboard.compat.proto import event_pb2, summary_pb2
                from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise ConfigError("TensorBoard is not installed: pip install 'marl-system[tensorboard]'") from None
        self._events: Any = event_pb2
        self._summaries: Any = summary_pb2
        self._writer_of: Any = RecordWriter
        self._folder, self._note = folder, note
        self._rows: list[Mapping[str, float]] = []
        self._file: IO[bytes] | None = None
        self._failed = False
        with self._patiently():
            self._open(None if resumed_at is None else resumed_at + 1)

    def log(self, metrics: Mapping[str, float]) -> None:
        """One scalar per metric. Where earlier ones could not be written or were removed, all are written again."""
        self._rows.append(metrics)
        with self._patiently():
            rows = self._rows[-1:]
            if self._file is None or self._removed(self._file):
                rows = self._rows
                self._open(int(rows[0]["steps"]))
            for row in rows:
                self._write(row)
            assert self._file is not None
            self._file.flush()
            self._failed = False

    def tick(self, steps: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with self._patiently():
                self._file.close()

    @contextlib.contextmanager
    def _patiently(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.close()
            self._file = None
            if not self._failed:
                self._note(f"TensorBoard events could not be written ({error.strerror or error}); training goes on")
            self._failed = True

    def _removed(self, file: IO[bytes]) -> bool:
        try:
            return not os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
        except OSError:
            return True

    def _open(self, purge: int | None) -> None:
        """Begin a file; events of other files from step ``purge`` on are hidden."""
        if self._file is not None:
            self._file.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(COUNT)}"
        self._file = open(self._folder / name, "xb")  # noqa: SIM115 (it lives as long as we do)
        self._writer = self._writer_of(self._file)
        self._record(file_version="brain.Event:2")
        if purge is not None:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._record(step=purge, session_log=start)
        self._file.flush()

    def _write(self, metrics: Mapping[str, float]) -> None:
        values = [
            self._summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
            if name != "steps" and math.isfinite(value)
        ]
        self._record(step=int(metrics["steps"]), summary=self._summaries.Summary(value=values))

    def _record(self, **fields: Any) -> None:
        self._writer.write(self._events.Event(wall_time=time.time(), **fields).SerializeToString())
