"""Rollouts of several learners in lockstep, side by side in one array, so that one operation serves all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.grid.credit import OwnOutcome, TeamOutcome
from marl.memory.rollout import Rollout
from marl.types import Step


class RolloutsBeside:
    """Rollouts of one shape as views of one whose copies are those of all, ``M E``.

    Each rollout goes on as before, in memory of its own that happens to lie there: what is written into the whole is
    written into each, and likewise the other way.
    """

    def __init__(self, whole: Rollout, rollouts: Sequence[Rollout]) -> None:
        """``whole``: an empty rollout of ``M E`` copies."""
        self.whole, self.rollouts, each = whole, rollouts, rollouts[0].num_envs
        self._starts = np.arange(len(rollouts) + 1) * each
        running = whole.outcome.state_dict()
        for which, rollout in enumerate(rollouts):
            own = slice(which * each, (which + 1) * each)
            rollout.rest_in(whole, own)
            for name, array in rollout.outcome.state_dict().items():  # what the two outcomes call so themselves
                running[name][own] = array
                setattr(rollout.outcome, name, running[name][own])

    @staticmethod
    def fits(rollout: Rollout) -> bool:
        """Whether a rollout can lie beside others."""
        return rollout.device.type == "cpu" and type(rollout.outcome) in (OwnOutcome, TeamOutcome)

    @property
    def aligned(self) -> bool:
        """Whether all are at the same row."""
        first = self.rollouts[0].time
        return all(rollout.time == first for rollout in self.rollouts)

    def current(self) -> Rollout:
        """The whole at the row to act on, where all are :attr:`aligned`."""
        if self.whole.time != self.rollouts[0].time:
            self.whole.go_to(self.rollouts[0].time)
        return self.whole

    def observe(self, step: Step) -> None:
        """As of each, with a step of the copies of all, where all are :attr:`aligned`."""
        whole = self.current()
        whole.observe(step)
        if whole.final_rows:
            self._share_successors()
            whole.go_to(whole.time)
        for rollout in self.rollouts:
            rollout.time = whole.time

    def _share_successors(self) -> None:
        """Give each rollout its own of the true successors that this row has added."""
        ((time, copies),) = self.whole.final_rows
        cuts = np.searchsorted(copies, self._starts).tolist()
        for which, rollout in enumerate(self.rollouts):
            own = slice(cuts[which], cuts[which + 1])
            if own.start < own.stop:
                rollout.final_rows.append((time, copies[own] - self._starts[which]))
                for mine, found in zip(rollout.successors, self.whole.successors, strict=True):
                    mine += [rows[own] for rows in found]
