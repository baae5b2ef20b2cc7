"""Observations as rows of numbers, and running moments of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from marl.types import Array


class Moments:
    """Mean and variance of rows ``(M, D)`` so far, merged exactly (Chan et al. 1983)."""

    def __init__(self, width: int) -> None:
        """Of ``D`` columns, each as if of variance 1 before anything is known."""
        self.mean, self.variance, self.count = np.zeros(width), np.ones(width), 0

    def update(self, rows: Array) -> None:
        """Take in some rows."""
        if not len(rows):
            return
        count, total = len(rows), self.count + len(rows)
        shift = rows.mean(axis=0) - self.mean
        squares = self.variance * self.count + rows.var(axis=0) * count + shift**2 * (self.count * count / total)
        self.mean, self.variance, self.count = self.mean + shift * (count / total), squares / total, total

    @property
    def std(self) -> Array:
        """Standard deviation ``(D,)``, never 0."""
        return np.sqrt(self.variance + 1e-8)

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.mean, self.variance = np.array(state["mean"]), np.array(state["variance"])
        self.count = int(state["count"])


def rows_of(obs: Array) -> Array:
    """Observations ``(E, N, *O)`` as float32 rows ``(E * N, D)``, images in [0, 1]."""
    rows: Array = obs.reshape(obs.shape[0] * obs.shape[1], -1).astype(np.float32)
    return rows / 255 if obs.dtype == np.uint8 else rows
