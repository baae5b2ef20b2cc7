"""What installed packages offer to this library: their entry points."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pkgutil
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints

SCENARIOS = "marl.scenarios"


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


def installed_scenarios() -> dict[str, EntryPoint]:
    """Scenarios by name, none of which is imported: a point is for one, ``module:attribute``, or a package of files."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=SCENARIOS):
        if point.attr:
            found.setdefault(point.name, point)
        else:
            for name in _modules_in(point.module):
                found.setdefault(name, EntryPoint(name, f"{point.module}.{name}:scenario", SCENARIOS))
    return found


def installed_studies() -> dict[str, str]:
    """The module of each study by name, none of which is imported: files of ``studies`` in a package of scenarios."""
    packages = [f"{point.module}.studies" for point in entry_points(group=SCENARIOS) if not point.attr]
    found: dict[str, str] = {}
    for package in packages:
        for name in _modules_in(package):
            found.setdefault(name, f"{package}.{name}")
    return found


def _modules_in(package: str) -> list[str]:
    """The public files of a package; neither they nor packages that it is in are imported. None where there is none."""
    top, *inner = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    folders = (None if spec is None else spec.submodule_search_locations) or ()
    modules = pkgutil.iter_modules([os.path.join(folder, *inner) for folder in folders])
    return [module.name for module in modules if not (module.ispkg or module.name.startswith("_"))]
