"""From a bundle to a listening service."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from marl_runtime.bundle import BundleError
from marl_runtime.service.app import Service
from marl_runtime.service.guard import is_loopback
from marl_runtime.service.limits import Limits
from marl_runtime.service.metrics import Metrics
from marl_runtime.service.peers import Peers
from marl_runtime.team import Team

HEAD_BYTES = 2**14  # of a request before its body


def service_of(
    team: Team,
    name: str,
    *,
    token: str | None = None,
    peers: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Service:
    """The service of one agent of a bundle.

    Args:
        team: the bundle.
        name: of the agent.
        token: that every request needs, and that peers are sent; None: this machine alone is answered.
        peers: addresses of the services of the agents that hear this one, by name.
        limits: what it takes at most.

    Raises:
        BundleError: for an unknown agent, and peers that do not fit.
    """
    if name not in team:
        raise BundleError(f"agent {name!r:.80} is not in the bundle (known: {', '.join(team)})")
    limits, metrics = limits or Limits(), Metrics()
    others = Peers(team, team[name], peers, token, limits, metrics) if peers else None
    return Service(team[name], str(team.manifest["env"]), limits, metrics, others, token)


def bound(host: str, port: int, token: str | None) -> socket.socket:
    """A socket that listens. Raises BundleError if others could reach it without a token, OSError if it is taken."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    if token is None and not is_loopback(str(address[0])):
        raise BundleError(f"{host} can be reached from other machines: give --token-file, or listen on 127.0.0.1")
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address[:2])
        made.listen(128)
    except BaseException:
        made.close()
        raise
    return made


def server(service: Service) -> uvicorn.Server:
    """A server of the service: ``await server(service).serve([bound(...)])``."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # whoever sends garbage fills no log
    limits = service.limits
    config = uvicorn.Config(
        service.application(),
        http=_protocol(limits),
        ws="websockets-sansio",
        ws_max_size=service.sizes.message,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=max(1, round(limits.patience)),
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return uvicorn.Server(config)


def _protocol(limits: Limits) -> type[H11Protocol]:
    class Impatient(H11Protocol):
        """Connections beyond the limit are closed, and those on which no request comes to its end."""

        next_look: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Begin to look after it."""
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._look_again(0)

        def connection_lost(self, exc: Exception | None) -> None:
            """Look after it no more."""
            super().connection_lost(exc)
            if self.next_look is not None:
                self.next_look.cancel()

        def _look_again(self, since: Any) -> None:
            """Close it if nothing is being answered, and no request has begun since the last look."""
            if self not in self.connections:  # a WebSocket now
                self.next_look = None
            elif since is self.cycle and (self.cycle is None or self.cycle.response_complete):
                self.transport.abort()
            else:
                loop = asyncio.get_running_loop()
                self.next_look = loop.call_later(limits.patience, self._look_again, self.cycle)

    return Impatient
