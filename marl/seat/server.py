"""The addresses of a person's seat, beside those of the page: its own page, and a WebSocket for each seat."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from marl.report.html import SEAT_SCRIPTS, page
from marl.seat.room import Nonsense, Room

MESSAGE = 1024  # bytes that a browser may send at once
RATE = 100  # messages of a browser in a second; keys repeat 30 times
WAITING = 256  # messages for a browser that does not read them, before it is let go
TAKEN, NO_SENSE, TOO_FAST, TOO_SLOW = 4001, 1008, 4002, 4003  # why a WebSocket is closed


def routes(room: Room) -> list[BaseRoute]:
    """``/play?seat=AGENT``, the page, and ``/seat?seat=AGENT``, its WebSocket."""

    async def start(request: Request) -> Response:
        if request.query_params.get("seat") not in room.seats:
            return PlainTextResponse("no person has that seat: open an address that marl view printed", 404)
        return Response(page(None, "a seat · marl", SEAT_SCRIPTS), media_type="text/html")

    async def seat(socket: WebSocket) -> None:
        agent = socket.query_params.get("seat", "")
        await socket.accept()
        if agent not in room.seats:
            await socket.close(NO_SENSE, "no person has that seat")
            return
        loop, waiting = asyncio.get_running_loop(), asyncio.Queue[str | None](WAITING)

        def put(message: str | None) -> None:
            try:
                waiting.put_nowait(message)
            except asyncio.QueueFull:
                speaking.cancel()  # it does not read: it is let go instead of held back for

        def send(message: str) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(put, message)

        speaking = asyncio.create_task(_speak(socket, waiting))
        if not room.enter(agent, send):
            speaking.cancel()
            await socket.close(TAKEN, "somebody has this seat")
            return
        listening = asyncio.create_task(_listen(socket, room, agent))
        try:
            await asyncio.wait((speaking, listening), return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                with contextlib.suppress(RuntimeError):
                    await socket.close(TOO_SLOW, "it does not read what it is sent")
        finally:
            room.leave(agent)
            speaking.cancel()
            listening.cancel()
            await asyncio.gather(speaking, listening, return_exceptions=True)

    return [Route("/play", start), WebSocketRoute("/seat", seat)]


async def _speak(socket: WebSocket, waiting: asyncio.Queue[str | None]) -> None:
    while (message := await waiting.get()) is not None:
        await socket.send_text(message)


async def _listen(socket: WebSocket, room: Room, agent: str) -> None:
    """Hand on what a browser sends until it leaves, or sends what its page never does."""
    times: deque[float] = deque(maxlen=RATE)
    while True:
        try:
            message = await socket.receive_text()
        except KeyError:  # bytes
            await socket.close(NO_SENSE, "expected text")
            return
        except WebSocketDisconnect:
            return
        now = time.monotonic()
        if len(times) == RATE and now - times[0] < 1.0:
            await socket.close(TOO_FAST, f"more than {RATE} messages in a second")
            return
        times.append(now)
        try:
            room.press(agent, message)
        except Nonsense as error:
            await socket.close(NO_SENSE, str(error))
            return
