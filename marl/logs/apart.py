"""Loggers in threads of their own: one that raises, hangs or is slow harms nothing but itself."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from marl.logs.logger import LoggedRun, Logger, Sink
from marl.training.history import Watcher
from marl.types import ConfigError

MOST_WAITING = 1_000  # rows that a logger may be behind; a run has some hundreds
LAST_WAIT = 60.0  # seconds that the end of a training waits for a logger, which may have to send what it has
REDRAW_SECONDS = 0.1


def begin(logger: Logger, run: LoggedRun) -> Sink:
    """Begin to log a run with a logger, in a thread of its own. Raises ConfigError as the logger's ``build`` does."""
    return Apart(logger.build(run), type(logger).__name__, run.note)


@contextmanager
def looking_on(
    run: LoggedRun, loggers: Sequence[Logger], watcher: Watcher | None, system: Any
) -> Iterator[tuple[Callable[[dict[str, float]], None] | None, Callable[[], bool] | None]]:
    """What takes in a row of metrics, and what is called after every step: loggers and a watcher as one.

    Loggers are closed at the end, whatever happens. Raises ConfigError for what is no logger.
    """
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for logger in loggers:
            if isinstance(logger, type) or not hasattr(logger, "build"):
                raise ConfigError(f"loggers: expected loggers such as marl.logs.TensorBoard(...), got {logger!r:.200}")
            sinks.append(begin(logger, run))
            stack.callback(sinks[-1].close)

        def log(metrics: dict[str, float]) -> None:
            for sink in sinks:
                sink.log(metrics)
            if watcher is not None:
                watcher.log(metrics)

        def tick() -> bool:
            for sink in sinks:
                sink.tick(system.steps)
            return watcher is not None and watcher.tick(system)

        yield (None, None) if watcher is None and not sinks else (log, tick)


class Apart:
    """A sink that hands rows to another one in a thread.

    Where the other raises an error, or is more than :data:`MOST_WAITING` rows behind, it gets no more rows. The thread
    that trains says so, once.
    """

    def __init__(self, sink: Sink, name: str, note: Callable[[str], None]) -> None:
        """``name`` of the logger, for people; ``note`` tells them."""
        self._sink, self._name, self._note = sink, name, note
        self._rows: queue.Queue[Mapping[str, float] | None] = queue.Queue(MOST_WAITING)
        self._steps: int | None = None
        self._failure: str | None = None
        self._lost = False
        # A thread that hangs must not keep the process from its end.
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float]) -> None:
        """Hand over a row."""
        if not self._gone():
            try:
                self._rows.put_nowait(dict(metrics))
            except queue.Full:
                self._lose(f"did not answer for {MOST_WAITING:,} rows")

    def tick(self, steps: int) -> None:
        """Remember how far the training is; the other sink is told about ten times a second."""
        self._steps = steps
        self._gone()

    def close(self) -> None:
        """Wait until all rows are logged and the other sink is closed, but not for ever."""
        if self._lost:
            return
        until = time.monotonic() + LAST_WAIT
        with contextlib.suppress(queue.Full):
            self._rows.put(None, timeout=LAST_WAIT)
        self._thread.join(max(0.0, until - time.monotonic()))
        if not self._gone() and self._thread.is_alive():
            self._lose(f"was not done {LAST_WAIT:g} seconds after the end")

    def _gone(self) -> bool:
        """Whether the other sink gets nothing any more."""
        if self._failure is not None and not self._lost:
            self._lose(self._failure)
        return self._lost

    def _lose(self, why: str) -> None:
        self._lost = True
        self._note(f"logger {self._name} {why}; it logs nothing more, and all else goes on")

    def _work(self) -> None:
        """What the thread does."""
        told: int | None = None
        try:
            while True:
                try:
                    row = self._rows.get(timeout=REDRAW_SECONDS)
                except queue.Empty:
                    row = {}
                if row:
                    self._sink.log(row)
                if self._steps is not None and self._steps != told:
                    told = self._steps
                    self._sink.tick(told)
                if row is None:
                    break
            self._sink.close()
        except BaseException as error:  # whatever it is: it is the logger's own
            said = " ".join(str(error).split())
            with contextlib.suppress(BaseException):
                self._sink.close()
            self._failure = f"failed ({type(error).__name__}: {said:.200})"
