"""Batches of one world side by side in the same arrays, which one compiled call moves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from marl.types import Array, Step

if TYPE_CHECKING:
    from marl_envs.batch import WorldBatch


class BesideOthers:
    """Several batches of one world whose copies step in one compiled call.

    The streams are those of each batch: every copy does what it would do in a call of its own.
    """

    def __init__(self, whole: WorldBatch, batches: Sequence[WorldBatch]) -> None:
        """``whole``: a new batch of as many copies as all have."""
        self.whole, self.batches = whole, batches
        self._starts = np.arange(len(batches) + 1) * batches[0].num_envs
        for batch, (start, stop) in zip(batches, itertools.pairwise(self._starts.tolist()), strict=True):
            batch.rest_in(whole, slice(start, stop))

    def step(self, actions: Sequence[Array]) -> tuple[Step, list[Step]]:
        """One step by the actions of all, ``(M E, N)`` for each team: the Step of all copies, and of each batch."""
        step, ended = self.whole.move(actions)
        cuts = np.searchsorted(ended[:, 0], self._starts).tolist()
        steps = []
        for which, batch in enumerate(self.batches):
            own = ended[cuts[which] : cuts[which + 1]]
            own[:, 0] -= self._starts[which]  # a copy's number among its own
            steps.append(batch.moved(own))
        return step, steps
