"""Regular files only: what is read is no link, pipe or device, and nothing is ever written through a link.

Run folders, checkpoints and bundles may come from somebody else. A pipe in place of a file would hang whoever opens it,
a link would let them read or overwrite any file of the user's.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

SAFELY = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class WrongSizeError(OSError):
    """A file with another size than expected."""


def opened(path: Path, flags: int, mode: int = 0o644) -> int:
    """The descriptor of a regular file with one name, which may be made if ``flags`` say so.

    Raises:
        OSError: if it is anything else, before it is opened; or as ``os.open`` does.
    """
    try:
        _refuse_foreign(path, os.lstat(path))
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    file = os.open(path, flags | SAFELY, mode)
    try:
        _refuse_foreign(path, os.fstat(file))
    except OSError:
        os.close(file)
        raise
    return file


def _refuse_foreign(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = next((name for test, name in KINDS if test(found.st_mode)), "a device")
        raise OSError(errno.ELOOP, f"it is {what}, not a regular file", str(path))
    if found.st_nlink > 1:
        raise OSError(errno.ELOOP, "it has another name elsewhere, a hard link; copy it", str(path))


def read(path: Path, most: int, size: int | None = None) -> bytes:
    """The contents of a regular file.

    Args:
        path: of the file.
        most: bytes that it may have.
        size: bytes that it must have; None: any number.

    Raises:
        OSError: if it is no regular file or cannot be read.
        WrongSizeError: if it has another size; nothing is read then.
    """
    with os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        there = os.fstat(file.fileno()).st_size
        if size is not None and there != size:
            raise WrongSizeError(errno.EINVAL, f"{there:,} bytes instead of {size:,}", str(path))
        if there > most:
            raise WrongSizeError(errno.EFBIG, f"{there:,} of at most {most:,} bytes are too many", str(path))
        return file.read(there)


def write_new(path: Path, data: bytes) -> None:
    """Make a file that is not there yet, durably. Raises OSError, also if there is anything of that name."""
    with os.fdopen(opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
