"""Schedules: numbers that change with the environment steps of training."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real

from marl.types import ConfigError

__all__ = [
    "Exponential",
    "Linear",
    "Logarithmic",
]


@dataclass(frozen=True)
class Clock:
    """The progress of a training run: ``steps`` environment steps so far, of ``total`` if that is known."""

    steps: int
    total: int | None = None


def _numbers(schedule: Linear | Exponential | Logarithmic) -> None:
    for field in fields(schedule):
        value = getattr(schedule, field.name)
        if value is None and field.default is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ConfigError(f"{type(schedule).__name__}.{field.name}: expected a number, got {value!r}")


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end`` in a straight line, then ``end``.

    Args:
        start: value at step 0.
        end: value from step ``steps`` on.
        steps: environment steps that it takes; None means the whole training run.
    """

    start: float
    end: float
    steps: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _numbers(self)
        if self.steps is not None and not self.steps > 0:
            raise ConfigError(f"Linear.steps: expected a number above 0, or None for the whole run, got {self.steps!r}")

    def __call__(self, clock: Clock) -> float:
        """The value now. Raises ConfigError if neither the schedule nor the run says how many steps there are."""
        span = self.steps if self.steps is not None else clock.total
        if span is None:
            raise ConfigError(
                f"{self}: give it steps=, since train(episodes=...) does not say how many steps there will be"
            )
        return self.start + (self.end - self.start) * min(clock.steps / max(span, 1), 1.0)


@dataclass(frozen=True)
class Exponential:
    """From ``start`` towards ``end``, half of the rest of the way every ``half_life`` environment steps.

    Args:
        start: value at step 0.
        end: value in the end.
        half_life: environment steps.
    """

    start: float
    end: float
    half_life: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        _numbers(self)
        if not self.half_life > 0:
            raise ConfigError(f"Exponential.half_life: expected a number above 0, got {self.half_life!r}")

    def __call__(self, clock: Clock) -> float:
        """The value now."""
        rest: float = 0.5 ** (clock.steps / self.half_life)
        return self.end + (self.start - self.end) * rest


@dataclass(frozen=True)
class Logarithmic:
    """``start`` for a while, then towards ``end`` with the logarithm of the steps, fast at first.

    ``Logarithmic(1, 0, d)`` is the rule ``epsilon = 1 - log10((t + 1) / d)``, common on small tasks.

    Args:
        start: value up to step ``after``.
        end: value from step ``10 * after`` on.
        after: environment steps before the value moves.
    """

    start: float
    end: float
    after: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        _numbers(self)
        if not self.after > 0:
            raise ConfigError(f"Logarithmic.after: expected a number above 0, got {self.after!r}")

    def __call__(self, clock: Clock) -> float:
        """The value now."""
        decades = math.log10((clock.steps + 1) / self.after)
        return self.start + (self.end - self.start) * min(max(decades, 0.0), 1.0)


Schedule = float | Linear | Exponential | Logarithmic
SCHEDULES = (Linear, Exponential, Logarithmic)


def value_at(schedule: Schedule, clock: Clock) -> float:
    """The value of a constant or a schedule now."""
    return schedule(clock) if isinstance(schedule, SCHEDULES) else schedule
