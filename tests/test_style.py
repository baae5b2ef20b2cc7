"""Small habits that a reader may rely on."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path for folder in ("marl", "marl_runtime", "envs", "scenarios") for path in sorted((ROOT / folder).rglob("*.py"))
]
SPEAKERS = ("marl/__main__.py", "marl/cli/", "marl/run/", "marl/logs/")  # who may print
VAGUE = {"trainer", "runner", "manager", "handler", "helper", "helpers", "utils", "util", "misc", "common"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_are_finished_and_quiet(path):
    text = path.read_text()
    left = [word for word in ("TODO", "FIXME", "XXX", "breakpoint()") if word in text]
    assert not left
    assert path.stem not in VAGUE
    if not name(path).startswith(SPEAKERS):
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not prints, f"{name(path)} prints in lines {prints}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def depth(cls):
    """How many classes of the library stand one above the other, protocols aside."""
    if cls.__module__.partition(".")[0] != "marl" or getattr(cls, "_is_protocol", False):
        return 0
    return 1 + max(map(depth, cls.__bases__), default=0)


@pytest.mark.parametrize("path", [path for path in FILES if name(path).startswith("marl/")], ids=name)
def test_a_class_extends_one_class_of_ours_at_most(path):
    """A base of ours, which may be a ``nn.Module`` or an ABC, and what extends it; errors are a tree of their own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[-1] == "__main__":
        return
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    own = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    towers = {cls.__qualname__: depth(cls) for cls in own if not issubclass(cls, BaseException) and depth(cls) > 2}
    assert not towers
