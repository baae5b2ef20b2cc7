"""Whole messages between a process and the children that it has started, over a socket."""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any


class Pipe:
    """Whole messages over a socket, with a time limit. Small messages cost one system call each way."""

    LENGTH = struct.Struct("!Q")

    def __init__(self, sock: socket.socket) -> None:
        """``sock``: connected to the other process."""
        self._sock = sock
        self._received = bytearray()

    def send(self, message: tuple[Any, ...], seconds: float | None = None) -> None:
        """Send one message; TimeoutError if the other side does not take it."""
        data = pickle.dumps(message, protocol=5)
        self._sock.settimeout(seconds)
        self._sock.sendall(self.LENGTH.pack(len(data)) + data)

    def receive(self, seconds: float | None = None) -> tuple[Any, ...]:
        """The next message; TimeoutError if none comes, EOFError if none ever will."""
        self._sock.settimeout(seconds)
        end = self.LENGTH.size
        while len(self._received) < end or len(self._received) < (end := self._end()):
            data = self._sock.recv(1 << 18)
            if not data:
                raise EOFError
            self._received += data
        # Only the learner and the children that it has started hold the two ends of a channel.
        message: tuple[Any, ...] = pickle.loads(memoryview(self._received)[self.LENGTH.size : end].tobytes())
        del self._received[:end]
        return message

    def _end(self) -> int:
        """Where the first message in the buffer ends."""
        length: int = self.LENGTH.unpack_from(self._received)[0]
        return self.LENGTH.size + length

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
