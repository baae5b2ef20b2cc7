"""The lock of a run folder: one process writes there at a time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from marl import files
from marl.types import ConfigError

try:
    import fcntl
except ImportError:  # Windows: the lock then rests on the process id alone
    fcntl = None  # type: ignore[assignment]


class Lock:
    """A file that says which process writes here. The system's own file lock decides; its words are for people."""

    def __init__(
        self, path: Path, note: Callable[[str], None], what: str = "run folder", option: str = "--run-dir"
    ) -> None:
        """Take it. Raises ConfigError if a living process has it.

        Args:
            path: of the file.
            note: told whose lock was taken over.
            what: it is the lock of.
            option: says another place.
        """
        self.path, self._note, self._what, self._option = path, note, what, option
        self._take()

    def _take(self) -> None:
        path, note = self.path, self._note
        while True:
            self._file = files.opened(path, os.O_RDWR | os.O_CREAT)
            taken = _flock(self._file)
            owner = _owner(self._file)
            if taken is False or (taken is None and _alive(owner)):
                os.close(self._file)
                self._file = -1
                who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another process"
                raise ConfigError(
                    f"{path.parent}: {who} is writing to this {self._what}; wait, stop it, or choose another "
                    f"{self._option}"
                )
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(self._file).st_ino == os.stat(path).st_ino:
                    break
            os.close(self._file)  # its owner has just removed it: take the new one
        if owner:
            note(f"took over the lock of process {owner.get('pid')} on {owner.get('host')}, which is gone")
        mine = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(mine).encode(), 0)

    @property
    def lost(self) -> bool:
        """Whether the file was removed or replaced, so that it keeps nobody out."""
        try:
            return self._file >= 0 and not os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except OSError:
            return True

    def renew(self) -> None:
        """Take it again if it is lost. Raises ConfigError if another process has it now."""
        if self.lost:
            os.close(self._file)
            self._file = -1
            self._take()

    def release(self) -> None:
        """Give it back."""
        if self._file >= 0:
            if not self.lost:
                with contextlib.suppress(OSError):
                    self.path.unlink()
            os.close(self._file)
            self._file = -1


def _flock(file: int) -> bool | None:
    """Whether the lock was free; None if this file system has none."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def writer_of(path: Path) -> int | None:
    """The process that a lock's file names, if it may still be there; None if nobody writes. Takes no lock."""
    try:
        file = files.opened(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        owner = _owner(file)
    finally:
        os.close(file)
    mine = owner.get("pid") == os.getpid() and owner.get("host") == socket.gethostname()
    return owner["pid"] if mine or _alive(owner) else None


def _owner(file: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except (ValueError, OSError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _alive(owner: Mapping[str, Any]) -> bool:
    """Whether the process may still be there; one on another machine may."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()
