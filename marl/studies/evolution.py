"""Population-based training (Jaderberg et al. 2017) of anything that has a fitness, a state and settings.

A step of it says for each member whose state it goes on with, and with which settings. Copying is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from marl.config import check_whole
from marl.studies.spaces import Choice, IntUniform, Space
from marl.types import ConfigError

Settings = Mapping[str, Any]


@runtime_checkable
class Exploit(Protocol):
    """Who copies whom."""

    def parents(self, fitness: Sequence[float], rng: np.random.Generator) -> list[int]:
        """The member that each member goes on from; itself: it is not replaced."""
        ...


@runtime_checkable
class Explore(Protocol):
    """How a copy's settings differ from those of the member that it was copied from."""

    def vary(self, value: Any, space: Space, rng: np.random.Generator) -> Any:
        """Another value of a setting, within its space."""
        ...


@dataclass(frozen=True)
class Truncation:
    """The worst members copy one of the best each, drawn at random (Jaderberg et al. 2017, section 3).

    Args:
        share: of the members, at either end; one of them at least, half of them at most.

    Raises:
        ConfigError: for a share outside of (0, 0.5].
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        """Check the share."""
        if not (isinstance(self.share, int | float) and 0 < self.share <= 0.5):
            raise ConfigError(f"Truncation.share: expected a number above 0 and at most 0.5, got {self.share!r}")

    def parents(self, fitness: Sequence[float], rng: np.random.Generator) -> list[int]:
        """The member that each goes on from. Who is no worse than the one it would copy stays."""
        count = min(max(1, round(self.share * len(fitness))), len(fitness) // 2)
        order = sorted(range(len(fitness)), key=lambda member: -fitness[member])  # the earlier one first among equals
        best, worst = order[:count], order[len(order) - count :]
        found = list(range(len(fitness)))
        for member in worst:
            parent = best[int(rng.integers(count))]
            if fitness[parent] > fitness[member]:
                found[member] = parent
        return found


@dataclass(frozen=True)
class BinaryTournament:
    """Each member meets another one, drawn at random, and copies it if that is better (Jaderberg et al. 2017)."""

    def parents(self, fitness: Sequence[float], rng: np.random.Generator) -> list[int]:
        """The member that each goes on from."""
        found = []
        for member, own in enumerate(fitness):
            other = int(rng.integers(len(fitness) - 1))
            other += other >= member  # nobody meets itself
            found.append(other if fitness[other] > own else member)
        return found


@dataclass(frozen=True)
class Perturb:
    """Numbers are multiplied by one of some factors; now and then a value is drawn anew from its space.

    A number that leaves its space takes its end; a whole one is rounded. A :class:`~marl.Choice` has no order,
    so it changes only where it is drawn anew.

    Args:
        factors: equally likely.
        resample: the chance of a new draw instead.

    Raises:
        ConfigError: for no factors, negative ones, or a chance outside of [0, 1].
    """

    factors: tuple[float, ...] = (0.8, 1.2)
    resample: float = 0.25

    def __post_init__(self) -> None:
        """Check the numbers."""
        wrong = [one for one in self.factors if not (isinstance(one, int | float) and 0 < one < math.inf)]
        if wrong or not self.factors:
            raise ConfigError(f"Perturb.factors: expected numbers above 0, got {self.factors!r:.80}")
        if not (isinstance(self.resample, int | float) and 0 <= self.resample <= 1):
            raise ConfigError(f"Perturb.resample: expected a chance from 0 to 1, got {self.resample!r:.80}")

    def vary(self, value: Any, space: Space, rng: np.random.Generator) -> Any:
        """Another value."""
        anew, factor = rng.random() < self.resample, self.factors[int(rng.integers(len(self.factors)))]
        if anew:
            return space.sample(rng)
        return within(space, value if isinstance(space, Choice) else value * factor)


@dataclass(frozen=True)
class AddNoise:
    """Numbers are moved by normal noise, ``v + N(0, deviation^2)``, and stay in their space; for those that may be 0.

    Args:
        deviation: of the noise.

    Raises:
        ConfigError: for a deviation that is not above 0.
    """

    deviation: float

    def __post_init__(self) -> None:
        """Check the number."""
        if not (isinstance(self.deviation, int | float) and 0 < self.deviation < math.inf):
            raise ConfigError(f"AddNoise.deviation: expected a number above 0, got {self.deviation!r:.80}")

    def vary(self, value: Any, space: Space, rng: np.random.Generator) -> Any:
        """Another value."""
        moved = rng.normal(0.0, self.deviation)
        return value if isinstance(space, Choice) else within(space, value + moved)


def within(space: Space, value: Any) -> Any:
    """The value of a space that is nearest to a number; values of a space without ends are its own."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        return value
    nearest = min(max(value, low), high)
    return round(nearest) if isinstance(space, IntUniform) else float(nearest)


@dataclass(frozen=True)
class Succession:
    """With whose state and with which settings a member goes on.

    Args:
        parent: whose state it takes; its own number: it goes on as it is.
        settings: with which settings.
    """

    parent: int
    settings: Settings


def evolve(
    fitness: Sequence[float | None],
    settings: Sequence[Settings],
    spaces: Mapping[str, Space],
    exploit: Exploit | None,
    explore: Explore | None,
    rng: np.random.Generator,
    *,
    explore_all: bool = False,
) -> list[Succession]:
    """One step of population-based training: who copies whom, and what the copies vary.

    Everybody's state is meant as it was before the step, also where a member that is copied copies another one.

    Args:
        fitness: of every member, the larger the better; None: it has none, since it diverged, and any other is better.
        settings: of every member.
        spaces: of the settings that copies vary.
        exploit: who copies whom; None: nobody does.
        explore: how copies vary their settings; None: they take those of their parent.
        rng: for everything that is drawn.
        explore_all: members that go on as they are vary their settings too.

    Raises:
        ConfigError: for less than two members, unless nobody copies.
    """
    known = [-math.inf if one is None or math.isnan(one) else float(one) for one in fitness]
    parents, best = list(range(len(known))), max(range(len(known)), key=known.__getitem__)
    if exploit is not None:
        check_whole("population: members", len(fitness), 2)
        # What diverged has nothing to go on with.
        parents = [best if known[one] == -math.inf < known[best] else one for one in exploit.parents(known, rng)]
    found = []
    for member, parent in enumerate(parents):
        kept = settings[parent]
        if explore is not None and (parent != member or explore_all):
            kept = dict(kept) | {name: explore.vary(kept[name], space, rng) for name, space in spaces.items()}
        found.append(Succession(parent, kept))
    return found
