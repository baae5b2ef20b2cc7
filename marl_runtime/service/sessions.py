"""Sessions: each is one episode of the agent, with a recurrent state of its own, and ends when nobody uses it."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from marl_runtime.agent import Agent
from marl_runtime.service.limits import Limits
from marl_runtime.service.refusals import Full, Unknown


class Session:
    """One episode: the agent's twin that plays it, and in which game of the team (None: it talks to no other host)."""

    def __init__(self, name: str, agent: Agent, game: int | None) -> None:
        """``name``: by which requests call it."""
        self.name, self.agent, self.game = name, agent, game
        self.step = 0
        self.sent, self.spoke_at = 0, -1  # messages, and the step of the newest
        self.acting = False
        self.used = 0.0


class Sessions:
    """At most so many sessions, in the order of their last use; ``expired`` counts those that nobody ended."""

    def __init__(self, agent: Agent, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds."""
        self.agent, self.limits, self._clock = agent, limits, clock
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._reserved = 0
        self.expired = 0

    def __len__(self) -> int:
        """Sessions that are open, each copy of a WebSocket of frames counted as one."""
        return len(self._open) + self._reserved

    def reserve(self, count: int) -> None:
        """Make room for the copies of a WebSocket. Raises Full."""
        if len(self) + count > self.limits.sessions:
            raise Full(f"{len(self):,} of {self.limits.sessions:,} sessions are open, and {count} more asked for")
        self._reserved += count

    def release(self, count: int) -> None:
        """Give the room back."""
        self._reserved -= count

    def open(self, seed: int | None = None, side_seed: int | None = None, game: int | None = None) -> Session:
        """Begin an episode. Raises Full."""
        if len(self) >= self.limits.sessions:
            raise Full(f"{self.limits.sessions:,} sessions are open; close some, or wait until they expire")
        session = Session(secrets.token_urlsafe(16), self.agent.twin(seed, side_seed), game)
        session.used = self._clock()
        self._open[session.name] = session
        return session

    def get(self, name: str) -> Session:
        """A session by its name, used just now. Raises Unknown."""
        session = self._open.get(name)
        if session is None:
            raise Unknown("there is no such session, or it has expired: begin one with /reset")
        session.used = self._clock()
        self._open.move_to_end(name)
        return session

    def close(self, session: Session) -> None:
        """End a session; nothing happens if it has ended."""
        self._open.pop(session.name, None)

    def expire(self) -> list[Session]:
        """End those that nobody has used for long; returns them."""
        ended = []
        limit = self._clock() - self.limits.idle
        while self._open:
            session = next(iter(self._open.values()))
            if session.used > limit:
                break
            if session.acting:
                self.get(session.name)
                continue
            self.close(session)
            ended.append(session)
        self.expired += len(ended)
        return ended
