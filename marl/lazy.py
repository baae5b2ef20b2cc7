"""Public names that are imported when first used, so that a process that only steps environments stays small."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def homes(names: Mapping[str, str]) -> dict[str, str]:
    """The module of each name, from the names of each module, blanks between them."""
    return {name: home for home, listed in names.items() for name in listed.split()}


def attach(
    package: str, home_of: Mapping[str, str], namespace: dict[str, Any]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a module whose names live in other modules.

    Args:
        package: the module's name.
        home_of: the module that each public name is imported from.
        namespace: the module's own; what was imported once is kept there.
    """
    public = sorted(home_of)

    def __getattr__(name: str) -> object:
        if name not in home_of:
            import difflib  # which takes a while, for an error

            near = difflib.get_close_matches(name, public, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
        value = namespace[name] = getattr(importlib.import_module(home_of[name]), name)
        return value

    return __getattr__, lambda: public, public
