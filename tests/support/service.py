"""A service of one agent in this process, on loopback, and the simplest client of it."""

from __future__ import annotations

import asyncio
import contextlib
import json

from marl_runtime.service.listening import bound, server


@contextlib.asynccontextmanager
async def serving(service, listener=None):
    """The port on which a service listens."""
    listener = bound("127.0.0.1", 0, None) if listener is None else listener
    running = server(service)
    task = asyncio.create_task(running._serve([listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        running.should_exit = True
        await task
        listener.close()


def request(path, body=None, headers=(), method=None, host="127.0.0.1"):
    """The bytes of a request; ``body``: bytes, or values for JSON."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", f"Host: {host}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Client:
    """One connection."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exception):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def ask(self, path, body=None, **how):
        """Status and values of the answer."""
        return await self.send(request(path, body, **how))

    async def send(self, data):
        """Status and values of the answer to raw bytes."""
        self.writer.write(data)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        self.headers = dict(line.split(": ", 1) for line in head[1:] if line)
        text = await self.reader.readexactly(int(self.headers["content-length"]))
        return int(head[0].split()[1]), json.loads(text) if "json" in self.headers["content-type"] else text.decode()


async def ask(port, path, body=None, **how):
    """Status and values of the answer, over a connection of its own."""
    async with Client(port) as client:
        return await client.ask(path, body, **how)
