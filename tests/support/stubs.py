"""What type checkers read of modules whose names are imported when first used; ``python -m tests.support.stubs`` writes
it."""

from __future__ import annotations

import importlib
from pathlib import Path

import marl
from marl.lazy import homes

ROOT = Path(__file__).parents[2]
LAZY = {"marl": "marl/__init__.pyi", "marl.extend": "marl/extend.pyi"}
MODULES = {"marl": marl._NAMESPACES, "marl.extend": ()}  # modules among the names of each
HEAD = {
    "marl": '"""What type checkers know of the public names; at run time they load when first used."""',
    "marl.extend": '"""What type checkers know of the names for extensions; at run time they load when first used."""',
}


def stub(name: str) -> str:
    """The text of one stub: ``import a as a`` is how it says that a name is public."""
    home_of = homes(importlib.import_module(name)._HOMES)
    own = [f"from {name} import {module} as {module}" for module in MODULES[name]]
    # As ruff sorts them: modules, then within one constants, classes, functions.
    order = sorted(home_of, key=lambda each: (home_of[each], _kind(each), each))
    lines = [f"from {home_of[each]} import {each} as {each}" for each in order]
    end = ["", "__all__: list[str]", *(["__version__: str"] if name == "marl" else [])]
    return "\n".join([HEAD[name], "", *own, *lines, *end, ""])


def _kind(name: str) -> int:
    return 0 if name.isupper() else 1 if name[0].isupper() else 2


if __name__ == "__main__":
    for name, path in LAZY.items():
        (ROOT / path).write_text(stub(name))
