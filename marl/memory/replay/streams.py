"""Several collectors of copies of their own write into one ring in turns, one fragment of rows after the other.

A stream is what one of them sends. Its newest row waits in the ring, without an action, until its next fragment goes on
there: the link of that row then leads over the rows that others have written meanwhile, so transitions and n-step sums
run across fragments. A stream that does not go on (its collector is lost, or a fragment of it was thrown away) ends in
that row, whose value its last transitions bootstrap from.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.memory.replay.draw import PENDING
from marl.types import Array, Step


@dataclass
class Stream:
    """Where a stream stands while others write: the row to act on, running turns, episodes, rewards that wait."""

    head: int
    last: Array
    episode: Array
    outcome: Any


class Streams:
    """The streams of a ring, of which one writes at a time."""

    def __init__(self, replay: Any) -> None:
        """``replay``: the ring; what it holds already belongs to streams that do not go on."""
        self._replay = replay
        self._now: tuple[Hashable, int] | None = None  # who writes, and the number of its fragment
        self._away: dict[Hashable, tuple[int, Stream]] = {}  # the others, with the numbers of their last ones
        self._broken = np.zeros(replay.rows, dtype=bool)  # rows that the next one does not go on from
        self._waiting = np.zeros(replay.rows, dtype=bool)  # rows in which nobody has acted yet, or ever will

    @property
    def heads(self) -> list[int]:
        """Rows of which it is not known what was done there."""
        return [self._replay.head, *np.flatnonzero(self._waiting).tolist()]

    def turn_to(self, whose: Hashable, number: int, step: Step, carry: Tensor, rows: int) -> None:
        """The next ``rows`` rows are fragment ``number`` of a stream, which begins with a step and the policy's carry.

        It goes on where fragment ``number - 1`` of the same stream ended, if that was the last one; else it begins.
        """
        replay = self._replay
        if self._now != (whose, number - 1):
            self._leave()
            known = self._away.pop(whose, None)
            if known is not None and known[0] == number - 1:
                self._go_on(known[1])
            else:
                self._begin(step, carry)
        self._now = whose, number
        written = (replay.newest + 1 + np.arange(min(rows, replay.rows - 1))) % replay.rows
        self._broken[written] = self._waiting[written] = False
        self._forget(rows)

    @property
    def _begun(self) -> bool:
        """Whether anything was ever seen."""
        return bool(self._replay.size or (self._replay._last >= 0).any())

    def begin(self, step: Step) -> None:
        """Begin a stream with a step, whatever is in the ring."""
        self._leave()
        self._begin(step, None)

    def chance(self, tries: int, length: int, generator: torch.Generator) -> tuple[Array, Array]:
        """First rows ``(tries,)`` of sequences that lie within one stream, and copies, drawn uniformly."""
        replay = self._replay
        order = (replay.newest - replay.size + np.arange(replay.size)) % replay.rows
        breaks = np.cumsum(np.concatenate([[0], self._broken[order]]))  # before each row
        first = np.flatnonzero(breaks[length - 1 : -1] == breaks[: replay.size - length + 1])
        chance = torch.randint(len(first) * replay.num_envs, (tries,), generator=generator)
        row, copy = np.divmod(chance.numpy(), replay.num_envs)
        return order[first[row]], copy

    def state_dict(self) -> dict[str, Any]:
        """Where streams break off; none of them goes on once it is loaded."""
        return {"broken": self._broken, "waiting": self._waiting}

    @staticmethod
    def restored(replay: Any, state: Mapping[str, Any] | None) -> Streams | None:
        """Those of a saved ring; None: one collector wrote it."""
        if state is None:
            return None
        streams = Streams(replay)
        streams._broken[...], streams._waiting[...] = state["broken"], state["waiting"]
        return streams

    def _leave(self) -> None:
        """Others write from here on."""
        replay, head = self._replay, self._replay.head
        if not self._begun:
            return
        if not replay.ragged:
            replay._part()
            for name in ("reward", "terminated", "truncated"):  # from now on added to
                replay._rows[name][head] = 0
        self._broken[[head, replay.newest]] = True
        self._waiting[head] = True
        if replay._since is not None:  # goals are taken from what is known of the episode here
            for copy, length in enumerate(np.minimum(replay._episode, replay.rows - 1).tolist()):
                replay._rows["_final"][(head - np.arange(length + 1)) % replay.rows, copy] = head
        if self._now is not None:
            whose, number = self._now
            self._away[whose] = number, Stream(head, replay._last, replay._episode, replay.outcome)

    def _go_on(self, stream: Stream) -> None:
        replay = self._replay
        replay.head, replay._last, replay.outcome = stream.head, stream.last, stream.outcome
        replay._episode = stream.episode
        replay._episode[...] = -1  # the rows of the episode that the head follows are counted as done with
        self._waiting[stream.head] = False

    def _begin(self, step: Step, carry: Tensor | None) -> None:
        replay = self._replay
        if self._begun:
            replay.head = replay.newest = (replay.newest + 1) % replay.rows
            replay.size = min(replay.size + 1, replay.rows - 1)
            self._broken[replay.head] = self._waiting[replay.head] = False
            replay._rows["_final"][replay.head] = -1
            if replay.priorities is not None:
                replay.priorities.remove(replay.head * replay.num_envs + np.arange(replay.num_envs))
        replay._last = np.full_like(replay._last, PENDING)
        replay._episode = np.zeros_like(replay._episode)
        replay.outcome = replay.credit.outcome(replay.num_envs, replay.team.num_agents)
        if carry is not None:
            replay._rows["carry"][replay.head] = carry.numpy()
        replay._see(step)

    def _forget(self, rows: int) -> None:
        """Streams and running turns whose rows are about to be overwritten go on no more."""
        replay = self._replay

        def kept(places: Array) -> Array:
            found: Array = (replay.newest - places) % replay.rows + rows + 1 < replay.rows  # and one to begin in
            return found

        self._away = {whose: one for whose, one in self._away.items() if kept(np.array(one[1].head))}
        for _, stream in self._away.values():
            stream.last[~kept(stream.last)] = -1
