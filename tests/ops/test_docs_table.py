"""docs/ops.md lists every public name of RLax and of `marl.ops`, and links each to its docstring."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from marl import ops

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ops.md"
TEXT = PAGE.read_text()
RLAX = Path(__file__).with_name("rlax_names.txt").read_text().split()  # test_against_rlax.py sees that it is complete
TABLE = TEXT.partition("\n## Every public name of RLax")[2]
# | `name` | where it is here | difference |
ROWS = {name: (here, why) for name, here, why in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\|$", TABLE, re.MULTILINE)}
LINKED = re.findall(r"\[`ops\.(\w+)`\]\[(\w+)\]", TEXT)
TARGETS = dict(re.findall(r"^\[(\w+)\]: (\S+)$", TEXT, re.MULTILINE))


@pytest.mark.parametrize("name", RLAX)
def test_every_name_of_rlax_is_here_or_has_a_reason(name):
    here, why = ROWS[name]
    if here == "-":
        assert why.startswith("left out: ")
        assert not hasattr(ops, name)
    else:
        assert here == f"[`ops.{name}`][{name}]"


def test_the_table_has_names_of_rlax_only_and_in_order():
    assert list(ROWS) == sorted(RLAX, key=str.lower) == sorted(ROWS, key=str.lower)


def test_every_exported_name_is_in_exactly_one_table():
    assert sorted(name for name, _ in LINKED) == sorted(ops.__all__)


def test_every_link_leads_to_the_docstring_of_that_name():
    assert all(name == label for name, label in LINKED)
    assert sorted(TARGETS) == sorted(ops.__all__)
    assert len({label.lower() for label in TARGETS}) == len(TARGETS)  # Markdown ignores the case of labels
    for name, target in TARGETS.items():
        file, _, anchor = target.partition("#")
        assert (PAGE.parent / file).is_file()
        assert anchor == f"marl.ops.{name}"
        assert "::: marl.ops\n" in (PAGE.parent / file).read_text()


def test_no_link_has_a_line_number():
    assert not re.search(r"#L\d", TEXT)


def test_no_module_hides_a_name_of_its_own_name():
    # The API page would show the module instead of the function.
    modules = {path.stem for path in (ROOT / "marl" / "ops").glob("*.py")}
    assert not modules & set(ops.__all__)


@cache
def docstrings():
    """What the API page reads: of functions and classes, and the string after an assignment."""
    found = {}
    for path in (ROOT / "marl" / "ops").glob("*.py"):
        body = ast.parse(path.read_text()).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name] = ast.get_docstring(node) or ""
            elif isinstance(node, ast.Assign) and isinstance(following, ast.Expr):
                value = following.value
                if isinstance(value, ast.Constant) and isinstance(node.targets[0], ast.Name):
                    found[node.targets[0].id] = str(value.value)
    return found


def test_every_exported_name_has_a_docstring():
    found = docstrings()
    assert not [name for name in ops.__all__ if not found.get(name)]


@pytest.mark.parametrize("name", [n for n in ops.__all__ if callable(getattr(ops, n)) and n.islower()])
def test_a_functions_docstring_has_all_its_parts(name):
    text = docstrings()[name]
    first, _, rest = text.partition("\n\n")
    assert first.count("\n") <= 2
    assert "Args:" in rest or not getattr(ops, name).__code__.co_argcount
    assert "Returns:" in rest
    assert "Raises:" in rest or name in ("compose_tx", "greedy")
