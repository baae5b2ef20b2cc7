"""What installed packages offer to this library: their entry points."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from functools import lru_cache
from importlib.metadata import EntryPoints


def entry_points(group: str) -> EntryPoints:
    """The entry points of a group, as :func:`importlib.metadata.entry_points` finds them in all installed packages.

    The packages are read again when ``sys.path`` is another, or a folder on it has changed, as installing does: to
    read them costs more than to make the agents of a small game.
    """
    return _read(group, tuple((folder, _changed(folder)) for folder in sys.path))


@lru_cache(maxsize=16)
def _read(group: str, path: tuple[tuple[str, int], ...]) -> EntryPoints:
    return importlib.metadata.entry_points(group=group)


def _changed(folder: str) -> int:
    """When something was last added to a folder, or taken from it; 0 where there is none."""
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0
