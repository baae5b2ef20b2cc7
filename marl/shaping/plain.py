"""Hooks without memory: functions, costs, scales, and what teammates earn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from marl.schedules import Schedule, value_at
from marl.shaping.hook import Hook, Place, Seen, check_needs, check_number, shaped_like
from marl.types import Array, ConfigError


@dataclass(frozen=True)
class Function:
    """``r + w f(seen)``: a bonus of your own.

    Args:
        function: from :class:`Seen` to ``(E, N)``; only those who acted are paid.
        weight: a number or schedule.
        needs: what else it must be shown: ``"state"``, ``"actions"``, ``"infos"``.
    """

    function: Callable[[Seen], Array]
    weight: Schedule = 1.0
    needs: frozenset[str] = frozenset()
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Keep a set."""
        object.__setattr__(self, "needs", check_needs("Function", self.needs))

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        bonus = shaped_like("Function.function", self.function(seen), reward)
        return reward + value_at(self.weight, seen.now) * np.where(seen.acting, bonus, 0.0)


@dataclass(frozen=True)
class TeamSpirit:
    """``r_i <- (1 - w) r_i + w mean_j r_j``: from selfish to sharing everything (OpenAI Five, Berner et al. 2019).

    Args:
        weight: a number or schedule in [0, 1].
    """

    weight: Schedule = 1.0
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the weight."""
        check_number("TeamSpirit.weight", self.weight, 0, 1)

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        spirit = value_at(self.weight, seen.now)
        mixed: Array = (1 - spirit) * reward + spirit * reward.mean(axis=1, keepdims=True)
        return mixed


@dataclass(frozen=True)
class StepCost:
    """``r - w`` for whoever acted.

    Args:
        cost: a number or schedule.
    """

    cost: Schedule = 0.01
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the cost."""
        check_number("StepCost.cost", self.cost)

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        return reward - value_at(self.cost, seen.now) * seen.acting


@dataclass(frozen=True)
class Scale:
    """``w r``.

    Args:
        factor: a number or schedule.
    """

    factor: Schedule = 1.0
    invariant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Only positive factors keep what is better better."""
        check_number("Scale.factor", self.factor, 1e-12)

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        return reward * value_at(self.factor, seen.now)


@dataclass(frozen=True)
class Clip:
    """``min(max(r, low), high)``.

    Args:
        low: least reward.
        high: greatest reward.
    """

    low: float = -1.0
    high: float = 1.0
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the ends."""
        if not self.low < self.high:
            raise ConfigError(f"Clip: expected low below high, got {self.low!r} and {self.high!r}")

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        return reward.clip(self.low, self.high)


@dataclass(frozen=True)
class DifferenceReward:
    """``D_i = G(z) - G(z with i's default)``: what an agent's own doing changed for the team (Wolpert and Tumer 2002).

    ``G`` is the sum of the team's rewards so far; the world, or a model of it, has to say the other.

    Args:
        counterfactual: from :class:`Seen` to ``(E, N)``: the team's sum had agent ``i`` done its default instead.
        needs: what else it must be shown: ``"state"``, ``"actions"``, ``"infos"``.
    """

    counterfactual: Callable[[Seen], Array]
    needs: frozenset[str] = frozenset()
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Keep a set."""
        object.__setattr__(self, "needs", check_needs("DifferenceReward", self.needs))

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        without = shaped_like("DifferenceReward.counterfactual", self.counterfactual(seen), reward)
        difference: Array = np.where(seen.acting, reward.sum(axis=1, keepdims=True) - without, 0.0)
        return difference
