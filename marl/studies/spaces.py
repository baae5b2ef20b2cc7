"""Where values of a setting may lie, and how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from marl.config import in_words
from marl.types import ConfigError

MOST_CHOICES = 1_000
Given = Mapping[str, Any]


@runtime_checkable
class Space(Protocol):
    """The values that a setting may have."""

    def sample(self, rng: np.random.Generator) -> Any:
        """One of them, at random."""
        ...


@dataclass(frozen=True)
class Uniform:
    """A number between two others, each equally likely.

    Args:
        low: the least.
        high: the largest.
        given: only where other settings of the space have these values.

    Raises:
        ConfigError: unless ``low < high``.
    """

    low: float
    high: float
    given: Given = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Check the ends."""
        _check_ends("Uniform", self.low, self.high, -math.inf)

    def sample(self, rng: np.random.Generator) -> float:
        """One of them."""
        return float(rng.uniform(self.low, self.high))

    def ends(self) -> list[str]:
        """Values in words that have to make sense."""
        return [in_words(self.low), in_words(self.high)]


@dataclass(frozen=True)
class LogUniform:
    """A number whose logarithm is uniform: each power of ten is equally likely.

    Args:
        low: the least, above 0.
        high: the largest.
        given: only where other settings of the space have these values.

    Raises:
        ConfigError: unless ``0 < low < high``.
    """

    low: float
    high: float
    given: Given = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Check the ends."""
        _check_ends("LogUniform", self.low, self.high, 0.0)

    def sample(self, rng: np.random.Generator) -> float:
        """One of them."""
        return _log_uniform(rng, self.low, self.high)

    def ends(self) -> list[str]:
        """Values in words that have to make sense."""
        return [in_words(self.low), in_words(self.high)]


@dataclass(frozen=True)
class IntUniform:
    """A whole number from ``low`` to ``high``, both included.

    Args:
        low: the least.
        high: the largest.
        log: its logarithm is uniform.
        given: only where other settings of the space have these values.

    Raises:
        ConfigError: unless ``low < high``, or if a logarithm would be of less than 1.
    """

    low: int
    high: int
    log: bool = field(default=False, kw_only=True)
    given: Given = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Check the ends."""
        for end in (self.low, self.high):
            if isinstance(end, bool) or not isinstance(end, int):
                raise ConfigError(f"IntUniform: expected whole numbers, got {end!r:.80}")
        _check_ends("IntUniform", self.low, self.high, 0.0 if self.log else -math.inf)

    def sample(self, rng: np.random.Generator) -> int:
        """One of them."""
        if self.log:  # as Optuna draws it: each whole number stands for what is rounded to it
            return min(max(round(_log_uniform(rng, self.low - 0.5, self.high + 0.5)), self.low), self.high)
        return int(rng.integers(self.low, self.high, endpoint=True))

    def ends(self) -> list[str]:
        """Values in words that have to make sense."""
        return [in_words(self.low), in_words(self.high)]


@dataclass(frozen=True)
class Choice:
    """One of some values: numbers, texts, networks, optimizers, critics, credit.

    Args:
        values: which.
        given: only where other settings of the space have these values.

    Raises:
        ConfigError: for less than two, the same twice, or what cannot be said in words.
    """

    values: Sequence[Any]
    given: Given = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Say them once."""
        if isinstance(self.values, str | Mapping) or not isinstance(self.values, Sequence):
            raise ConfigError(f"Choice: expected a list, got {self.values!r:.80}")
        said = self.ends()
        twice = next((one for one in said if said.count(one) > 1), None)
        if twice is not None:
            raise ConfigError(f"Choice: {twice} is there twice")
        if not 2 <= len(said) <= MOST_CHOICES:
            raise ConfigError(f"Choice: expected 2 to {MOST_CHOICES:,} values to choose from, got {len(said)}")

    def sample(self, rng: np.random.Generator) -> Any:
        """One of them."""
        return self.values[int(rng.integers(len(self.values)))]

    def ends(self) -> list[str]:
        """All values in words."""
        return [in_words(value) for value in self.values]


Dimension = Uniform | LogUniform | IntUniform | Choice


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    drawn = math.exp(rng.uniform(math.log(low), math.log(high)))
    return min(max(drawn, low), high)  # rounding of exp


def _check_ends(name: str, low: Any, high: Any, above: float) -> None:
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise ConfigError(f"{name}: expected two numbers, got {end!r:.80}")
    if not above < low < high:
        least = "" if above == -math.inf else f"{above:g} < "
        raise ConfigError(f"{name}: expected {least}low < high, got {low:g} and {high:g}")
