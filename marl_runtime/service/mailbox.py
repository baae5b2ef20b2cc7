"""Messages of one game as they arrive from other hosts, each for a step and a round. What comes late is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from marl_runtime.program import Array

AHEAD = 8  # steps that the messages of others may be ahead of ours
Place = tuple[int, int]  # step and round


class Mailbox:
    """What others said; ``late`` counts messages that were not there when their turn came, or came from far ahead."""

    def __init__(self, speakers: Sequence[str], delay: int) -> None:
        """``speakers``: whom the agent can hear from other hosts; ``delay``: steps that a message takes."""
        self._speakers, self._ahead = frozenset(speakers), AHEAD + delay
        self._next: Place = (0, 0)
        self._held: dict[Place, dict[str, Array | None]] = {}
        self._left: set[str] = set()
        self._arrived = asyncio.Event()

    def put(self, speaker: str, place: Place, message: Array | None) -> bool:
        """Keep a message, None if its speaker was silent; False if it is late or from too far ahead."""
        if place < self._next or place[0] > self._next[0] + self._ahead or speaker not in self._speakers:
            return False
        self._held.setdefault(place, {})[speaker] = message
        self._arrived.set()
        return True

    def leave(self, speaker: str) -> None:
        """Wait no more for a speaker, whose episode is over."""
        self._left.add(speaker)
        self._arrived.set()

    async def take(self, place: Place, seconds: float) -> tuple[dict[str, Array | None], int]:
        """The messages for one step and round, by speaker, and how many are lost: those that are not here in time."""
        deadline = time.monotonic() + seconds
        while missing := self._speakers - self._left - self._held.get(place, {}).keys():
            self._arrived.clear()
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    await self._arrived.wait()
            except TimeoutError:
                break
        found = self._held.get(place, {})
        self._next = (place[0], place[1] + 1)
        self._held = {later: kept for later, kept in self._held.items() if later > place}
        return found, len(missing)
