"""True successors of ended episodes, beside the ring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from marl.spaces import base_action_mask
from marl.types import Array, TeamSpec, TeamStep


class Ends:
    """True successors of ended episodes, a queue that grows where it must: oldest rows leave first."""

    def __init__(self, rings: Mapping[str, Tensor]) -> None:
        """``rings (R, E, ...)``: what is kept of each, by name."""
        self._rings = rings
        self.per_row = np.zeros(len(rings["obs"]), dtype=np.int64)  # how many belong to each row of the ring
        self.first = self.count = 0
        self._allocate(64)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self.arrays = {name: ring.new_zeros(capacity, *ring.shape[2:]) for name, ring in self._rings.items()}

    def add(self, row: int, link: Tensor, shown: Mapping[str, Array]) -> Array:
        """Store some successors of one row, ``(K, ...)`` by name; their slots."""
        new = len(shown["obs"])
        while self.count + new > self.capacity:
            self._grow(link)
        slots: Array = (self.first + self.count + np.arange(new)) % self.capacity
        for name, array in self.arrays.items():
            array.numpy()[slots] = shown[name]
        self.count += new
        self.per_row[row] += new
        return slots

    def release(self, row: int) -> None:
        """The row is about to be overwritten: so are its successors."""
        gone = int(self.per_row[row])
        self.first = (self.first + gone) % self.capacity
        self.count -= gone
        self.per_row[row] = 0

    def _grow(self, link: Tensor) -> None:
        """Twice the room; what had wrapped round moves behind the rest, and the links to it with it."""
        old, capacity = self.arrays, self.capacity
        wrapped = max(0, self.first + self.count - capacity)
        self._allocate(2 * capacity)
        for name, tensor in self.arrays.items():
            tensor[:capacity] = old[name]
            tensor[capacity : capacity + wrapped] = old[name][:wrapped]
        moved = (link <= -2) & (link > -2 - wrapped)
        link[moved] -= capacity

    def state_dict(self) -> dict[str, Any]:
        """The kept successors and the position of the queue."""
        return {
            "arrays": self.arrays,
            "per_row": self.per_row,
            "first": self.first,
            "count": self.count,
            "capacity": self.capacity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self._allocate(int(state["capacity"]))
        for name, tensor in self.arrays.items():
            tensor.copy_(state["arrays"][name])
        self.per_row[...] = state["per_row"]
        self.first, self.count = int(state["first"]), int(state["count"])


def action_mask_at_successor(spec: TeamSpec, team: TeamStep) -> Array:
    """The action mask at the successor; where it is not known, all valid choices."""
    if team.next_action_mask is not None:
        return team.next_action_mask
    action_mask = base_action_mask(spec.action, spec.action_spaces)
    return np.broadcast_to(action_mask, (len(team.acting), *action_mask.shape))
