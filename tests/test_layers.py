"""Who may import whom: levels import lower levels only, and the library knows neither worlds nor scenarios."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Within a level, modules import only what stands further left.
LEVELS = (
    ("L0", "renamed types lazy"),
    (
        "L1",
        "files notebook parallel reduce launched ranks compiling compiled ops spaces installed registry sources config "
        "cluster teams schedules graphs nets optim exploration",
    ),
    ("L2", "topology channels auxiliary grid stopping memory adapters shaping curriculum"),
    ("L3", "actor_critic action_critic learners"),
    (
        "L4",
        "algorithms recipes checkpoint spec_json program playing league setup scenario received environments training "
        "callbacks logs",
    ),
    ("L5", "run panel camera film deploy system studies report seat conformance extend"),
    ("L6", "overrides cli __main__"),
)
ORDER = [f"marl.{unit}" for _, units in LEVELS for unit in units.split()]


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files(package: str) -> dict[str, Path]:
    """Module names and files of one of our packages."""
    root = {"marl": ROOT, "marl_runtime": ROOT, "marl_envs": ROOT / "envs", "marl_scenarios": ROOT / "scenarios"}[
        package
    ]
    return {module_name(path, root): path for path in sorted((root / package).rglob("*.py"))}


MODULES = {
    name: path
    for package in ("marl", "marl_runtime", "marl_envs", "marl_scenarios")
    for name, path in files(package).items()
}


def imports(name: str) -> Iterator[tuple[str, int]]:
    """What a module imports anywhere in its file, functions and type checking included, and on which line."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import; write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else str(node.module)), node.lineno


def unit(name: str) -> str | None:
    """The entry of the table that a module of ours belongs to: the longest that fits."""
    fitting = [entry for entry in ORDER if name == entry or name.startswith(f"{entry}.")]
    return max(fitting, key=len) if fitting else None


def below(name: str, imported: str) -> bool:
    """Whether the table lets one module of ours import another."""
    own, other = unit(name), unit(imported)
    return own is not None and other is not None and (own == other or ORDER.index(other) < ORDER.index(own))


@pytest.mark.parametrize("name", [name for name in files("marl") if name != "marl"])
def test_levels_import_lower_levels_only(name):
    assert unit(name) is not None, f"{name} has no level: put it into LEVELS and docs/architecture.md"
    for imported, line in imports(name):
        assert imported != "marl", f"{name}:{line} imports the public interface, which is made of everything"
        if imported.startswith("marl."):
            assert below(name, imported), f"{name}:{line} imports {imported}, which is not below it"


def test_no_module_imports_itself_by_way_of_others():
    """Imports inside of functions and for type checkers count: they would only hide a cycle."""
    names = list(files("marl"))
    waits = {name: {other for other, _ in imports(name) if other in names and other != name} for name in names}
    while free := [name for name, others in waits.items() if not others]:
        waits = {name: others - set(free) for name, others in waits.items() if name not in free}
    assert not waits, f"in a cycle, or above one: {sorted(waits)}"


@pytest.mark.parametrize("name", files("marl"))
def test_the_library_imports_neither_worlds_nor_scenarios(name):
    foreign = {
        imported for imported, _ in imports(name) if imported.split(".")[0] in ("marl_envs", "marl_scenarios", "tests")
    }
    assert not foreign


@pytest.mark.parametrize("name", files("marl_runtime"))
def test_the_runtime_needs_numpy_alone(name):
    """But for what engines import when they are asked for, and for the service, which nothing else imports."""
    everything = {imported for imported, _ in imports(name)}
    roots = {imported.partition(".")[0] for imported in everything}
    engine = {"marl_runtime.onnx": {"onnxruntime"}, "marl_runtime.torch": {"torch"}}.get(name, set())
    of_service = name.startswith("marl_runtime.service")
    service = {"starlette", "uvicorn", "websockets"} if of_service else set()
    assert roots <= {"marl_runtime", "numpy", *engine, *service, *sys.stdlib_module_names}
    assert of_service or not [one for one in everything if one.startswith("marl_runtime.service")]
    outside = ast.parse(MODULES[name].read_text()).body
    found = {alias.name for node in outside if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in outside if isinstance(node, ast.ImportFrom)}
    assert not found & {"onnxruntime", "marl_runtime.torch"}


@pytest.mark.parametrize("name", files("marl_envs"))
def test_worlds_import_types_and_nothing_else_of_the_library(name):
    ours = {imported for imported, _ in imports(name) if imported.split(".")[0] in ("marl", "marl_scenarios", "tests")}
    assert ours <= {"marl.types"}


@pytest.mark.parametrize("name", files("marl_scenarios"))
def test_scenarios_use_the_public_interface(name):
    ours = {imported for imported, _ in imports(name) if imported.split(".")[0] == "marl"}
    assert ours <= {"marl"}


@pytest.mark.parametrize("name", [name for name in files("marl") if name.startswith("marl.learners.")])
def test_learners_never_import_their_siblings(name):
    siblings = {imported for imported, _ in imports(name) if imported.startswith("marl.learners")}
    shared = {f"marl.learners.{base}" for base in ("base", "together", "on_policy", "off_policy")}
    assert siblings <= shared | {name}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_share_what_stands_beside_test_modules_never_in_one(path):
    tree = ast.parse(path.read_text())
    froms = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert not [name for name in froms if name.startswith("tests.") and ".test_" in name]


def test_the_architecture_page_has_the_same_table():
    rows = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1] in {level for level, _ in LEVELS}:
            rows[cells[1]] = [word.strip("`") for word in cells[2].split()]
    assert rows == {level: units.split() for level, units in LEVELS}


def test_importing_marl_loads_nothing_heavy():
    heavy = ("torch", "numba", "matplotlib", "rich", "tyro")
    code = f"import sys, marl, marl.types; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
