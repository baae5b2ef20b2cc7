"""Where values of a setting may lie, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import numpy as np

from marl.types import ConfigError


@runtime_checkable
class Space(Protocol):
    """The values that a setting may have."""

    def sample(self, rng: np.random.Generator) -> Any:
        """One of them, at random."""
        ...

    def check(self, name: str) -> None:
        """Raise ConfigError, naming the setting, if there is no such value."""
        ...


@dataclass(frozen=True)
class LogUniform:
    """Numbers from ``low`` to ``high`` whose logarithms are equally likely: ``log v ~ U(log low, log high)``.

    Args:
        low: the smallest, above 0.
        high: the largest.
    """

    low: float
    high: float

    def sample(self, rng: np.random.Generator) -> float:
        """One of them."""
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)  # rounding of exp

    def check(self, name: str) -> None:
        """Raise ConfigError unless 0 < low < high."""
        _check_ends(name, self, self.low, self.high)
        if not self.low > 0:
            raise ConfigError(f"{name}: {self}: expected low above 0, which has a logarithm; or use Uniform")


@dataclass(frozen=True)
class Uniform:
    """Numbers from ``low`` to ``high``, all equally likely.

    Args:
        low: the smallest.
        high: the largest.
    """

    low: float
    high: float

    def sample(self, rng: np.random.Generator) -> float:
        """One of them."""
        return float(rng.uniform(self.low, self.high))

    def check(self, name: str) -> None:
        """Raise ConfigError unless low < high."""
        _check_ends(name, self, self.low, self.high)


@dataclass(frozen=True)
class IntUniform:
    """Whole numbers from ``low`` to ``high``, both of them too, all equally likely.

    Args:
        low: the smallest.
        high: the largest.
    """

    low: int
    high: int

    def sample(self, rng: np.random.Generator) -> int:
        """One of them."""
        return int(rng.integers(self.low, self.high, endpoint=True))

    def check(self, name: str) -> None:
        """Raise ConfigError unless both are whole and low < high."""
        _check_ends(name, self, self.low, self.high)
        if any(not isinstance(end, int | np.integer) for end in (self.low, self.high)):
            raise ConfigError(f"{name}: {self}: expected whole numbers; or use Uniform")


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values, all equally likely.

    Args:
        values: one after the other, ``Choice("relu", "tanh")``.
    """

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        """Any values."""
        object.__setattr__(self, "values", values)

    def sample(self, rng: np.random.Generator) -> Any:
        """One of them."""
        return self.values[int(rng.integers(len(self.values)))]

    def check(self, name: str) -> None:
        """Raise ConfigError unless there are two different values at least."""
        if len(self.values) < 2:
            raise ConfigError(f"{name}: {self}: expected two values at least, so that there is a choice")
        for place, value in enumerate(self.values):
            if value in self.values[:place]:
                raise ConfigError(f"{name}: {self}: {value!r} is there twice")


def _check_ends(name: str, space: Any, low: Any, high: Any) -> None:
    """Raise ConfigError unless both are finite numbers, the first the smaller one."""
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, Real) or not math.isfinite(end):
            raise ConfigError(f"{name}: {space}: expected finite numbers, got {end!r:.80}")
    if not low < high:
        raise ConfigError(f"{name}: {space}: expected low below high; a single value is no space")
