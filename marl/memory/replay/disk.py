"""Arrays in files, for observations that do not fit into memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from marl.types import ConfigError


def make_folder(directory: str) -> None:
    """Raises ConfigError if it cannot be written to."""
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise ConfigError(f"buffer_dir: cannot write to {directory!r} ({error.strerror})") from None
