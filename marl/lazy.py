"""Public names that are imported when first used, so that a process that only steps environments stays small."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def homes(names: Mapping[str, str]) -> dict[str, str]:
    """The module of each name, from the names of each module, blanks between them."""
    return {name: home for home, listed in names.items() for name in listed.split()}


def attach(
    package: str,
    home_of: Mapping[str, str],
    namespace: dict[str, Any],
    modules: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a module whose names live in other modules.

    Args:
        package: the module's name.
        home_of: the module that each public name is imported from.
        namespace: the module's own; what was imported once is kept there.
        modules: submodules that are found in the same way, not part of ``__all__``.
        renamed: the new names of old ones, which an error tells.
    """
    public, old = sorted(home_of), renamed or {}

    def __getattr__(name: str) -> object:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name in home_of:
            value = namespace[name] = getattr(importlib.import_module(home_of[name]), name)
            return value
        if name in old:
            raise AttributeError(f"{package}.{name} is now {package}.{old[name]}")
        import difflib  # which takes a while, for an error

        near = difflib.get_close_matches(name, [*public, *modules, *old], n=1, cutoff=0.5)
        hint = f"; did you mean {old.get(near[0], near[0])!r}?" if near else ""
        raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")

    return __getattr__, lambda: sorted([*public, *modules]), public
