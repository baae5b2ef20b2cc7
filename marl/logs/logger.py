"""Loggers: what takes in the rows of metrics while a system trains."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from marl.config import unknown
from marl.installed import entry_points
from marl.training.history import Watcher
from marl.types import ConfigError

GROUP = "marl.loggers"
OURS = {"tensorboard": "marl.logs.tensorboard:TensorBoard"}  # by name; installed packages add theirs


class Sink(Protocol):
    """A built logger: takes in rows of metrics."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row; ``metrics["steps"]`` says when."""
        ...

    def tick(self, steps: int) -> None:
        """Called after every step: a chance to redraw. Must cost next to nothing."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


@dataclass(frozen=True)
class LoggedRun:
    """The run that a logger is built for.

    Args:
        name: of the environment or scenario.
        folder: where the run keeps its files; None where it has no folder.
        resumed_at: environment steps that were logged before; None for a new run.
        settings: what was asked, as in ``config.json``.
        note: tells the person who trains something, in one line.
    """

    name: str
    folder: Path | None = None
    resumed_at: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    note: Callable[[str], None] = logging.getLogger("marl.logs").warning


class Logger(Protocol):
    """A choice of logger: a frozen dataclass."""

    def build(self, run: LoggedRun) -> Sink:
        """Begin to log a run. Raises ConfigError for what has no meaning there."""
        ...


def logger_named(name: str) -> Logger:
    """A logger of this library or of an installed package (entry points ``marl.loggers``), with its defaults.

    Raises:
        ConfigError: if there is none, or what is there is no logger.
    """
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name in OURS:
        module, _, own = OURS[name].partition(":")
        found = getattr(importlib.import_module(module), own)
    elif name in installed:
        found = installed[name].load()
    else:
        raise ConfigError(unknown("logger", name, sorted({*OURS, *installed}), "logger"))
    made = found() if isinstance(found, type) else found
    if not hasattr(made, "build"):
        raise ConfigError(f"logger {name!r}: expected a class or object with build(run), got {found!r:.200}")
    logger: Logger = made
    return logger


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
            sinks.append(logger.build(run))
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
