"""The service: episodes of one agent over HTTP and WebSockets.

No request names a file, and none is served: a path is one of the table below or unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from marl_runtime.agent import Agent
from marl_runtime.process import conversation
from marl_runtime.program import Array
from marl_runtime.seat import Heard
from marl_runtime.service import requests
from marl_runtime.service.guard import Guard
from marl_runtime.service.limits import Limits, Sizes, sizes_of
from marl_runtime.service.metrics import Metrics
from marl_runtime.service.peers import Peers
from marl_runtime.service.refusals import Busy, NotJson, Refusal, Slow, TooLarge, Unfit, Unknown
from marl_runtime.service.sessions import Session, Sessions
from marl_runtime.wire import Kind, WireError, copies_of, framed, packed, unpacked

SWEEPS = 4  # of expired sessions, in the time that a session may be idle
TOO_MUCH, NOT_UNDERSTOOD = 1013, 1008  # codes that close a WebSocket
Ask = Callable[[int, Array | None], Awaitable[Heard | None]]  # round and message to what is heard


class Service:
    """What the endpoints share: the agent, its sessions, the other agents, and what has happened."""

    def __init__(
        self, agent: Agent, env: str, limits: Limits, metrics: Metrics, peers: Peers | None, token: str | None
    ) -> None:
        """Nobody is answered yet.

        Args:
            agent: who acts.
            env: the environment's name.
            limits: what is taken at most.
            metrics: where everything is counted.
            peers: the team's agents on other hosts; None: messages come with requests.
            token: that every request needs; None: this machine alone is answered.
        """
        self.agent, self.env, self.limits, self.metrics, self.peers = agent, env, limits, metrics, peers
        self._token = token
        self.sessions = Sessions(agent, limits)
        self.sizes: Sizes = sizes_of(agent, limits)

    # --- episodes -----------------------------------------------------------------------------------------------------

    def reset(self, asked: dict[str, Any], old: Session | None = None) -> Session:
        """Begin an episode, and end the one before."""
        if old is not None:
            self.close(old)
        game = asked.get("game")
        if (game is None) != (self.peers is None):
            raise Refusal(
                "reset: game is missing: the number of the team's episode, the same for all its agents"
                if game is None
                else "reset: a game has other agents in it, and this service was started without --peers"
            )
        session = self.sessions.open(asked.get("seed"), asked.get("side_seed"), game)
        if self.peers is not None:
            try:
                self.peers.begin(session.game or 0)
            except Refusal:
                self.sessions.close(session)
                raise
        return session

    def close(self, session: Session) -> None:
        """End an episode."""
        self.sessions.close(session)
        if self.peers is not None:
            self.peers.end(session)

    def sweep(self) -> None:
        """End episodes that nobody goes on with."""
        for session in self.sessions.expire():
            if self.peers is not None:
                self.peers.end(session)
        if self.peers is not None:
            self.peers.forget_early(self.limits.idle)

    async def act(self, session: Session, asked: dict[str, Any], ask: Ask | None = None) -> dict[str, Any]:
        """One step of an episode: what the agent does and says.

        ``ask``: where messages of a round within the step come from; None: peers, or nobody.
        """
        if session.acting:
            raise Busy("this session is acting already: one request at a time")
        agent, session.acting = session.agent, True
        began = time.perf_counter()
        try:
            row, mask = requests.encoded(agent, asked)
            heard = requests.inbox(agent, asked["heard"]) if asked.get("heard") else None
            explore = bool(asked.get("explore"))
            if not agent.talks:
                action = agent.act_encoded(row, mask, explore)
                self.metrics.acted(time.perf_counter() - began)
            else:
                if self.peers is not None and not agent.rounds:
                    heard = agent.inbox(await self.peers.hear(session, 0))
                    began = time.perf_counter()
                action = await self._talk(session, row, mask, explore, heard, ask)
                self.metrics.acted(time.perf_counter() - began)
            session.step += 1
            return {"action": requests.plain(agent.codec.decode(action)), "said": requests.plain(agent.said)}
        finally:
            session.acting = False

    async def _talk(
        self, session: Session, row: Array, mask: Array | None, explore: bool, heard: Heard | None, ask: Ask | None
    ) -> Array:
        agent = session.agent
        turn, answer, number = agent.conversation(row, mask, explore, heard), None, 0
        try:
            while True:
                message, loudness = turn.send(answer)
                agent.said, answer = message if loudness > 0 else None, None
                if self.peers is not None:
                    self.peers.say(session, number, agent.said)
                    if agent.rounds:
                        answer = agent.inbox(await self.peers.hear(session, number))
                elif ask is not None and agent.rounds:
                    answer = await ask(number, agent.said)
                number += 1
        except StopIteration as end:
            action: Array = end.value
            return action

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def post(self, request: Request) -> Response:
        """``/reset``, ``/act`` and ``/close``."""
        action = request.url.path[1:]
        try:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise NotJson("expected Content-Type: application/json")
            asked = requests.read(await self._body(request), action)
            name = asked.get("session")
            session = None if name is None else self.sessions.get(name)
            if action == "reset":
                return JSONResponse({"session": self.reset(asked, session).name})
            if session is None:
                raise Refusal(f"{action}: session is missing: begin one with /reset")
            if action == "close":
                self.close(session)
                return JSONResponse({})
            return JSONResponse(await self.act(session, asked))
        except Refusal as refusal:
            return JSONResponse({"error": str(refusal)}, refusal.status)
        except ClientDisconnect:
            return Response(status_code=400)

    async def _body(self, request: Request) -> bytes:
        """What was sent, as far as it is not too much, nor too slow."""
        most, data = self.sizes.json, bytearray()
        too_large = TooLarge(f"at most {most:,} bytes are taken")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:19]) > most:
            raise too_large
        try:
            async with asyncio.timeout(self.limits.patience):
                async for part in request.stream():
                    data += part
                    if len(data) > most:
                        raise too_large
        except TimeoutError:
            raise Slow(f"the request did not arrive within {self.limits.patience:g} s") from None
        return bytes(data)

    async def health(self, request: Request) -> Response:
        """Whether it runs, for whoever watches."""
        return JSONResponse({"status": "ok"})

    async def measured(self, request: Request) -> Response:
        """Metrics."""
        gauges = {"marl_sessions": len(self.sessions), "marl_sessions_expired": self.sessions.expired}
        return PlainTextResponse(self.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    async def described(self, request: Request) -> Response:
        """What the agent takes and gives."""
        agent, codec = self.agent, self.agent.codec
        return JSONResponse(
            {
                "agent": agent.name,
                "team": list(agent.team),
                "env": self.env,
                "observation_space": codec.observation_space,
                "action_space": codec.action_space,
                "talks": agent.talks,
                "message": agent.size,
                "rounds": agent.rounds,
                "sessions": self.limits.sessions,
                "copies": self.limits.copies,
                "idle": self.limits.idle,
                "bytes": self.sizes._asdict(),
            }
        )

    # --- WebSockets ---------------------------------------------------------------------------------------------------

    async def play(self, socket: WebSocket) -> None:
        """``/play``: an episode in JSON, or copies of it in frames; the first message shows which."""
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, Slow):
            first = await self._next(socket)
            if isinstance(first, bytes):
                await self._frames(socket, first)
            else:
                await self._texts(socket, first)

    async def _next(self, socket: WebSocket) -> bytes | str:
        """The next message. Raises Slow, with the socket closed, if there is none for as long as a session lives."""
        try:
            async with asyncio.timeout(self.limits.idle):
                message = await socket.receive()
        except TimeoutError:
            await socket.close(TOO_MUCH, "idle for too long")
            raise Slow from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        data: bytes | str | None = message.get("bytes")
        return data if data is not None else str(message["text"])

    async def _tell(self, socket: WebSocket, data: bytes | dict[str, Any]) -> None:
        """Send a message. Raises Slow if the other side reads so little that it cannot be sent."""
        try:
            async with asyncio.timeout(self.limits.patience):
                await (socket.send_bytes(data) if isinstance(data, bytes) else socket.send_json(data))
        except TimeoutError:
            raise Slow from None

    async def _texts(self, socket: WebSocket, first: str) -> None:
        session: Session | None = None
        text: bytes | str = first

        async def ask(turn: int, said: Array | None) -> Heard | None:
            await self._tell(socket, {"said": requests.plain(said), "round": turn})
            answer = requests.read(await self._next(socket))
            if answer["do"] != "hear":
                raise Refusal(f"expected what is heard in round {turn}: {{'do': 'hear', 'heard': ...}}")
            return requests.inbox(self.agent, answer.get("heard") or {})

        try:
            while True:
                try:
                    asked = requests.read(text)
                    if asked["do"] == "reset":
                        session, old = None, session
                        session = self.reset(asked, old)
                        await self._tell(socket, {"ready": True})
                    elif session is None:
                        raise Unknown("begin an episode with reset")
                    elif asked["do"] == "act":
                        self.sessions.get(session.name)
                        await self._tell(socket, await self.act(session, asked, ask))
                    else:
                        raise Refusal(f"{asked['do']} is not expected here")
                except Refusal as refusal:
                    if isinstance(refusal, Slow):
                        raise
                    await self._tell(socket, {"error": str(refusal)})
                text = await self._next(socket)
        finally:
            if session is not None:
                self.close(session)

    async def _frames(self, socket: WebSocket, first: bytes) -> None:
        reserved, copies = 0, 0
        try:
            copies = copies_of(first)
            if not 0 < copies <= self.limits.copies:
                raise Unfit(f"expected frames for 1 to {self.limits.copies} copies, got {copies}")
            if self.peers is not None:
                raise Refusal("frames bring their messages along, and this service has peers")
            self.sessions.reserve(copies)
            reserved = copies
            talk = conversation(self.agent, self.agent.layout(copies))
            turn, data = next(talk), first
            while True:
                kind, fields, ends = turn.awaits
                arrays = unpacked(data, kind, fields, copies, ends)
                began = time.perf_counter()
                turn = talk.send(arrays)
                if kind == Kind.LOOK:
                    self.metrics.acted((time.perf_counter() - began) / copies, copies)
                for frame in turn.sends:
                    await self._tell(socket, packed(frame[0], copies, *frame[1:]))
                received = await self._next(socket)
                if isinstance(received, str):
                    raise WireError("expected a frame, got a text")
                data = received
        except StopIteration:
            await socket.close()
        except (WireError, Refusal, ValueError, OverflowError) as error:
            if isinstance(error, Slow):
                raise
            await self._tell(socket, framed(Kind.ERROR, copies, str(error).encode()[: 2**12]))
            await socket.close(NOT_UNDERSTOOD)
        finally:
            self.sessions.release(reserved)

    async def messages(self, socket: WebSocket) -> None:
        """``/messages``: what other agents of the team say, a frame each."""
        if self.peers is None:
            await socket.close()
            return
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                try:
                    self.peers.receive(await socket.receive_bytes())
                except (WireError, Refusal, KeyError):
                    self.metrics.messages["refused"] += 1
                    await socket.close(NOT_UNDERSTOOD)
                    return

    # --- the application ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def life(self, app: Starlette) -> AsyncIterator[None]:
        """Sweep, and keep connections to peers, as long as it runs."""

        async def sweeping() -> None:
            while True:
                await asyncio.sleep(self.limits.idle / SWEEPS)
                self.sweep()

        task = asyncio.create_task(sweeping())
        async with contextlib.nullcontext() if self.peers is None else self.peers.connected():
            yield
        task.cancel()

    def application(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/health", self.health),
            Route("/metrics", self.measured),
            Route("/agent", self.described),
            *(Route(f"/{action}", self.post, methods=["POST"]) for action in ("reset", "act", "close")),
            WebSocketRoute("/play", self.play),
            WebSocketRoute("/messages", self.messages),
        ]
        return Guard(Starlette(routes=routes, lifespan=self.life), self._token, self.metrics)
