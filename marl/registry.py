"""Settings classes of users: which of them files may name."""

from __future__ import annotations

import dataclasses
import sys
from typing import TypeVar

from marl.installed import entry_points
from marl.types import ConfigError

C = TypeVar("C")
GROUP = "marl.settings"
FILE_NAME = "__registers_as__"  # in a module that was made of a file: what its classes are registered under
_registered: dict[str, type] = {}
_names: dict[type, str] = {}


def register(cls: type[C]) -> type[C]:
    """Let checkpoints name a settings class of yours: it is saved as its name and its fields. Also a decorator.

    The name is ``module:class``; the module of a scenario file is ``marl_scenario_`` and the file's name. A checkpoint
    that names the class is read wherever it is registered too: by this call, or by
    the installed package that it is in, which says so in its ``pyproject.toml``::

        [project.entry-points."marl.settings"]
        reinforce = "my_package.reinforce:Reinforce"

    Raises:
        ConfigError: for anything but a frozen dataclass at the top of its module.
    """
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise ConfigError(f"register: expected a frozen dataclass of settings, got {cls!r:.200}")
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"register: {cls.__name__} can change; write @dataclass(frozen=True), or @marl.extend.config")
    if "." in cls.__qualname__:
        raise ConfigError(
            f"register: {cls.__qualname__} stands inside of a function or class, where no file can find it; "
            "move it to the top of its module"
        )
    module = getattr(sys.modules.get(cls.__module__), FILE_NAME, cls.__module__)
    name = f"{module}:{cls.__qualname__}"
    _registered[name], _names[cls] = cls, name
    return cls


def prefer(module: str) -> None:
    """Let names that several files have registered mean the classes of this module: its file was named last."""
    _registered.update({name: cls for cls, name in _names.items() if cls.__module__ == module})


def registered_name(cls: type) -> str | None:
    """The name that files may call a class by; None if it is not registered."""
    if cls in _names:
        return _names[cls]
    for point in entry_points(group=GROUP):
        module = sys.modules.get(point.module)  # a class that exists was imported
        if module is not None and getattr(module, point.attr, None) is cls:
            return point.value
    return None


def registered_class(name: str) -> type | None:
    """The class that a file names, if it is registered; a package's own is imported then and not before.

    Raises:
        ConfigError: if an installed package registers what is no frozen dataclass.
    """
    if name not in _registered:
        for point in entry_points(group=GROUP):
            if point.value == name:
                _registered[name] = register(point.load())
    return _registered.get(name)
