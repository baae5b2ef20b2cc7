"""The page beside trainings that run: a server that reads what they write, and can do nothing else (extra ``view``).

No request names a file: there are two addresses, the page and its content. The trainings know nothing of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from marl.report.content import Source
from marl.report.html import as_json, page
from marl.types import ConfigError
from marl_runtime.service.guard import host_of, is_loopback

REST = 0.8  # seconds between two looks at the files, however many ask
SHARE = 0.1  # of one processor that looks may take: after long ones it rests longer
COMPARED = 15.0  # seconds between two comparisons of runs, which take a second or more
CONNECTIONS = 32
HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("x-frame-options", "DENY"),
)
OPENED = ("/", "/play")  # by a browser itself
TITLE = "marl view"


def application(
    source: Source, token: str, port: int, host: str | None = None, more: Sequence[BaseRoute] = ()
) -> ASGIApp:
    """The server's application.

    Args:
        source: what it shows.
        token: that every request brings, the page in its address and its program in a header.
        port: that it listens on.
        host: a name or an address beside those of this machine itself that it may be called by.
        more: further addresses, behind the same guard.
    """
    contents = _Contents(source)

    async def start(request: Request) -> Response:
        return Response(page(None, TITLE), media_type="text/html")

    async def content(request: Request) -> Response:
        data, mark = await contents.newest()
        if request.headers.get("if-none-match") == mark:
            return Response(status_code=304)
        return Response(data, media_type="application/json", headers={"etag": mark})

    return _Guard(Starlette(routes=[Route("/", start), Route("/content", content), *more]), token, port, host)


def server(app: ASGIApp, message: int = 0) -> uvicorn.Server:
    """A server of it: ``await server(app).serve([socket])``.

    Args:
        app: the application.
        message: bytes of the largest message of a WebSocket; 0: there are none.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app, ws="websockets-sansio" if message else "none", ws_max_size=max(message, 1), ws_per_message_deflate=False,
        lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=1,
    )  # fmt: skip
    return uvicorn.Server(config)


class _Contents:
    """The newest content, looked up in a thread beside the server, not too often, and where a file has changed."""

    def __init__(self, source: Source) -> None:
        self._source, self._lock = source, asyncio.Lock()
        self._data, self._mark = b"null", ""
        self._stamp: object = None
        self._next, self._compare_next, self._owed = 0.0, 0.0, False

    async def newest(self) -> tuple[bytes, str]:
        """JSON, and what tells it from what was there before."""
        async with self._lock:
            if time.monotonic() >= self._next:
                await asyncio.to_thread(self._look)
        return self._data, self._mark

    def _look(self) -> None:
        began = time.thread_time()  # what it takes, not what it waits for
        compared = time.monotonic() >= self._compare_next
        try:
            stamp: object = self._source.stamp()
            if stamp != self._stamp or (self._owed and compared):
                self._data = as_json(self._source.content(compared)).encode()
                self._owed = not compared
        except ConfigError as error:  # there is no run yet, or there was one
            stamp = str(error)
            self._data = as_json(self._source.nothing(stamp)).encode()
        self._stamp = stamp
        self._mark = f'"{hashlib.sha256(self._data).hexdigest()[:32]}"'
        now, took = time.monotonic(), time.thread_time() - began
        if compared:
            self._compare_next = now + max(COMPARED, took / SHARE)
        self._next = now + (REST if compared else max(REST, took / SHARE))


class _Guard:
    """Answers those alone who call this machine by its own name, are no other site's page, and know the token."""

    def __init__(self, app: ASGIApp, token: str, port: int, host: str | None) -> None:
        self._app, self._token, self._port, self._host = app, token.encode(), port, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        refused = self._refusal(HTTPConnection(scope))
        if refused is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: status 403
            return

        async def marked(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                assert isinstance(headers, Sequence)
                own = [(name.encode(), value.encode()) for name, value in HEADERS]
                message = {**message, "headers": [*headers, *own]}
            await send(message)

        answer = self._app if refused is None else PlainTextResponse(refused[1], refused[0])
        await answer(scope, receive, marked)  # type: ignore[arg-type]

    def _refusal(self, request: HTTPConnection) -> tuple[int, str] | None:
        host = request.headers.get("host", "")
        if not (is_loopback(host_of(host)) or (self._host is not None and host_of(host) == self._host.lower())):
            return 403, "expected a Host of this machine, such as localhost or 127.0.0.1"
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return 403, "requests of other pages are refused"
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "requests of other pages are refused"
        if request.scope.get("method", "GET") != "GET":
            return 405, "nothing can be changed here"
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if request.url.path in OPENED or request.scope["type"] == "websocket":  # which know no headers of ours
            sent, scheme = request.query_params.get("token", ""), "bearer"
        if scheme.lower() != "bearer" or not hmac.compare_digest(sent.encode(), self._token):
            return 401, "expected the token: open the address that marl view printed"
        return None
