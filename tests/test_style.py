"""Small habits that a reader may rely on."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("marl", "envs", "scenarios") for path in sorted((ROOT / folder).rglob("*.py"))]
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
