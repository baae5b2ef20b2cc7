"""Frames between an agent's process and the rest of the world: a fixed header, then arrays of agreed shapes and types.

    "MARL"  version  kind  copies  bytes  |  array, array, ...     (little endian, 20 bytes of header)

Both sides know beforehand what each kind of frame holds, so nothing about shapes travels, nothing is unpickled, and a
frame of another size is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import socket

Array = np.ndarray[Any, Any]
MAGIC, VERSION = b"MARL", 1
HEADER = struct.Struct("<4sHHIQ")
LONGEST_TEXT = 1 << 16
Field = tuple[tuple[int, ...], str]  # shape and dtype of one array


class Kind(IntEnum):
    """Kinds of frames."""

    START = 1  # parent: the folder of the agent, as text
    BEGIN = 2  # parent: seeds, and whether to sample
    READY = 3  # agent: the sizes it expects
    LOOK = 4  # parent: a view
    SAY = 5  # agent: messages and their loudness
    HEAR = 6  # parent: an inbox
    ACT = 7  # agent: actions
    END = 8  # parent: no more
    ERROR = 9  # either: what is wrong, as text
    MESSAGE = 10  # agent to agent: who says what in which game, step and round


class WireError(Exception):
    """A frame that cannot be used, or an error message from the other side."""


def packed(kind: Kind, copies: int, fields: Sequence[Field], arrays: Sequence[Array]) -> bytes:
    """A frame with arrays of the agreed shapes. Raises WireError if they have others."""
    parts = []
    for (shape, dtype), array in zip(fields, arrays, strict=True):
        if array.shape != shape:
            raise WireError(f"{kind.name}: expected an array of shape {shape}, got {array.shape}")
        parts.append(np.ascontiguousarray(array, dtype=np.dtype(dtype).newbyteorder("<")).tobytes())
    return framed(kind, copies, b"".join(parts))


def framed(kind: Kind, copies: int, payload: bytes) -> bytes:
    """A frame with this payload."""
    return HEADER.pack(MAGIC, VERSION, kind, copies, len(payload)) + payload


def unpacked(
    data: bytes, kind: Kind, fields: Sequence[Field], copies: int = 0, ends: bool = False
) -> list[Array] | None:
    """The arrays of one whole frame; None if it is the END, where ``ends`` allows it.

    Raises:
        WireError: for a frame of another kind, version, size or number of copies (0: any), or an ERROR.
    """
    if len(data) < HEADER.size:
        raise WireError(f"expected a frame {kind.name}, got {len(data)} bytes")
    found, _, size = _read_header(data[: HEADER.size], copies)
    payload = data[HEADER.size :]
    if found == Kind.ERROR:
        raise WireError(payload[:LONGEST_TEXT].decode(errors="replace"))
    if found == Kind.END and ends:
        return None
    _check(found, kind, size, _bytes_of(fields))
    if size != len(payload):
        raise WireError(f"{kind.name}: a frame of {size} bytes has {len(payload)}")
    return _arrays(payload, fields)


def copies_of(data: bytes) -> int:
    """How many copies a frame is for. Raises WireError if it is none."""
    if len(data) < HEADER.size:
        raise WireError(f"expected a frame, got {len(data)} bytes")
    return _read_header(data[: HEADER.size], 0)[1]


def _read_header(data: bytes, copies: int) -> tuple[int, int, int]:
    """Kind, copies and size of a frame; of an ERROR the copies do not matter."""
    magic, version, kind, found, size = HEADER.unpack(data)
    if magic != MAGIC:
        raise WireError(f"a frame begins with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"a frame of version {version}, expected {VERSION}")
    if copies and found != copies and kind != Kind.ERROR:
        raise WireError(f"a frame for {found} copies, expected {copies}")
    return kind, found, size


def _check(found: int, kind: Kind, size: int, expected: int | None) -> None:
    if found != kind:
        name = Kind(found).name if found in list(Kind) else str(found)
        raise WireError(f"expected a frame {kind.name}, got {name}")
    if expected is None:
        if size > LONGEST_TEXT:
            raise WireError(f"{kind.name}: {size} bytes of text, at most {LONGEST_TEXT} are taken")
    elif size != expected:
        raise WireError(f"{kind.name}: expected {expected} bytes, got {size}")


def _bytes_of(fields: Sequence[Field]) -> int:
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in fields)


def _arrays(payload: bytes, fields: Sequence[Field]) -> list[Array]:
    arrays, start = [], 0
    for shape, dtype in fields:
        kind = np.dtype(dtype).newbyteorder("<")
        flat = np.frombuffer(payload, kind, math.prod(shape), start)
        arrays.append(flat.reshape(shape).astype(dtype))  # a copy: aligned, ours to write to
        start += flat.nbytes
    return arrays


class Wire:
    """Frames over a socket."""

    def __init__(self, sock: socket.socket, copies: int = 0) -> None:
        """``copies``: the number of copies in every frame with arrays."""
        self.sock, self.copies = sock, copies

    def send(self, kind: Kind, fields: Sequence[Field] = (), arrays: Sequence[Array] = ()) -> None:
        """Send arrays of the agreed shapes. Raises WireError if they have others, OSError if nobody takes them."""
        self.sock.sendall(packed(kind, self.copies, fields, arrays))

    def send_text(self, kind: Kind, text: str) -> None:
        """Send a text."""
        self.sock.sendall(framed(kind, self.copies, text.encode(errors="surrogateescape")[:LONGEST_TEXT]))

    def receive(self, kind: Kind, fields: Sequence[Field] = (), ends: bool = False) -> list[Array] | None:
        """The arrays of the next frame; None if that is the END, where ``ends`` allows it.

        Raises:
            WireError: for a frame of another kind, version or size, or an ERROR.
            OSError, EOFError: if there is no other side any more.
        """
        found, size = self._header()
        if found == Kind.END and ends:
            return None
        _check(found, kind, size, _bytes_of(fields))
        return _arrays(self._read(size), fields)

    def receive_text(self, kind: Kind) -> str:
        """The text of the next frame, as :meth:`receive`."""
        found, size = self._header()
        _check(found, kind, size, None)
        return self._read(size).decode(errors="surrogateescape")

    def _header(self) -> tuple[int, int]:
        kind, copies, size = _read_header(self._read(HEADER.size), self.copies)
        if kind == Kind.ERROR:
            raise WireError(self._read(min(size, LONGEST_TEXT)).decode(errors="replace"))
        self.copies = self.copies or copies
        return kind, size

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self.sock.recv(min(size - len(data), 1 << 20))
            if not more:
                raise EOFError
            data += more
        return bytes(data)


class Layout:
    """Shapes and types in the frames of one agent in ``E`` copies; both sides compute them from the agent."""

    def __init__(
        self,
        copies: int,
        obs: Field,
        action: Field,
        num_choices: int | None,
        agents: int,
        size: int,
        rounds: int | None,
    ) -> None:
        """Compute them.

        Args:
            copies: ``E``.
            obs: shape and type of one encoded observation; likewise ``action``.
            num_choices: width of an action mask; None: there is none.
            agents: agents of the team.
            size: numbers of a message.
            rounds: exchanges within a step; None: the agent does not talk.
        """
        inbox: list[Field] = [((copies, agents, size), "float32"), ((copies, agents), "float32")]
        view: list[Field] = [((copies,), "bool"), ((copies,), "bool"), ((copies, *obs[0]), obs[1])]
        if num_choices is not None:
            view.append(((copies, num_choices), "bool"))
        self.talks, self.rounds, self.masked = rounds is not None, rounds or 0, num_choices is not None
        self.observe = view + inbox if rounds == 0 else view
        self.hear = inbox
        self.say: list[Field] = [((copies, size), "float32"), ((copies,), "float32")]
        self.act: list[Field] = [((copies, *action[0]), action[1])]
        self.begin: list[Field] = [((copies,), "int64"), ((), "bool")]

    @property
    def sizes(self) -> Array:
        """What READY says: bytes of each kind of frame, rounds, whether it talks."""
        frames = (self.observe, self.say, self.hear, self.act)
        return np.array([*map(_bytes_of, frames), self.rounds, self.talks], dtype=np.int64)


READY: list[Field] = [((6,), "int64")]
