"""Hooks without memory: functions, costs, scales, and what teammates earn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from marl.schedules import Schedule, value_at
from marl.shaping.hook import Hook, HookContext, TeamTransition, check_needs, check_number, shaped_like
from marl.types import Array, ConfigError


@dataclass(frozen=True)
class Function:
    """``r + w f(transition)``: a bonus by a function of your own.

    Args:
        function: from :class:`TeamTransition` to ``(E, N)``; only acting agents get it.
        weight: a number or schedule.
        needs: what else it must be shown: ``"state"``, ``"actions"``, ``"infos"``.
    """

    function: Callable[[TeamTransition], Array]
    weight: Schedule = 1.0
    needs: frozenset[str] = frozenset()
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Keep a set."""
        object.__setattr__(self, "needs", check_needs("Function", self.needs))

    def build(self, context: HookContext) -> Hook:
        """Return this hook itself; it has no state."""
        return self

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        """The reward plus the weighted bonus, ``(E, N)``."""
        bonus = shaped_like("Function.function", self.function(transition), reward)
        return reward + value_at(self.weight, transition.now) * np.where(transition.acting, bonus, 0.0)


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

    def build(self, context: HookContext) -> Hook:
        """Return this hook itself; it has no state."""
        return self

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        """The mixed reward ``(E, N)``."""
        spirit = value_at(self.weight, transition.now)
        mixed: Array = (1 - spirit) * reward + spirit * reward.mean(axis=1, keepdims=True)
        return mixed


@dataclass(frozen=True)
class StepCost:
    """``r - w`` for every agent that acted.

    Args:
        cost: a number or schedule.
    """

    cost: Schedule = 0.01
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the cost."""
        check_number("StepCost.cost", self.cost)

    def build(self, context: HookContext) -> Hook:
        """Return this hook itself; it has no state."""
        return self

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        """The reward minus the cost, ``(E, N)``."""
        return reward - value_at(self.cost, transition.now) * transition.acting


@dataclass(frozen=True)
class Scale:
    """``w r``.

    Args:
        factor: a number or schedule.
    """

    factor: Schedule = 1.0
    invariant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check that the factor is positive: others change the order of policies."""
        check_number("Scale.factor", self.factor, 1e-12)

    def build(self, context: HookContext) -> Hook:
        """Return this hook itself; it has no state."""
        return self

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        """The scaled reward ``(E, N)``."""
        return reward * value_at(self.factor, transition.now)


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

    def build(self, context: HookContext) -> Hook:
        """Return this hook itself; it has no state."""
        return self

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        """The clipped reward ``(E, N)``."""
        return reward.clip(self.low, self.high)


@dataclass(frozen=True)
class DifferenceReward:
    """``D_i = G(z) - G(z with i's default)``: an agent's own contribution to the team (Wolpert and Tumer 2002).

    ``G`` is the sum of the team's rewards so far; the world, or a model of it, has to say the other.

    Args:
        counterfactual: from :class:`TeamTransition` to ``(E, N)``: the team's sum had agent ``i`` done its default.
        needs: what else it must be shown: ``"state"``, ``"actions"``, ``"infos"``.
    """

    counterfactual: Callable[[TeamTransition], Array]
    needs: frozenset[str] = frozenset()
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Keep a set."""
        object.__setattr__(self, "needs", check_needs("DifferenceReward", self.needs))

    def build(self, context: HookContext) -> Hook:
        """Return this hook itself; it has no state."""
        return self

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        """The difference reward ``(E, N)``."""
        without = shaped_like("DifferenceReward.counterfactual", self.counterfactual(transition), reward)
        difference: Array = np.where(transition.acting, reward.sum(axis=1, keepdims=True) - without, 0.0)
        return difference
