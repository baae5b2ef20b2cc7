"""Where metrics go while a system trains, and how they come back: a file, TensorBoard, the screen, a plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from marl.logs.metrics import MetricsFile, read_metrics

__all__ = ["MetricsFile", "Sink", "read_metrics"]


class Sink(Protocol):
    """Takes in rows of metrics."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """One row; ``metrics["steps"]`` says when."""
        ...

    def tick(self, steps: int) -> None:
        """Called after every step: a chance to redraw. Must cost next to nothing."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...
