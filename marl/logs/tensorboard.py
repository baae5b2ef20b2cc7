"""Metrics as TensorBoard events (extra ``tensorboard``)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path

from marl.types import ConfigError


class TensorBoard:
    """Writes each metric as a scalar over environment steps."""

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        """``resumed_at``: later events are hidden. Raises ConfigError where TensorBoard is not installed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("TensorBoard is not installed: pip install 'marl-system[tensorboard]'") from None
        purge = None if resumed_at is None else resumed_at + 1
        self._folder, self._rows = folder, list[Mapping[str, float]]()
        self._open = lambda: SummaryWriter(str(folder), purge_step=purge, flush_secs=10)
        try:
            self._writer = self._open()
        except UnicodeEncodeError:
            raise ConfigError(f"TensorBoard cannot write to {str(folder)!r}, whose name is no text") from None

    def log(self, metrics: Mapping[str, float]) -> None:
        """One scalar per metric; if the folder was removed, once more all there were."""
        self._rows.append(metrics)
        rows = self._rows[-1:]
        if not self._folder.is_dir():
            self._writer.close()
            self._writer, rows = self._open(), self._rows
        for row in rows:
            self._write(row)

    def _write(self, metrics: Mapping[str, float]) -> None:
        steps = int(metrics["steps"])
        for name, value in metrics.items():
            if name != "steps" and math.isfinite(value):
                self._writer.add_scalar(name, value, steps)

    def tick(self, steps: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Flush."""
        self._writer.close()
