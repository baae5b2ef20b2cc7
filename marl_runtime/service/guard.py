"""Who may ask at all: hosts, origins and the token are looked at before anything else of a request is."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marl_runtime.service.metrics import Metrics

HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))


def is_loopback(host: str) -> bool:
    """Whether a host, as a name or an address, is this machine for itself alone."""
    if host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(header: str) -> str:
    """The host of a ``Host`` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


class Guard:
    """An ASGI application in front of another one.

    Browsers are kept out: what carries an ``Origin``, or says that another site made it, is refused, since a service
    has no page of its own. Without a token the ``Host`` must be a loopback one, so that no foreign name that was made
    to point here (DNS rebinding) is answered. With a token everything but ``/health`` needs it.
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics) -> None:
        """``token``: None if the service can be reached from this machine alone."""
        self.app, self._token, self.metrics = app, token, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application do so."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
                self.metrics.requests[message.get("status", 101)] += 1
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            await self.app(scope, receive, marked)
            return
        status, text = refused
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await JSONResponse({"error": text}, status, headers)(scope, receive, marked)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"authorization"):
                return 400, f"{name.decode()} is there twice"
            headers[name] = value.decode("latin-1")
        if b"origin" in headers or headers.get(b"sec-fetch-site", "none") != "none":
            return 403, "requests of web pages are refused; run the bundle in the page itself (marl export --page)"
        if self._token is None:
            if not is_loopback(host_of(headers.get(b"host", ""))):
                return 403, "expected a Host of this machine, such as localhost or 127.0.0.1"
        elif scope["path"] != "/health" and not self._knows(headers.get(b"authorization", "")):
            return 401, "expected the header Authorization: Bearer TOKEN"
        return None

    def _knows(self, header: str) -> bool:
        """Whether the token is right, in a time that does not depend on how much of it is."""
        assert self._token is not None
        scheme, _, sent = header.partition(" ")
        right = hmac.compare_digest(sent.strip().encode("latin-1"), self._token.encode())
        return right and scheme.lower() == "bearer"


def bearer(token: str | None) -> dict[str, Any]:
    """The headers of a request to a service with this token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}
