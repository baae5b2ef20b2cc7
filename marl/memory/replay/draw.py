"""Reading a replay: rows by their places, and one draw of sequences with the successors of their transitions.

A place is ``row * E + copy`` in the ring; below 0 it is a kept successor, see :mod:`marl.memory.replay.links`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marl.memory.replay.ends import Ends
from marl.memory.replay.links import walk
from marl.types import Array

WALKED = ("reward", "terminated", "truncated", "link", "acting")


class Stored:
    """The rows of a ring ``(R, E, N, ...)`` and the successors kept beside it, read by place."""

    def __init__(self, rows: Mapping[str, Array], ends: Ends) -> None:
        """``rows`` by name."""
        self.rows, self.ends = rows, ends
        self.size, self.copies, self.num_agents = rows["acting"].shape
        self.agents = np.arange(self.num_agents)
        self.cells = {name: rows[name].reshape(-1, self.num_agents) for name in WALKED}

    def whole(self, name: str, place: Array, over: bool = False) -> Array:
        """Rows of a whole team, ``(*, N, ...)``, at places ``(*)``; if some are ``over``, negative ones are of ends."""
        ring = self.rows[name]
        flat = ring.reshape(-1, *ring.shape[2:])
        if not over:
            return flat.take(place, axis=0)
        found, gone = flat.take(np.maximum(place, 0), axis=0), place < 0
        found[gone] = self.ends.arrays[name].numpy()[-2 - place[gone]]
        return found

    def own(self, name: str, place: Array, over: bool = False) -> Array:
        """Each agent's own cell, ``(K, N, ...)``, at places ``(K, N)``; negative places are kept successors."""
        ring = self.rows[name]
        found: Array = ring.reshape(-1, *ring.shape[3:]).take(
            np.maximum(place, 0) * self.num_agents + self.agents, axis=0
        )
        if over:
            row, agent = np.nonzero(place < 0)
            found[row, agent] = self.ends.arrays[name].numpy()[-2 - place[row, agent], agent]
        return found


class Cut:
    """One draw: ``B`` sequences of ``L`` rows that follow each other, and what came of every action in them.

    Attributes:
        own: whether each agent has a place of its own (``L`` 1 only).
        each: whether each agent has a successor of its own.
        where: places of the rows, ``(L * B,)``, or ``(L * B, N)`` if ``own``.
        cells: places of each agent's row, ``(L * B, N)``.
        reward: summed over ``n_step`` own turns, fewer at ends and at the newest row, ``(L * B, N)``.
        worth: what the successor's value is worth, ``(L * B, N)``.
        successor: where it is, ``(L * B, N)``.
        complete: whether what came of the action is known, ``(L * B, N)``.
        over: whether any successor is a kept end.
        after: places of the successors, ``(L * B, N)`` if ``each``, else ``(L * B,)``.
    """

    def __init__(
        self, stored: Stored, places: Array, length: int, n_step: int, discount: float, by_team: bool, ragged: bool
    ) -> None:
        """``places`` of the first rows: ``(B, 1)``, or ``(B, N)``."""
        self._stored = stored
        self.batch, self.length, self.own = len(places), length, places.shape[1] > 1
        if length > 1:
            row, copy = np.divmod(places[:, 0], stored.copies)
            self.where = ((row + np.arange(length)[:, None]) % stored.size * stored.copies + copy).reshape(-1)
        else:
            self.where = places if self.own else places[:, 0]
        agents = stored.num_agents
        self.cells = self.where if self.own else np.repeat(self.where, agents).reshape(-1, agents)
        self._follow(by_team, n_step, discount)
        self.each = self.own or (ragged and not by_team)  # by team, all agents have one successor
        self.after = self.successor if self.each else self.successor[:, 0]

    def _follow(self, by_team: bool, n_step: int, discount: float) -> None:
        """Rewards, successors and ends of the actions in ``cells``."""
        shape, cells = self.cells.shape, self._stored.cells
        self.reward, self.worth = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        self.successor, self.complete = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=bool)
        self.over = walk(
            self.cells,
            cells["reward"],
            cells["terminated"],
            cells["truncated"],
            cells["link"],
            cells["acting"],
            by_team,
            self._stored.copies,
            n_step,
            discount,
            self.reward,
            self.worth,
            self.successor,
            self.complete,
        )

    @property
    def goes_on(self) -> Array:
        """Transitions whose successor has a value, ``(L * B, N)``."""
        return self.complete & (self.worth > 0)

    def here(self, name: str) -> Array:
        """Stored values in the rows ``(L * B, N, ...)``."""
        return (self._stored.own if self.own else self._stored.whole)(name, self.where)

    def at_successors(self, name: str) -> Array:
        """Stored values at each agent's successor ``(L * B, N, ...)``."""
        return (self._stored.own if self.each else self._stored.whole)(name, self.after, self.over)

    def sequences(self, x: Array) -> Tensor:
        """Rows ``(L * B, ...)`` as sequences ``(L, B, ...)``."""
        return torch.from_numpy(x.reshape(self.length, self.batch, *x.shape[1:]))

    def starts(self, remembers: bool) -> tuple[Tensor, Tensor]:
        """Where episodes begin ``(L, B)``, and the carries before the first rows ``(B, N, H)``."""
        begins, where = self._stored.rows["started"].reshape(-1), self.where
        started = begins.take(where[:, 0] if self.own else where)
        if not remembers:
            empty = torch.zeros(self.batch, self._stored.num_agents, 0, dtype=torch.float32)
            return self.sequences(started), empty
        read = self._stored.own if self.own else self._stored.whole
        carry = read("carry", where[: self.batch])
        if self.own:  # every agent's row begins an episode or not: that is settled here
            carry[begins.take(where)] = 0
            started = np.zeros_like(started)
        return self.sequences(started), torch.from_numpy(carry)

    def acting_at_successors(self) -> Array:
        """Agents that act at the successor, ``(L * B, N)``; an agent's own successor is its own turn, if it has one."""
        if self.each and self._stored.num_agents > 1:
            return self.goes_on
        return self._stored.whole("acting", self.successor[:, 0], self.over)

    def ahead(self) -> Array:
        """Which row of its sequence each successor is, ``(L * B, N)``; -1: none of them."""
        if self.length == 1:
            return np.full(self.cells.shape, -1)
        first = np.tile(self.cells[: self.batch] // self._stored.copies, (self.length, 1))
        ahead = (self.successor // self._stored.copies - first) % self._stored.size
        time = np.repeat(np.arange(self.length), self.batch)[:, None]
        return np.where((self.successor < 0) | (ahead <= time) | (ahead >= self.length), -1, ahead)

    def for_others(self, head: int) -> tuple[Array, Array]:
        """The next row as other teams see it, ``(L * B,)``: where it shows who acts, and where what they do there.

        They have one next row for all our agents: where ours have several, that of the first who goes on. What is not
        known of it, since it is a kept end or the newest row, is as it was.
        """
        onward = self.after
        if self.each:
            onward = np.take_along_axis(onward, self.goes_on.argmax(1)[:, None], 1)[:, 0]
        known = (onward >= 0) & (onward // self._stored.copies != head)
        return onward, np.where(known, onward, self.where)
