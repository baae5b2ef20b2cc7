"""Several learners, each with copies of its own, that learn as one: the seam where they add up what they saw.

Gradients, normalizers, moments of advantages, KL stops and the explained variance are means over rows. Each learner
computes its sums, :class:`Reduce` adds those of all learners, and every learner goes on with the same numbers as one
learner with all copies would have, to rounding. A learner alone, the default, adds nothing and computes nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor


class Reduce(Protocol):
    """Adds up tensors over learners, which all ask for the same at the same point of their updates."""

    @property
    def alone(self) -> bool:
        """Whether there is one learner only: then nothing is asked for."""
        ...

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all learners, in place."""
        ...

    def max(self, *tensors: Tensor) -> None:
        """Replace each tensor by the largest of all learners, entry by entry, in place."""
        ...


class Alone:
    """One learner."""

    alone = True

    def sum(self, *tensors: Tensor) -> None:
        """The sum of one is itself."""

    def max(self, *tensors: Tensor) -> None:
        """And so is the largest."""


ALONE: Reduce = Alone()
_current: Reduce = ALONE


def current() -> Reduce:
    """What the learners that are made now will add up with."""
    return _current


class use:
    """Learners that are made from now on, or within a ``with`` statement, add up with ``reduce``."""

    def __init__(self, reduce: Reduce) -> None:
        """Takes effect at once; learners that exist keep what they were made with."""
        global _current
        self._before, _current = _current, reduce

    def __enter__(self) -> None:
        """What was said holds until the end of the statement."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Back to what was said before."""
        global _current
        _current = self._before


@torch.no_grad()
def weighted_mean(reduce: Reduce, rows: Tensor, *means: Tensor, sums: Sequence[Tensor] = ()) -> None:
    """Replace means over each learner's own rows by means over the rows of all learners, in place.

    Args:
        reduce: what adds up.
        rows: (P,) or () how many rows this learner's means are of; stays as it is.
        means: (P, ...) each, a mean for every parameter set.
        sums: tensors that are replaced by their sums, in the same message.
    """
    if reduce.alone:
        return
    total = rows.to(torch.float32, copy=True)
    for mean in means:
        mean.mul_(_beside(rows, mean))
    reduce.sum(total, *means, *sums)
    for mean in means:
        mean.div_(_beside(total.clamp(min=1), mean))


def _beside(rows: Tensor, mean: Tensor) -> Tensor:
    """Rows with as many axes as a mean."""
    return rows if rows.dim() == 0 else rows.view(-1, *[1] * (mean.dim() - 1))
