"""How far a mean may be off: intervals over episodes, and whether two means can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl.types import Array, ConfigError

INDISTINCT = "not distinguishable"  # what every output calls two numbers whose difference may be chance


def bootstrap_interval(values: Array, level: float = 0.95, resamples: int = 2_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979); equal data give equal bounds."""
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def interval_text(low: float, high: float, digits: int = 2) -> str:
    """``-1.20 to 3.40``."""
    return f"{low:.{digits}f} to {high:.{digits}f}"


@dataclass(frozen=True)
class Difference:
    """How much larger one mean is than another over the same episodes.

    mean: of the differences, episode by episode.
    confidence_interval: 95 % percentile bootstrap of it, over episodes.
    """

    mean: float
    confidence_interval: tuple[float, float]

    @classmethod
    def paired(cls, ones: Sequence[float], others: Sequence[float]) -> Difference:
        """Of two plays of the same episodes in the same order, ``(episodes,)`` each.

        Raises:
            ConfigError: if they are not equally many.
        """
        if len(ones) != len(others):
            raise ConfigError(
                f"difference: expected two plays of the same episodes, got {len(ones):,} and {len(others):,} episodes"
            )
        apart = np.asarray(ones, dtype=np.float64) - np.asarray(others, dtype=np.float64)
        return cls(float(apart.mean()), bootstrap_interval(apart))

    @property
    def distinguishable(self) -> bool:
        """Whether 0 lies outside of the interval."""
        low, high = self.confidence_interval
        return low > 0 or high < 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "mean": self.mean,
            "confidence_interval": list(self.confidence_interval),
            "distinguishable": self.distinguishable,
        }

    def __str__(self) -> str:
        """The mean, its interval, and whether it may be chance."""
        found = f"{self.mean:+.2f} (95 % CI over episodes {interval_text(*self.confidence_interval)})"
        return found if self.distinguishable else f"{found}, {INDISTINCT}"
