"""Successive halving: all train a little, the best share goes on (Jamieson and Talwalkar 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from marl.types import ConfigError


def survivors(entrants: int, reduction: int) -> list[int]:
    """How many train in each round: ``n, n // eta, ...`` down to the one that is left, ``27 9 3 1`` for ``eta = 3``.

    Args:
        entrants: ``n``.
        reduction: ``eta``: one of so many goes on.

    Raises:
        ConfigError: if there is nobody, or ``eta < 2``.
    """
    if entrants < 1 or reduction < 2:
        raise ConfigError(f"halving: expected entrants and a reduction of at least 2, got {entrants} and {reduction}")
    counts = [entrants]
    while counts[-1] > 1:
        counts.append(max(1, counts[-1] // reduction))
    return counts


def rungs(steps: int, entrants: int, reduction: int) -> list[int]:
    """Steps at which each round ends: all but the last at a multiple of the first, the last after all ``steps``.

    The first is ``steps // eta ** k`` for ``k`` rounds after it, and each other one ``eta`` times the one before.

    Raises:
        ConfigError: if there are fewer steps than that takes.
    """
    rounds = len(survivors(entrants, reduction)) - 1
    first = steps // reduction**rounds
    if first < 1:
        raise ConfigError(f"halving: {rounds} rounds need at least {reduction**rounds:,} steps, got {steps:,}")
    return [*(first * reduction**one for one in range(rounds)), steps]


def goes_on(value: float, values: Sequence[float], reduction: int) -> bool:
    """Whether a value is among the best ``n // eta`` of ``n`` that reached a rung so far, or the best (ASHA, Li et al.
    2020).

    Args:
        value: one of ``values``. NaN never goes on.
        values: of all that have been there.
        reduction: ``eta``.
    """
    best = sorted((-math.inf if math.isnan(one) else one for one in values), reverse=True)
    return not math.isnan(value) and value >= best[max(1, len(values) // reduction) - 1]


def promoted(values: Mapping[str, float], count: int) -> list[str]:
    """The ``count`` highest, the best first; of equal ones those that come first. NaN is below everything."""
    order = sorted(values, key=lambda name: -math.inf if math.isnan(values[name]) else values[name], reverse=True)
    return order[:count]
