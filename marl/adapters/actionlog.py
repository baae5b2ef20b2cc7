"""The actions taken since each copy was last seeded: what brings a third-party environment back to where it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.types import Array, Spec


class ActionLog:
    """Actions of all copies in one growing array per team, with the step at which each copy was last seeded.

    Appending is one assignment per team, whatever the number of copies. What no copy needs any more is dropped when the
    arrays are full; they double only when some copy needs more than half of them.
    """

    def __init__(self, spec: Spec, num_envs: int, capacity: int = 256) -> None:
        """``capacity``: steps before the arrays are full for the first time."""
        self._arrays: list[Array] = []
        for team in spec.teams:
            action = team.action
            dtype = np.float32 if action.kind == "box" else np.min_scalar_type(max(action.sizes, default=1))
            self._arrays.append(np.zeros((capacity, num_envs, team.num_agents, *action.shape), dtype=dtype))
        self._length = 0
        self._starts = [0] * num_envs

    def append(self, actions: Sequence[Array]) -> None:
        """Remember one step."""
        if self._length == len(self._arrays[0]):
            self._make_room()
        for array, action in zip(self._arrays, actions, strict=True):
            array[self._length] = action
        self._length += 1

    def restart(self, copy: int) -> None:
        """The copy has been seeded: nothing before this needs to be remembered."""
        self._starts[copy] = self._length

    def since_seeding(self, copy: int) -> int:
        """How many steps the copy has taken since."""
        return self._length - self._starts[copy]

    def actions(self, copy: int) -> list[Array]:
        """The copy's actions since, per team ``(T, N[, A])``."""
        return [array[self._starts[copy] : self._length, copy].copy() for array in self._arrays]

    def load(self, logs: Sequence[Sequence[Array]]) -> None:
        """Take over logs of all copies, as `actions` gave them: they are laid so that all of them end now."""
        lengths = [len(log[0]) for log in logs]
        self._length = max(lengths, default=0)
        capacity = max(len(self._arrays[0]), 2 * self._length)
        self._arrays = [np.zeros((capacity, *array.shape[1:]), dtype=array.dtype) for array in self._arrays]
        self._starts = [self._length - length for length in lengths]
        for copy, log in enumerate(logs):
            for array, actions in zip(self._arrays, log, strict=True):
                array[self._starts[copy] : self._length, copy] = actions

    def _make_room(self) -> None:
        first = min(self._starts)
        kept, capacity = self._length - first, len(self._arrays[0])
        grown = capacity if kept <= capacity // 2 else 2 * capacity
        for k, array in enumerate(self._arrays):
            fresh = array if grown == capacity else np.zeros((grown, *array.shape[1:]), dtype=array.dtype)
            fresh[:kept] = array[first : self._length].copy()
            self._arrays[k] = fresh
        self._length = kept
        self._starts = [start - first for start in self._starts]
