"""The range test of a learning rate: train while it grows exponentially, and see where that breaks (Smith 2017)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl.callbacks import Callback, Training
from marl.config import check_whole
from marl.studies.statistics import smoothed
from marl.types import Array, ConfigError, Episode, NonFiniteError

RETURN, KL = "return", "kl"
LOSSES = ("loss", "value_loss")  # that are lower where it learns better; a policy's loss tells nothing
BELOW = 3.0  # the suggestion is so many times below where a loss is lowest
BELOW_RETURN = 10.0  # and below where a return is highest: it rises for as long as training goes on, at any good rate
RISES = 4.0  # a loss diverges that is so many times its lowest
FALLS = 1.25  # and says nothing unless it was so many times its lowest before
MOST_KL = 0.01  # change of a policy in one update, in nat, that is still small
BELOW_KL = 2.0  # and below where it becomes larger: policies that have learnt more change more at the same rate
DEVIATIONS = 3.0  # by which a return must rise to count as learning
LEAST_UPDATES = 10


@dataclass(frozen=True)
class RateRange:
    """What a range test saw.

    Args:
        rates: learning rates, in ascending order.
        signals: by name, the mean at each rate: losses, ``kl``, ``return`` of the episodes that ended; NaN: none.
        limits: by name, the rate up to which a signal is good, of those signals that say something.
        suggestion: a rate to train with; None: nothing in the range did anything.
    """

    rates: tuple[float, ...]
    signals: Mapping[str, tuple[float, ...]]
    limits: Mapping[str, float]
    suggestion: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        signals = {name: list(values) for name, values in self.signals.items()}
        return {"rates": list(self.rates), "signals": signals, "limits": dict(self.limits)} | {
            "suggestion": self.suggestion
        }


def growing(low: float, high: float, points: int) -> Array:
    """Rates from ``low`` to ``high``, ``low (high / low) ** (k / (points - 1))``.

    Raises:
        ConfigError: unless ``0 < low < high``, for less than 10 points.
    """
    check_whole("find-lr: points", points, 10)
    if not 0 < low < high < math.inf:
        raise ConfigError(f"find-lr: expected 0 < low < high, got {low:g} and {high:g}")
    return np.geomspace(low, high, points)


def examined(rates: Sequence[float] | Array, signals: Mapping[str, Sequence[float] | Array]) -> RateRange:
    """What signals over growing rates say of a good rate.

    A loss is good up to where it is lowest, if it fell before and diverges after; a return up to where it is highest,
    if it rose; a policy's change in an update (``kl``) up to :data:`MOST_KL`. The suggestion is the lowest of a third
    of a loss's limit, a tenth of the return's and half of that of ``kl``, at which nothing breaks yet. On a quadratic
    of curvature ``L``, where gradient descent diverges above ``2 / L``, the limit of the loss is ``2 / L``.

    Args:
        rates: in ascending order.
        signals: a value at each rate, by name (``loss``, ``TEAM/value_loss``, ``kl``, ``return``); NaN: none.
    """
    limits: dict[str, float] = {}
    for name, values in signals.items():
        kind = name.rpartition("/")[2]
        row = np.asarray(values, float)
        if kind in LOSSES:
            found = _lowest(row)
        elif kind == KL:
            found = _above(row, MOST_KL)
        elif kind == RETURN:
            found = _highest(row)
        else:
            continue
        if found is not None:
            limits[name] = float(rates[found])
    below = {KL: BELOW_KL, RETURN: BELOW_RETURN}
    safe = [rate / below.get(name.rpartition("/")[2], BELOW) for name, rate in limits.items()]
    kept = {name: tuple(map(float, values)) for name, values in signals.items()}
    return RateRange(tuple(map(float, rates)), kept, limits, min(safe, default=None))


def _lowest(values: Array) -> int | None:
    """Where a loss is lowest, if it fell until there and diverges after that."""
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 3:
        return None
    logs = np.log(np.maximum(np.where(np.isfinite(values[known]), values[known], np.finfo(float).max), 1e-300))
    curve = smoothed(logs, max(1, len(values) // 20))
    at = int(np.argmin(curve))
    fell = curve[: at + 1].max() - curve[at] > math.log(FALLS)
    diverges = curve[at:].max() - curve[at] > math.log(RISES)
    return int(known[at]) if fell and diverges else None


def _highest(values: Array) -> int | None:
    """Where a return is highest, if that is more than it varies at the lowest rates."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 10:
        return None
    curve = smoothed(values[known], max(1, len(values) // 10))
    start = curve[: max(3, len(known) // 5)]
    at = int(np.argmax(curve))
    rose = curve[at] > start.mean() + DEVIATIONS * start.std() and at >= len(start)
    return int(known[at]) if rose else None


def _above(values: Array, most: float) -> int | None:
    """The last rate before a signal is above some value for the first time."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    curve = smoothed(values[known], max(1, len(values) // 20))
    over = np.flatnonzero(curve > most)
    return int(known[max(0, over[0] - 1)]) if len(over) else None


class GrowingRate(Callback):
    """Lets a learning rate grow from step to step, and takes in what updates and episodes say at each rate.

    Args:
        rates: one after the other, for equally many steps.
        steps: of the whole training.
        setting: which, as ``system.change`` names it.
    """

    def __init__(self, rates: Array, steps: int, setting: str = "learner.lr") -> None:
        """Nothing is seen yet."""
        self.rates, self.steps, self.setting = rates, steps, setting
        self.place, self.updates = -1, 0
        self.seen: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def on_start(self, training: Training) -> None:
        """Begin with the lowest rate. Raises ConfigError for a learner that has none."""
        training.value(self.setting)
        self._move(training)

    def on_step(self, training: Training) -> None:
        """Take the next rate if it is time."""
        self._move(training)

    def on_update_end(self, training: Training, team: str, metrics: Mapping[str, float]) -> None:
        """Take in what a learner says."""
        several = len(training.system.spec.teams) > 1
        self.updates += 1
        for name, value in metrics.items():
            if name == KL or name == "loss" or name.endswith("_loss"):
                self.seen[f"{team}/{name}" if several else name][self.place].append(value)

    def on_episode_end(self, training: Training, episode: Episode) -> None:
        """Take in a return."""
        self.seen[RETURN][self.place].append(float(sum(episode.returns.values())))

    def signals(self) -> dict[str, Array]:
        """The mean of each signal at each rate; NaN: none came."""
        found = {}
        for name, places in self.seen.items():
            found[name] = np.full(len(self.rates), np.nan)
            for place, values in places.items():
                found[name][place] = np.mean(values)
        return found

    def _move(self, training: Training) -> None:
        place = min(len(self.rates) - 1, training.steps * len(self.rates) // self.steps)
        if place != self.place:
            self.place = place
            training.change(self.setting, float(self.rates[place]))


def find_lr(
    system: Any,
    steps: int,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    points: int = 100,
    setting: str = "learner.lr",
) -> RateRange:
    """Train a system while its learning rate grows, and suggest one. The system is spoilt by that.

    Args:
        system: a fresh :class:`marl.MultiAgentSystem`.
        steps: environment steps of the test.
        low: the first rate.
        high: the last.
        points: how many rates.
        setting: which rate, ``TEAM.lr`` for one team's.

    Raises:
        ConfigError: for a learner without such a rate, and where it updates fewer than ten times.
    """
    check_whole("find-lr: steps", steps, 1)
    looks = GrowingRate(growing(low, high, points), steps, setting)
    try:
        system.train(steps=steps, callbacks=[looks])
    except NonFiniteError:  # the test has found where it breaks
        for name, values in looks.seen.items():
            if name.rpartition("/")[2] in LOSSES:
                values[looks.place].append(math.inf)
    if looks.updates < LEAST_UPDATES:
        raise ConfigError(
            f"find-lr: {looks.updates} updates in {steps:,} steps say nothing of {points} rates; give more --steps"
        )
    return examined(looks.rates, looks.signals())
