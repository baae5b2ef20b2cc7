"""Metrics as one JSON object a line: a crash loses little, and a torn line costs nothing but itself."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from marl import files
from marl.logs.files import RetryBackoff, replace_file
from marl.types import ConfigError

LARGEST = 2**30  # bytes; a run writes hundreds of rows of a kilobyte
LONGEST_NAME = 200
LONGEST_WHOLE = 1000  # bits of a whole number that still has a float
SYNC_SECONDS = 2.0  # fsync at most this often: 100 rows a run cost nothing, 100 rows a second would


def line_of(metrics: Mapping[str, Any]) -> bytes:
    """One row as a line of ASCII JSON: names and texts escaped, NaN and infinity as null, long names cut."""
    row = {_name(str(name)): _value(value) for name, value in metrics.items()}
    return json.dumps(row, allow_nan=False).encode("ascii") + b"\n"


def _name(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    mark = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}~{mark}"


def _value(value: Any) -> int | float | str | None:
    if isinstance(value, bool | int):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)[:1000]
    return number if math.isfinite(number) else None


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """All whole rows of a metrics file (or of a run folder); null is NaN. Torn and foreign lines are passed over.

    Raises:
        ConfigError: if it is no regular file, or cannot be read.
    """
    path = Path(path)
    path = path / "metrics.jsonl" if path.is_dir() else path
    try:
        lines = files.read(path, LARGEST).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return [row for row in map(row_of, lines) if row is not None]


def row_of(line: bytes) -> dict[str, float] | None:
    """The numbers of one line, null as NaN; None for one that is torn or foreign."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    numbers = {name: math.nan if value is None else value for name, value in row.items()}
    return {name: value for name, value in numbers.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    """Whether it is one that calculations can go on with."""
    return isinstance(value, float) or (type(value) is int and value.bit_length() <= LONGEST_WHOLE)


class MetricsFile:
    """Appends rows to a file. A full disk loses none: rows wait in memory until it takes them again."""

    def __init__(self, path: Path, patience: RetryBackoff) -> None:
        """Goes on behind the last whole line of ``path``."""
        self._patience, self._path = patience, path
        self._waiting: list[bytes] = []
        self._file: int | None = files.opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._size = _whole(self._file)
        os.ftruncate(self._file, self._size)
        self._synced = time.monotonic()

    @property
    def lost(self) -> bool:
        """Whether the file was removed or replaced, so that rows go nowhere."""
        if self._file is None:
            return False
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        return not os.path.samestat(there, os.fstat(self._file))

    def restore(self) -> None:
        """Put a file with every row so far in the place of one that was removed. Raises OSError."""
        assert self._file is not None
        rows = b""
        while part := os.pread(self._file, self._size - len(rows), len(rows)):  # it is there as long as we hold it
            rows += part
        replace_file(self._path, rows)
        file = os.open(self._path, os.O_RDWR | os.O_APPEND)
        os.close(self._file)
        self._file, self._size = file, len(rows)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Append a row. Raises ResourceError if the disk has refused too often."""
        self._waiting.append(line_of(metrics))
        if self._patience.ready:
            self._write(sync=time.monotonic() - self._synced >= SYNC_SECONDS)

    def tick(self, steps: int) -> None:
        """Nothing to do."""

    def _write(self, sync: bool) -> None:
        if self._file is None:
            return
        data = b"".join(self._waiting)
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            if sync:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            self._undo()
            self._patience.failed(error)
            return
        self._size += len(data)
        self._waiting.clear()
        self._patience.succeeded()

    def _undo(self) -> None:
        """Take back a half-written line; if even that fails, the reader passes over it."""
        assert self._file is not None
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._waiting.insert(0, b"\n")

    def sync(self) -> None:
        """Make every row so far durable, if the disk takes it."""
        if self._patience.ready:
            self._write(sync=True)

    def close(self) -> None:
        """Write what waits, and close."""
        if self._file is not None:
            try:
                self._write(sync=True)
            finally:
                os.close(self._file)
                self._file = None


def _whole(file: int) -> int:
    """Bytes up to the end of the last whole line."""
    size = os.fstat(file).st_size
    while size:
        start = max(0, size - 65_536)
        end = os.pread(file, size - start, start).rfind(b"\n")
        if end >= 0:
            return start + end + 1
        size = start
    return 0


def keep_until(path: Path, steps: int) -> int:
    """Drop rows later than ``steps``, which a resumed run will write again; returns how many. Raises OSError."""
    if not path.exists():
        return 0
    lines = [line for line in files.read(path, LARGEST).split(b"\n") if line.strip()]
    kept = [line for line in lines if (row := row_of(line)) is not None and row.get("steps", 0) <= steps]
    if len(kept) < len(lines):
        replace_file(path, b"".join(line + b"\n" for line in kept))
    return len(lines) - len(kept)
