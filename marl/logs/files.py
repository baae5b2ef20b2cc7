"""Small files that survive a crash, and patience with a disk that refuses."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marl import files
from marl.types import ConfigError, ResourceError

LARGEST = 16 * 2**20  # bytes; settings and summaries have a few thousand


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that at any moment either the old or the new one is there, whole. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # what a crash left, or somebody laid there
    try:
        files.write_new(temporary, data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file in one move. Raises OSError."""
    replace_file(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, largest: int = LARGEST, *, nan: bool = False) -> dict[str, Any]:
    """A JSON object from a file that people may have edited.

    Args:
        path: of the file.
        largest: bytes that it may have.
        nan: take NaN and infinity, which JSON has not and Python writes.

    Raises:
        ConfigError: naming the file and the line, if it is missing, too large, no JSON object, or names a key twice.
    """
    try:
        text = files.read(path, largest).decode()
    except files.WrongSizeError as error:
        what = "a settings file" if largest == LARGEST else "such a file"
        raise ConfigError(f"{path}: {error.strerror} for {what}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file") from None
    if not text.strip():
        raise ConfigError(f"{path}: is empty")
    try:
        constant = float if nan else _no_number
        data = json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs), parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}: {error.msg}") from None
    except ConfigError:
        raise
    except ValueError as error:  # thousands of digits, NaN
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ConfigError(f"{path}: key {key!r} is there twice")
        made[key] = value
    return made


def safe_name(name: str, limit: int = 80) -> str:
    """A name that any file system takes: letters, digits, ``.``, ``_`` and ``-``, at most ``limit`` of them."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return plain[:limit] or "run"


def read_word(file: Path, longest: int) -> str | None:
    """Letters and digits that a file holds, such as the id of a run elsewhere; None if it holds anything else."""
    try:
        text = files.read(file, longest).decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if text.isalnum() else None


class RetryBackoff:
    """Retries of writing to a disk: exponential back-off, and a limit after which to give up.

    Args:
        what: what could not be written, in words.
        warn: told of every failure.
        seconds: before the first new try; doubles with every failure in a row.
        limit: failures in a row after which ResourceError is raised.
    """

    def __init__(self, what: str, warn: Callable[[str], None], seconds: float = 10.0, limit: int = 6) -> None:
        """Nothing has failed yet."""
        self.what, self.warn, self.seconds, self.limit = what, warn, seconds, limit
        self.failures = 0
        self._until = 0.0

    @property
    def ready(self) -> bool:
        """Whether it is time to try."""
        return self.failures == 0 or time.monotonic() >= self._until

    @property
    def wait(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._until - time.monotonic()) if self.failures else 0.0

    def failed(self, error: OSError) -> None:
        """Take note of a failure. Raises ResourceError after too many in a row."""
        self.failures += 1
        reason = error.strerror or str(error)
        if self.failures >= self.limit:
            raise ResourceError(
                f"{self.what} could not be written {self.failures} times in a row ({reason}); free some space and "
                "go on with --resume: what was saved before is intact"
            ) from error
        delay = self.seconds * 2 ** (self.failures - 1)
        self._until = time.monotonic() + delay
        self.warn(f"{self.what} could not be written ({reason}); training goes on, next try in {delay:.0f} s")

    def succeeded(self) -> None:
        """It works again."""
        self.failures = 0
