"""The other agents of a team on hosts of their own: messages go from service to service.

Agents of one game take their steps side by side. What one says at a step is sent at once to whoever can hear it, with
the game, the step and the round; the listener waits for it at most until its deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from marl_runtime.agent import Agent
from marl_runtime.bundle import BundleError
from marl_runtime.program import Array
from marl_runtime.service.guard import bearer, is_loopback
from marl_runtime.service.limits import Limits
from marl_runtime.service.links import SenderLimits
from marl_runtime.service.mailbox import Mailbox
from marl_runtime.service.metrics import Metrics
from marl_runtime.service.refusals import Busy, Unfit
from marl_runtime.service.sessions import Session
from marl_runtime.team import Team
from marl_runtime.wire import Field, Kind, packed, unpacked

QUEUE = 64  # messages that wait for a listener who is not there
LONGEST_PAUSE = 2.0  # seconds between tries to reach a listener
LEAVES = -1.0  # as loud as this is whoever leaves a game
LARGEST = 2**62


def fields_of(agent: Agent) -> list[Field]:
    """What a MESSAGE frame holds: speaker, game, step and round; the message; its loudness."""
    return [((4,), "int64"), ((agent.size,), "float32"), ((), "float32")]


class Peers:
    """Sends what an agent says, and keeps what it hears, for each game."""

    def __init__(
        self, team: Team, agent: Agent, urls: Mapping[str, str], token: str | None, limits: Limits, metrics: Metrics
    ) -> None:
        """``urls``: of the services of others, by name. Raises BundleError if the agent cannot talk so."""
        channel = agent.channel
        if channel is None:
            raise BundleError(f"agent {agent.name!r} says nothing and hears nobody: leave its peers out")
        if channel.dynamic or team.manifest["turn_based"]:
            why = "who hears whom changes in its team" if channel.dynamic else "its agents take turns"
            raise BundleError(f"agent {agent.name!r}: {why}; pass messages with the requests instead of naming peers")
        self.agent, self.limits, self.metrics = agent, limits, metrics
        self.place = agent.team.index(agent.name)
        said: Any = next(
            team.manifest["channels"][name] for name, members in team.manifest["teams"].items() if agent.name in members
        )
        self.link = SenderLimits.read(said["link"])
        hears = channel.adjacency > 0  # (listener, speaker)
        self._hears_itself = bool(hears[self.place, self.place])
        others = [one for one in range(len(agent.team)) if one != self.place]
        self.speakers = [agent.team[one] for one in others if hears[self.place, one]]
        listeners = [agent.team[one] for one in others if hears[one, self.place]]
        self._check(urls, listeners, token)
        self._urls = {name: urls[name] for name in listeners}
        self._token, self._fields = token, fields_of(agent)
        self._queues = {name: asyncio.Queue[bytes](QUEUE) for name in listeners}
        self._games: dict[int, Mailbox] = {}
        self._early: OrderedDict[int, tuple[Mailbox, float]] = OrderedDict()  # games that others began before us
        self._over: OrderedDict[int, None] = OrderedDict()

    def _check(self, urls: Mapping[str, str], listeners: list[str], token: str | None) -> None:
        for name, url in urls.items():
            parts = urlsplit(url)
            if name not in (*self.speakers, *listeners):
                raise BundleError(f"agent {self.agent.name!r} talks to {', '.join(listeners)}, not to {name!r:.80}")
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
                raise BundleError(f"peer {name!r}: expected an address such as http://10.0.0.2:8000, got {url!r:.80}")
            if token is None and not is_loopback(parts.hostname):
                raise BundleError(f"peer {name!r} is on another host, so services of this team need a token")
        missing = [name for name in listeners if name not in urls]
        if missing:
            raise BundleError(f"agent {self.agent.name!r}: whoever hears it is a peer too: {', '.join(missing)}")

    # --- games --------------------------------------------------------------------------------------------------------

    def begin(self, game: int) -> None:
        """Take part in a game. Raises Busy if it goes on here or is over."""
        if game in self._games or game in self._over:
            raise Busy(f"game {game} was begun here before; give every episode of the team a number of its own")
        early = self._early.pop(game, None)
        self._games[game] = self._mailbox() if early is None else early[0]

    def end(self, session: Session) -> None:
        """Leave a game: nobody waits for this agent any more."""
        if session.game is not None and self._games.pop(session.game, None) is not None:
            self._remember(session.game)
            self._send(session.game, (session.step, 0), np.zeros(self.agent.size, np.float32), LEAVES)

    def forget_early(self, seconds: float) -> None:
        """Drop games that others began so long ago, and that were never begun here."""
        while self._early and next(iter(self._early.values()))[1] < time.monotonic() - seconds:
            self._early.popitem(last=False)

    def _mailbox(self) -> Mailbox:
        itself = [self.agent.name] if self._hears_itself else []
        return Mailbox([*self.speakers, *itself], self.link.delay)

    def _remember(self, game: int) -> None:
        self._over[game] = None
        while len(self._over) > self.limits.sessions:
            self._over.popitem(last=False)

    # --- speaking and hearing -----------------------------------------------------------------------------------------

    def say(self, session: Session, turn: int, message: Array | None) -> None:
        """Send what the agent says in one round of its step; None: nothing."""
        assert session.game is not None
        if message is not None and session.spoke_at < session.step:  # a step of several rounds costs one message
            session.sent, session.spoke_at = session.sent + 1, session.step
        budget = self.link.budget
        if message is None or (budget is not None and session.sent > budget):
            text, loudness = np.zeros(self.agent.size, np.float32), 0.0
        else:
            text, loudness = self.link.pack(message), 1.0
            self.metrics.messages["sent"] += 1
        self._send(session.game, (session.step, turn), text, loudness)

    async def hear(self, session: Session, turn: int) -> dict[str, Array | None]:
        """What others said for this round, as far as it is here before the deadline.

        Without rounds within a step these are the messages of the step before; ``delay`` steps earlier in both cases.
        """
        assert session.game is not None
        box = self._games.get(session.game)
        step = session.step - self.link.delay - (self.agent.rounds == 0)
        if step < 0 or box is None:
            return {}
        found, missing = await box.take((step, turn), self.limits.deadline)
        self.metrics.messages["lost"] += missing
        self.metrics.messages["heard"] += sum(message is not None for message in found.values())
        return found

    def _send(self, game: int, place: tuple[int, int], message: Array, loudness: float) -> None:
        numbers = np.array([self.place, game, *place], np.int64)
        frame = packed(Kind.MESSAGE, 1, self._fields, [numbers, message, np.array(loudness, np.float32)])
        if self._hears_itself:
            self.receive(frame)
        for queue in self._queues.values():
            if queue.full():  # the oldest would be too late anyway
                queue.get_nowait()
            queue.put_nowait(frame)

    def receive(self, data: bytes) -> None:
        """Take a frame that another service sent. Raises WireError or Unfit for what is none."""
        arrays = unpacked(data, Kind.MESSAGE, self._fields, 1)
        assert arrays is not None
        speaker, game, step, turn = arrays[0].tolist()
        loudness = float(arrays[2])
        if not 0 <= speaker < len(self.agent.team) or not 0 <= game < LARGEST or not 0 <= step < LARGEST:
            raise Unfit("a message with a speaker, game or step that cannot be")
        if not 0 <= turn < max(self.agent.rounds, 1):
            raise Unfit(f"a message of round {turn}; there are {max(self.agent.rounds, 1)}")
        box = self._box(game)
        name = self.agent.team[speaker]
        if box is None:
            self.metrics.messages["late"] += 1
        elif loudness < 0:
            box.leave(name)
        elif not box.put(name, (step, turn), arrays[1] if loudness > 0 else None):
            self.metrics.messages["late"] += 1

    def _box(self, game: int) -> Mailbox | None:
        """The messages of a game, which may begin here later; None if it is over."""
        if game in self._games or game in self._over:
            return self._games.get(game)
        if game not in self._early:
            self._early[game] = self._mailbox(), time.monotonic()
            while len(self._early) > self.limits.sessions:
                self._early.popitem(last=False)
        return self._early[game][0]

    # --- connections --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep a connection to every listener, and try again where there is none."""
        tasks = [asyncio.create_task(self._feed(name, url)) for name, url in self._urls.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, name: str, url: str) -> None:
        address = f"ws{url.removeprefix('http').rstrip('/')}/messages"
        pause = 0.05
        while True:
            try:
                async with _Direct(address, additional_headers=bearer(self._token), proxy=None, compression=None) as to:
                    pause = 0.05
                    while True:
                        await to.send(await self._queues[name].get())
            except (OSError, WebSocketException):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)


class _Direct(connect):
    """A connection that follows no redirection: the token is for the peer alone."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Give up."""
        return exc
