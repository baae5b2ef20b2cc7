"""What the API pages show beside the source: links in docstrings, and the settings of learners and recipes."""

from __future__ import annotations

import dataclasses
import html
import importlib
import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(?P<short>~?)(?P<name>[\w.]+)`")
LIMITS = (("above", "above {}"), ("least", "at least {}"), ("below", "below {}"), ("most", "at most {}"))


class ApiPages(griffe.Extension):
    """``:class:`Name``` becomes a link; classes of ``setting`` fields and recipes show what one may give them."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Change the docstrings of a package that was read."""
        _walk(pkg)


def _walk(place: griffe.Object) -> None:
    if place.is_class:
        _class(place)
    if place.is_function and place.parent.path == "marl.algorithms" and not place.name.startswith("_"):
        _recipe(place)
    if place.docstring is not None:
        place.docstring.value = ROLE.sub(lambda found: _link(place, found), place.docstring.value)
    for member in list(place.members.values()):
        if not member.is_alias:
            _walk(member)


def _class(place: griffe.Class) -> None:
    init = place.members.get("__init__")
    if any(str(one.value) == "config" for one in place.decorators):
        place.members["__init__"] = _init_of(place)
    elif init is not None and place.docstring is not None and "Args:" in place.docstring.value:
        init.docstring = None  # the class has said it


def _link(place: griffe.Object, found: re.Match[str]) -> str:
    """A link if the name is on some page, else code."""
    name = found["name"]
    shown = name.rpartition(".")[2] if found["short"] else name
    path = name
    for scope in (place, place.parent):
        try:
            path = scope.resolve(name) if scope is not None and not name.startswith("marl.") else name
            break
        except (griffe.NameResolutionError, AttributeError):
            continue
    return f'<autoref optional identifier="{html.escape(path)}"><code>{html.escape(shown)}</code></autoref>'


def _value(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _init_of(place: griffe.Class) -> griffe.Function:
    """The constructor of a class of ``setting`` fields, with their meaning in the docstring of the class."""
    cls = _value(place.path)
    fields = dataclasses.fields(cls)
    lines = []
    for field in fields:
        ranges = [words.format(f"{x:g}") for key, words in LIMITS if (x := field.metadata.get(key)) is not None]
        choices = " or ".join(f"`{choice!r}`" for choice in field.metadata.get("one_of") or ())
        more = "; ".join(filter(None, (field.metadata.get("doc", ""), " and ".join(ranges), choices)))
        lines.append(f"    {field.name}: {more}.")
    said = place.docstring.value.rstrip() if place.docstring is not None else ""
    place.docstring = griffe.Docstring("\n".join([said, "", "Args:", *lines]), parent=place)
    parameters = [
        griffe.Parameter(
            field.name,
            annotation=_annotation(place, field),
            kind=griffe.ParameterKind.keyword_only,
            default=None if field.default is dataclasses.MISSING else repr(field.default),
        )
        for field in fields
    ]
    own = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    init = griffe.Function("__init__", parameters=griffe.Parameters(own, *parameters), parent=place)
    for field in fields:
        place.members.pop(field.name, None)  # in the table already
    return init


def _annotation(place: griffe.Class, field: dataclasses.Field[Any]) -> Any:
    written = place.members.get(field.name)
    return written.annotation if written is not None and not written.is_alias else str(field.type)


def _recipe(place: griffe.Function) -> None:
    """What a recipe changes of its learner's defaults."""
    made = _value(place.path)()
    plain = type(made)()
    own = [
        f"`{field.name}={getattr(made, field.name)!r}`"
        for field in dataclasses.fields(made)
        if getattr(made, field.name) != getattr(plain, field.name)
    ]
    learner = f":class:`~marl.{type(made).__name__}`"
    changed = f" Defaults that differ: {', '.join(own)}." if own else ""
    place.docstring.value = f"{place.docstring.value.rstrip()}\n\nSettings: those of {learner}.{changed}"
