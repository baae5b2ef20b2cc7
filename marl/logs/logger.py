"""Loggers: what takes in the rows of metrics while a system trains."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from marl.config import unknown
from marl.installed import entry_points
from marl.types import ConfigError

GROUP = "marl.loggers"
OURS = {  # by name; installed packages add theirs
    "csv": "marl.logs.csv:CSV",
    "mlflow": "marl.logs.mlflow:MLflow",
    "tensorboard": "marl.logs.tensorboard:TensorBoard",
    "wandb": "marl.logs.wandb:WandB",
}


class Sink(Protocol):
    """A built logger: takes in rows of metrics, in a thread of its own.

    Where it raises an error or hangs, it gets no more rows, and training goes on.
    """

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row; ``metrics["steps"]`` says when."""
        ...

    def tick(self, steps: int) -> None:
        """Called about ten times a second while training goes on, and at its end: a chance to redraw."""
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
