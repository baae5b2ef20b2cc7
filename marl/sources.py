"""Python files that a user names: ``path/to/file.py``, or ``path/to/file.py:NAME`` for one thing in it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from marl.registry import FILE_NAME, prefer
from marl.types import ConfigError


def split(reference: str) -> tuple[Path, str] | None:
    """The absolute path, and the name in the file (empty: none); None for what names no file."""
    head, colon, name = reference.rpartition(":")
    if colon and head.endswith(".py"):
        return Path(head).absolute(), name
    return (Path(reference).absolute(), "") if reference.endswith(".py") else None


def importable(folder: Path) -> None:
    """Let modules in a folder be imported, after whatever is installed: worker processes get the same path."""
    entry = str(folder.absolute())
    if entry not in sys.path:
        sys.path.append(entry)


_loaded: dict[Path, tuple[bytes, ModuleType]] = {}  # a file is run once, so that its classes are the same everywhere


def module_of(path: Path) -> ModuleType:
    """The module that a file makes, run anew only when the file has changed.

    Raises:
        ConfigError: if it cannot be read, or raises.
    """
    if not path.is_file():
        raise ConfigError(f"file {path} does not exist")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"file {path}: cannot be read ({error.strerror})") from None
    if path in _loaded and _loaded[path][0] == source:
        prefer(_loaded[path][1].__name__)
        return _loaded[path][1]
    name = called = f"marl_scenario_{path.stem}"
    if any(module.__name__ == name and other != path for other, (_, module) in _loaded.items()):
        name += f"_{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:8]}"  # another folder's
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ConfigError(f"file {path} is not Python")
    importable(path.parent)
    module = importlib.util.module_from_spec(spec)
    setattr(module, FILE_NAME, called)  # whatever other files of that name this process has met
    before = sys.modules.get(name)
    sys.modules[name] = module  # so that worker processes, pickles and dataclasses find it
    try:
        # Whoever calls has named the file; what a checkpoint or run folder names never comes here untrusted
        # (`marl.received`). Compiled here, since the import system may take a cached one of the same second.
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        if isinstance(error, ConfigError) or not isinstance(error, Exception | SystemExit):
            raise
        raise ConfigError(f"file {path}: {type(error).__name__}: {error}") from error
    _loaded[path] = source, module
    return module
