"""Functions that make environments, pickled for a fresh interpreter, or why they cannot be."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle

from marl.adapters.lifecycle import factory_name
from marl.types import ConfigError

_dumps: Callable[[object], bytes] = cloudpickle.dumps  # typed names for an untyped library
_by_value: Callable[[ModuleType], None] = cloudpickle.register_pickle_by_value
_by_name: Callable[[ModuleType], None] = cloudpickle.unregister_pickle_by_value


def sendable(build: object, factory: object, patterns: object, options: object) -> bytes:
    """The same for workers. Raises ConfigError that names what cannot be sent."""
    try:
        return dumps((build, factory, patterns, options))
    except Exception as error:
        where = _unpicklable(factory) or _unpicklable(options) or "something that it needs"
        raise ConfigError(
            f"workers: the function that makes the environment ({factory_name(factory)}) cannot be sent to other "
            f"processes because of {where} ({type(error).__name__}: {' '.join(str(error).split())}); create that "
            "inside the function, define the function in a module, or use workers=0"
        ) from error


def _unpicklable(thing: Any, name: str = "", seen: frozenset[int] = frozenset()) -> str | None:
    """What of a thing cannot be pickled, and where it is: the innermost that can be told. None: it all can."""
    if id(thing) in seen or len(seen) > 20:
        return None
    try:
        dumps(thing)
        return None
    except Exception:
        inner = next(filter(None, (_unpicklable(part, at, seen | {id(thing)}) for at, part in _parts(thing))), None)
        return inner or (f"{name}, " if name else "") + f"a {type(thing).__module__}.{type(thing).__qualname__}"


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a thing is pickled with: variables of a function, arguments of a partial, attributes, entries."""
    if isinstance(thing, functools.partial):
        yield from ((f"argument {k}", part) for k, part in enumerate((thing.func, *thing.args)))
        yield from ((f"argument {key!r}", part) for key, part in thing.keywords.items())
    elif isinstance(thing, FunctionType):
        for at, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # not yet assigned
                yield f"variable {at!r}", cell.cell_contents
        yield from (
            (f"variable {at!r}", thing.__globals__[at]) for at in thing.__code__.co_names if at in thing.__globals__
        )
        yield from ((f"default of {thing.__qualname__}", part) for part in thing.__defaults__ or ())
    elif isinstance(thing, MethodType):
        yield f"the object of {thing.__qualname__}", thing.__self__
    elif isinstance(thing, Mapping):
        yield from ((f"entry {key!r}", part) for key, part in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from (("an entry", part) for part in thing)
    elif not isinstance(thing, type | ModuleType):
        yield from ((f"attribute {key!r}", part) for key, part in getattr(thing, "__dict__", {}).items())


def dumps(payload: object) -> bytes:
    """Pickle for a fresh interpreter. What comes from files that cannot be imported by name travels by value."""
    modules = [module for name, module in list(sys.modules.items()) if _is_stray(name, module)]
    for module in modules:
        _by_value(module)
    try:
        return _dumps(payload)
    finally:
        for module in modules:
            _by_name(module)


def _is_stray(name: str, module: ModuleType) -> bool:
    """Whether a module came from a file, or from no file, that importing its name elsewhere would not find."""
    file = getattr(module, "__file__", None)
    if name == "__main__" or getattr(module, "__name__", None) != name:
        return False
    if file is None:  # a notebook's cells, or what exec() filled: no loader ever saw it
        return "." not in name and getattr(module, "__spec__", None) is None
    if not file.endswith(".py"):
        return False
    folder, base = os.path.split(os.path.abspath(file))
    if base == "__init__.py":
        folder, base = os.path.split(folder)
    parent, _, last = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", ()) if parent else sys.path
    if base.partition(".")[0] == last and any(os.path.abspath(entry) == folder for entry in path):
        return False
    try:
        found = [finder.find_spec(name, None if not parent else path) for finder in sys.meta_path]
    except Exception:
        return True
    return not any(spec is not None and spec.origin == file for spec in found)
