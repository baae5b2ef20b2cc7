"""What files say of scenarios, recipes and learners, read without running them: ``marl list`` imports no PyTorch.

Only what is plain is read: imports, assignments of literals, calls by their names. Whatever else a file does makes
nothing of it known, and whoever asks runs the file instead.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parents[1]
UNREAD = object()  # a value that only running the file would tell
TELLING = {"critic", "credit", "sequential"}  # settings by which one recipe becomes another


@dataclass(frozen=True)
class Imported:
    """Something that was imported, by its whole name."""

    name: str


@dataclass(frozen=True)
class Called:
    """A call: the whole name of what was called, and what was given by name."""

    name: str
    keywords: Mapping[str, Any]


@dataclass(frozen=True)
class Documented:
    """A function or class: the first line of what it says of itself."""

    about: str


def recipes() -> dict[str, str]:
    """All recipes by name, each with a line about it."""
    found = names_in(LIBRARY / "algorithms.py").items()
    return {name: one.about for name, one in found if isinstance(one, Documented) and not name.startswith("_")}


def learners() -> dict[str, str]:
    """The learners that settle on settings of their own, and random play, each with a line about it."""
    known = names_in(LIBRARY / "learners" / "__init__.py")
    found = {}
    for one in (*known["LEARNERS"], known["Random"]):
        *home, name = one.name.split(".")[1:]
        found[name] = names_in(LIBRARY.joinpath(*home).with_suffix(".py"))[name].about
    return found


def plain_names() -> dict[str, str]:
    """What the recipes of one agent are called: ``ippo`` by its plain name ``ppo``."""
    plain: dict[str, str] = names_in(LIBRARY / "recipes.py")["PLAIN"]
    return plain


def studies(modules: Mapping[str, str]) -> dict[str, str]:
    """The first line of what each study's file says of itself, by the study's name.

    Args:
        modules: where they are, by name.
    """
    paths = {name: _path_of(module) for name, module in modules.items()}
    return {name: "" if path is None else _first_line(path) for name, path in paths.items()}


def _first_line(path: Path) -> str:
    """Of what a file says of itself."""
    try:
        return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ""


def facts_of(point: EntryPoint) -> dict[str, Any] | None:
    """What a scenario's file says of it and of each algorithm that it has settings for, its own first; None: ask it."""
    path = _path_of(point.module)
    scenario = UNREAD if path is None else names_in(path).get(point.attr, UNREAD)
    if not isinstance(scenario, Called) or scenario.name not in ("marl.Scenario", "marl.scenario.Scenario"):
        return None
    fields = scenario.keywords
    others, own = fields.get("algorithms", {}), _algorithm(fields.get("agents", UNREAD))
    if not isinstance(others, dict) or not all(isinstance(other, dict) for other in others.values()) or own is None:
        return None
    ways = {own: fields, **{name: {**fields, **different} for name, different in others.items()}}
    said = {name: _said(way) for name, way in ways.items()}
    whole, about = _said(fields), fields.get("about", "")
    if whole is None or None in said.values() or not isinstance(about, str):
        return None
    return {"about": about, **whole, "algorithms": said}


def _said(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What to expect, after how many steps, and the extra that it needs; None where that is not plain."""
    expect, steps, extra = fields.get("expect", ""), fields.get("steps"), fields.get("extra")
    plain = isinstance(expect, str) and isinstance(steps, int) and isinstance(extra, str | None)
    return {"expect": expect, "steps": steps, "extra": extra} if plain else None


def _algorithm(agents: Any) -> str | None:
    """The recipes of all teams, by the plain name where critics are local; None where that is not plain."""
    teams = agents.values() if isinstance(agents, dict) else [agents]
    found = [_recipe(one) for one in teams]
    return None if None in found else ", ".join(dict.fromkeys(map(str, found)))


def _recipe(call: Any) -> str | None:
    name = call.name.removeprefix("marl.") if isinstance(call, Called) else ""
    if name in learners() and not TELLING & call.keywords.keys():
        return name.lower()
    plain = {recipe: short for short, recipe in plain_names().items()}
    return plain.get(name, name) if name in recipes() and not {"critic", "sequential"} & call.keywords.keys() else None


def _path_of(module: str) -> Path | None:
    """The file of a module, found without importing the packages that it is in; None if there is none such."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    folders: Iterable[str] = (spec and spec.submodule_search_locations) or ()
    paths = [Path(folder, *inner).with_suffix(".py") for folder in folders] if inner else []
    return next((path for path in paths if path.is_file()), None)


@cache
def names_in(path: Path) -> dict[str, Any]:
    """The names of a module with their values, :data:`UNREAD` where they are not plain; none if the file does more."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError):
        return {}
    names: dict[str, Any] = {}
    for statement in body:
        match statement:
            case ast.Import(names=aliases):
                names |= {one.asname or one.name.partition(".")[0]: Imported(one.name) for one in aliases}
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                names |= {one.asname or one.name: Imported(f"{module}.{one.name}") for one in aliases}
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                names[name] = _value(value, names)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names[name] = Documented((ast.get_docstring(statement) or "").partition("\n")[0])
            case ast.Expr(value=ast.Constant()):  # what the module says of itself
                pass
            case _:
                return {}
    return names


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of an expression, as far as it is plain."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return names.get(name, UNREAD)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_value(item, names) for item in items)
        case ast.Attribute(value=owner, attr=name):
            return _attribute(_value(owner, names), name)
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return _merged((None if key is None else _value(key, names), _value(value, names)) for key, value in pairs)
        case ast.Call(func=function, args=places, keywords=keywords):
            called = _value(function, names)
            given = _merged((keyword.arg, _value(keyword.value, names)) for keyword in keywords)
            first = _value(places[0], names) if places else UNREAD
            if not isinstance(called, Imported) or given is UNREAD:
                return UNREAD
            if called.name == "dataclasses.replace" and isinstance(first, Called):
                return Called(first.name, {**first.keywords, **given})
            return Called(called.name, given)
    return UNREAD


def _attribute(owner: Any, name: str) -> Any:
    """``owner.name``: of a module what its file says, of a call what it was given."""
    if isinstance(owner, Called):
        return owner.keywords.get(name, UNREAD)
    if not isinstance(owner, Imported):
        return UNREAD
    top = owner.name.partition(".")[0]
    path = None if top == "marl" or "." not in owner.name else _path_of(owner.name)
    return Imported(f"{owner.name}.{name}") if path is None else names_in(path).get(name, UNREAD)


def _merged(pairs: Iterable[tuple[Any, Any]]) -> Any:
    """A mapping; the key None stands for all of another one."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key is None and not isinstance(value, dict):
            return UNREAD
        try:
            found |= value if key is None else {key: value}
        except TypeError:  # a key that none can be
            return UNREAD
    return found
