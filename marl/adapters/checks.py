"""Looks at what copies in this process wrote into the arrays of a step: is it finite, and within the spaces' bounds?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from marl.adapters.arrays import StepArrays
from marl.adapters.faults import Ledger
from marl.adapters.rows import ContractViolation
from marl.spaces import vector_bounds
from marl.types import Array, Spec

# After a copy's first steps, in which observations are fully checked, the bounds of all copies are looked at now and
# then: at distances that grow to 64 steps and then vary from 64 to 127, so that no length of episodes hides a step.
# Every fourth time the next step is fully checked. Of each copy's actions that end somebody's episode, so many are
# passed over before the successor of one is looked at. All that takes less than 0.5 % of the cheapest step.
LONGEST_GAP, FULL_CHECKS = 64, 4
Breached = Callable[[int, ContractViolation], None]  # told which copy broke its contract, and how


@dataclass
class Gaps:
    """How many steps to let pass before the next look: more and more, and then irregularly many."""

    gap: int = 1
    number: int = 0
    left: int = 1

    def renew(self) -> None:
        """A look has been taken."""
        self.number += 1
        if self.gap < LONGEST_GAP:
            self.gap += self.gap // 4 + 1
            self.left = self.gap
        else:  # n (2 n + 21) takes every value modulo 64 once in 64
            self.left = LONGEST_GAP + self.number * (2 * self.number + 21) % LONGEST_GAP


class Checks:
    """What is looked at in every step, and what now and then."""

    def __init__(self, spec: Spec, arrays: StepArrays, on_bad_obs: str, ledger: Ledger) -> None:
        """``on_bad_obs``: see `marl.adapters.copies.LocalBatch`."""
        self._env, self._step, self._rows = spec.env, arrays.step, arrays.rows
        self._ledger = ledger
        names: dict[str, None] = {}
        for rows in self._rows:
            rows.mends = {"cast": ("cast",), "clip": ("cast", "clip")}.get(on_bad_obs, ())
            rows.tell, rows.names = ledger.first, names
        floats = [team.obs for team in arrays.step.teams if team.obs.dtype == np.float32]
        floats += [] if arrays.step.state is None else [arrays.step.state]
        self._finite = [(array.reshape(-1), np.zeros(array.size, dtype=np.float32)) for array in floats]
        bounds = [None if team.obs.is_image else vector_bounds(team) for team in spec.teams]
        bounds = [both if both is not None and np.isfinite(both).any() else None for both in bounds]
        self._clips: list[tuple[Array, Array, Array]] = []
        if on_bad_obs == "clip":  # then there is nothing left to be found
            for k, both in enumerate(bounds):
                if both is not None:
                    self._clips += [(step.teams[k].obs, *both) for step in (arrays.step, arrays.spare)]
            bounds = [None] * len(bounds)
        self._bounds = bounds
        self.looks, self.ends = Gaps(), [Gaps() for _ in self._rows]

    def successor(self, e: int) -> None:
        """The true successor of a step in which somebody's episode ended in copy ``e``. Raises ContractViolation."""
        rows, ends = self._rows[e], self.ends[e]
        violation = rows.non_finite(successor=True)
        ends.left -= 1
        if violation is None and ends.left <= 0:
            ends.renew()
            violation = rows.outside(self._bounds, successor=True)
        if violation is not None:
            raise violation

    def written(self, breached: Breached, look: bool = False) -> None:
        """What all copies wrote in a step; ``look``: whether it is time to look at bounds in any case."""
        self.mend()
        self._refuse_non_finite(breached)
        if not look:
            self.looks.left -= 1
        if look or self.looks.left <= 0:
            self._look(breached)

    def mend(self) -> None:
        """With ``on_bad_obs="clip"``, bring observations and successors back into their spaces."""
        for array, low, high in self._clips:
            if ((array < low) | (array > high)).any():
                self._ledger.note("clip", f"{self._env}: observations outside their bounds are clipped to them")
                np.clip(array, low, high, out=array)

    def _refuse_non_finite(self, breached: Breached) -> None:
        """Find NaN and infinity in what was written: a product with zeros is zero unless there is one."""
        with np.errstate(invalid="ignore"):
            if all(array.dot(zeros) == 0.0 for array, zeros in self._finite):
                return
        for e, rows in enumerate(self._rows):
            violation = rows.non_finite(successor=False)
            while violation is not None:  # what replaces a dropped episode may be no better
                breached(e, violation)
                violation = rows.non_finite(successor=False)

    def _look(self, breached: Breached) -> None:
        """Find observations outside their bounds, and now and then have the next step fully checked."""
        self.looks.renew()
        if self.looks.number % FULL_CHECKS == 0:
            for rows in self._rows:
                rows.check_next()
        if not any(
            ((team.obs < both[0]) | (team.obs > both[1])).any()
            for team, both in zip(self._step.teams, self._bounds, strict=True)
            if both is not None
        ):
            return
        for e, rows in enumerate(self._rows):
            violation = rows.outside(self._bounds, successor=False)
            while violation is not None:
                breached(e, violation)
                violation = rows.non_finite(successor=False) or rows.outside(self._bounds, successor=False)
