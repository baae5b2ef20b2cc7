"""The actions taken since each copy was last seeded: what brings a third-party environment back to where it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.types import Array, Spec

LARGEST_LOG = 65_536  # steps in the arrays: of an episode that never ends, half of that can be repeated


class ActionLog:
    """Actions of all copies in one growing array per team, with the step at which each copy was last seeded.

    Appending is one assignment per team, whatever the number of copies. What no copy needs any more is dropped when the
    arrays are full; they double only when some copy needs more than half of them, and never beyond ``largest``: then a
    copy that needs more than half is forgotten until it is seeded again. It cannot be brought back.
    """

    def __init__(self, spec: Spec, num_envs: int, capacity: int = 256, largest: int = LARGEST_LOG) -> None:
        """``capacity``: steps before the arrays are full for the first time."""
        self._arrays: list[Array] = []
        for team in spec.teams:
            action = team.action
            dtype = np.float32 if action.kind == "box" else np.min_scalar_type(max(action.sizes, default=1))
            self._arrays.append(np.zeros((capacity, num_envs, team.num_agents, *action.shape), dtype=dtype))
        self._length = 0
        self._starts = [0] * num_envs
        self._forgotten = [0] * num_envs  # steps since the seed that are not in the arrays any more
        self._largest = largest

    def append(self, actions: Sequence[Array]) -> None:
        """Remember one step."""
        if self._length == len(self._arrays[0]):
            self._make_room()
        for array, action in zip(self._arrays, actions, strict=True):
            array[self._length] = action
        self._length += 1

    def restart(self, copy: int) -> None:
        """The copy has been seeded: nothing before this needs to be remembered."""
        self._starts[copy], self._forgotten[copy] = self._length, 0

    def since_seeding(self, copy: int) -> int:
        """How many steps the copy has taken since."""
        return self._forgotten[copy] + self._length - self._starts[copy]

    def forgotten(self, copy: int) -> bool:
        """Whether these are too many to be kept."""
        return self._forgotten[copy] > 0

    def actions(self, copy: int) -> list[Array]:
        """The copy's actions since, per team ``(T, N[, A])``; none if they are forgotten."""
        if self._forgotten[copy]:
            return [array[:0, copy].copy() for array in self._arrays]
        return [array[self._starts[copy] : self._length, copy].copy() for array in self._arrays]

    def load(self, logs: Sequence[Sequence[Array]]) -> None:
        """Take over logs of all copies, as `actions` gave them: they are laid so that all of them end now."""
        lengths = [len(log[0]) for log in logs]
        self._length = max(lengths, default=0)
        capacity = max(len(self._arrays[0]), self._length, min(2 * self._length, self._largest))
        self._arrays = [np.zeros((capacity, *array.shape[1:]), dtype=array.dtype) for array in self._arrays]
        self._starts = [self._length - length for length in lengths]
        self._forgotten = [0] * len(lengths)
        for copy, log in enumerate(logs):
            for array, actions in zip(self._arrays, log, strict=True):
                array[self._starts[copy] : self._length, copy] = actions

    def _make_room(self) -> None:
        capacity = len(self._arrays[0])
        if capacity >= self._largest:
            for copy, start in enumerate(self._starts):
                if self._length - start > capacity // 2:
                    self._forgotten[copy] += self._length - start
                    self._starts[copy] = self._length
        first = min(self._starts)
        kept = self._length - first
        grown = capacity if kept <= capacity // 2 else min(2 * capacity, max(self._largest, capacity))
        for k, array in enumerate(self._arrays):
            fresh = array if grown == capacity else np.zeros((grown, *array.shape[1:]), dtype=array.dtype)
            fresh[:kept] = array[first : self._length].copy()
            self._arrays[k] = fresh
        self._length = kept
        self._starts = [start - first for start in self._starts]
