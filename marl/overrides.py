"""Settings from the command line: ``learner.clip=0.1`` into the dataclasses of a scenario, ``ippo(lr=3e-4)``."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from marl import callbacks
from marl.callbacks import Callback
from marl.config import SETTINGS, nearest, settings_class, unknown
from marl.learners import LEARNERS, LearnerConfig
from marl.recipes import recipe_named
from marl.scenario import Scenario
from marl.setup import FILE, INSIDE, WHOLE, Agents
from marl.types import ConfigError


def override(scenario: Scenario, assignments: Sequence[str]) -> Scenario:
    """A scenario with some settings changed.

    Keys: ``learner.FIELD`` (every team's learner), ``TEAM.FIELD`` or ``TEAM.learner.FIELD`` (a team's pattern or
    name), ``env_kwargs.NAME``, ``league.FIELD``, ``curriculum.FIELD``, and the scenario's own fields; fields of fields
    too: ``learner.network.sizes=64,64``, ``curriculum.stages.0.advance.at_least=0.8``.

    Raises:
        ConfigError: naming the key, what was expected, what came, and the nearest key.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as learner.lr=0.001")
        scenario = _set(scenario, key, text.strip())
    return scenario


def agents_said(texts: Sequence[str]) -> Agents:
    """Learners in words: ``ippo(lr=3e-4)``, or ``PATTERN=RECIPE(...)`` for each team.

    A recipe's or learner's name, called with plain values and settings objects; nothing else is evaluated.

    Raises:
        ConfigError: for anything else, naming the nearest.
    """
    said = [_PATTERN.fullmatch(text.strip()) for text in texts]
    if len(said) == 1 and said[0] is None:
        return _learner(texts[0])
    for text, match in zip(texts, said, strict=True):
        if match is None:
            raise ConfigError(f"--agents {text}: expected PATTERN=RECIPE(...) for each team, such as 'agent_*=ippo()'")
    teams = [(match["pattern"].strip(), match["learner"]) for match in said if match is not None]
    for pattern in {pattern for pattern, _ in teams if [one for one, _ in teams].count(pattern) > 1}:
        raise ConfigError(f"--agents {pattern}=...: given twice")
    return {pattern: _learner(text) for pattern, text in teams}


def callbacks_said(texts: Sequence[str]) -> list[Callback]:
    """Shipped callbacks in words, ``EarlyStopping(patience=10)``. Raises ConfigError for anything else."""
    return [_callback(text) for text in texts]


def keywords_said(texts: Sequence[str]) -> dict[str, Any]:
    """Keywords of an environment in words, ``N=5``. Raises ConfigError for what is no assignment."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"--env-kwargs {text}: expected NAME=VALUE, such as N=5")
        found[name.strip()] = _literal(value.strip())
    return found


_PATTERN = re.compile(r"(?P<pattern>[^=()]+)=(?P<learner>.+)", re.DOTALL)


def _learner(text: str) -> LearnerConfig:
    """A recipe's settings in words; brackets may be left out."""
    where = f"--agents {text.strip()}"
    name, call = _name_and_call(text, f"{where}: expected RECIPE(NAME=VALUE, ...), such as ippo(lr=3e-4)")
    classes = {cls.__name__: cls for cls in LEARNERS}
    made = classes[name] if name in classes else recipe_named(name, where, list(classes))
    try:
        places, keywords = _arguments(call)
        if places:
            raise ConfigError("settings are given by name, such as lr=3e-4")
        return made(**keywords)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _callback(text: str) -> Callback:
    """A shipped callback in words; brackets may be left out."""
    where = f"--callback {text.strip()}"
    name, call = _name_and_call(text, f"{where}: expected NAME(...), such as EarlyStopping(patience=10)")
    shipped = {name: getattr(callbacks, name) for name in callbacks.__all__}
    own = {name: cls for name, cls in shipped.items() if issubclass(cls, Callback) and cls is not Callback}
    if name not in own:
        hint = "; one of your own stands in a scenario file, Scenario(callbacks=[...])"
        raise ConfigError(unknown(where, name, own, "callback") + hint)
    known = list(inspect.signature(own[name]).parameters)
    try:
        values, keywords = _arguments(call)
        for given in keywords:
            if given not in known:
                raise ConfigError(unknown(name, given, known, "argument"))
        made: Callback = own[name](*values, **keywords)
        return made
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None


def _name_and_call(text: str, otherwise: str) -> tuple[str, ast.Call | None]:
    """The name in ``NAME`` or ``NAME(...)``, and the call. Raises ConfigError, ``otherwise``, for anything else."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        node = None
    call = node if isinstance(node, ast.Call) else None
    name = _called(call.func if call is not None else node)
    if name is None:
        raise ConfigError(otherwise)
    return name, call


def _arguments(call: ast.Call | None) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, by place and by name. Raises ConfigError."""
    if call is None:
        return [], {}
    return [_made(value) for value in call.args], {str(one.arg): _made(one.value) for one in call.keywords}


def _called(node: ast.expr | None) -> str | None:
    """The name in ``NAME`` or ``marl.NAME``; None for any other expression."""
    if isinstance(node, ast.Attribute):
        return (
            node.attr if all(isinstance(part, ast.Attribute | ast.Name | ast.Load) for part in ast.walk(node)) else None
        )
    return node.id if isinstance(node, ast.Name) else None


def keys(scenario: Scenario) -> list[str]:
    """Every key that can be set."""
    told = _told(scenario)
    found = [name for name, how in told.items() if how == WHOLE]
    found += [f"env_kwargs.{name}" for name in scenario.env_kwargs]
    for head in (name for name, how in told.items() if how != FILE and name != "env_kwargs"):
        found += [f"{head}.{name}" for name in _inner(getattr(scenario, head))]
    if isinstance(scenario.agents, Mapping):
        for name, learner in _teams(scenario).items():
            found += [f"{name}.{field}" for field in _inner(learner)]
        first = next(iter(scenario.agents.values()))
        return found + [f"learner.{field}" for field in _inner(first)]
    return found + [f"learner.{field}" for field in _inner(scenario.agents)]


def _told(scenario: Scenario) -> dict[str, str]:
    """What may be said of each field; of the others only a scenario file can say something."""
    return {field.name: field.metadata.get("told", WHOLE) for field in dataclasses.fields(scenario)}


def _inner(value: Any) -> Iterator[str]:
    """Fields of a settings object, and of settings objects in them; numbers of lists of these, keys of mappings."""
    if isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        parts = {str(place): item for place, item in enumerate(value)}
    elif isinstance(value, Mapping):
        parts = dict(value)
    elif dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        return
    for name, part in parts.items():
        yield name
        for inner in _inner(part):
            yield f"{name}.{inner}"


def _teams(scenario: Scenario) -> dict[str, Any]:
    """Learners by pattern and by team name."""
    assert isinstance(scenario.agents, Mapping)
    short = {pattern.rstrip("*?").rstrip("_-") or "team": pattern for pattern in scenario.agents}
    return {pattern: scenario.agents[pattern] for pattern in scenario.agents} | {
        name: scenario.agents[pattern] for name, pattern in short.items()
    }


def _set(scenario: Scenario, key: str, text: str) -> Scenario:
    head, _, rest = key.partition(".")
    if head == "learner" and rest:
        if isinstance(scenario.agents, Mapping):
            able = [
                pattern for pattern, learner in scenario.agents.items() if rest.partition(".")[0] in _inner(learner)
            ]
            if not able:
                raise _unknown(scenario, key)
            changed = {name: _replaced(scenario, scenario.agents[name], rest, text, key) for name in able}
            return dataclasses.replace(scenario, agents={**scenario.agents, **changed})
        return dataclasses.replace(scenario, agents=_replaced(scenario, scenario.agents, rest, text, key))
    if isinstance(scenario.agents, Mapping) and rest:
        for pattern in scenario.agents:
            # Patterns may hold dots of their own; a team's name is its pattern without the wildcard.
            for name in (pattern, pattern.rstrip("*?").rstrip("_-") or "team"):
                if key.startswith(f"{name}."):
                    field = key[len(name) + 1 :].removeprefix("learner.")
                    changed = {pattern: _replaced(scenario, scenario.agents[pattern], field, text, key)}
                    return dataclasses.replace(scenario, agents={**scenario.agents, **changed})
    if head == "env_kwargs" and rest:
        return dataclasses.replace(scenario, env_kwargs={**scenario.env_kwargs, rest: _literal(text)})
    told = _told(scenario).get(head, WHOLE)
    inside = bool(rest) and told == INSIDE and getattr(scenario, head) is not None
    if (told != WHOLE and not inside) or head == "learner":
        raise ConfigError(
            f"--set {key}: only a scenario file can say this; settable: {', '.join(keys(scenario)[:8])}, ..."
        )
    replaced: Scenario = _replaced(scenario, scenario, key, text, key)
    return replaced


def _unknown(scenario: Scenario, key: str) -> ConfigError:
    """The nearest key, and what there is beside it."""
    known = keys(scenario)
    near = nearest(key, known)
    hint = f"; did you mean {near!r}?" if near else ""
    head = (near or key).rpartition(".")[0]
    beside = [name.removeprefix(f"{head}.") for name in known if head and name.rpartition(".")[0] == head]
    if not beside:
        beside = list(dict.fromkeys(name if "." not in name else f"{name.partition('.')[0]}.*" for name in known))
    return ConfigError(f"--set {key}: unknown key{hint} (known: {', '.join(beside)})")


def _replaced(scenario: Scenario, value: Any, path: str, text: str, key: str) -> Any:
    """A settings object with one field (of a field) changed."""
    name, _, rest = path.partition(".")
    if isinstance(value, tuple) and rest and name.isdigit() and int(name) < len(value):
        changed = _replaced(scenario, value[int(name)], rest, text, key)
        return (*value[: int(name)], changed, *value[int(name) + 1 :])
    if isinstance(value, Mapping) and name in value:
        return {**value, name: _replaced(scenario, value[name], rest, text, key) if rest else _literal(text)}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise _unknown(scenario, key)
    if name not in {field.name for field in dataclasses.fields(value)}:
        raise _unknown(scenario, key)
    if rest:
        if getattr(value, name) is None:
            whole = key.removesuffix(f".{rest}")
            raise ConfigError(
                f"--set {key}: {whole} is None here; give it whole, such as {_example(whole, value, name)}"
            )
        new = _replaced(scenario, getattr(value, name), rest, text, key)
    else:
        hint = typing.get_type_hints(type(value))[name]
        new = _value(text, hint, key)
    try:
        return dataclasses.replace(value, **{name: new})
    except ConfigError as error:
        raise ConfigError(f"--set {key}={text}: {error}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--set {key}={text}: {error}") from None


def _example(key: str, value: Any, name: str) -> str:
    """How to say a settings object whole."""
    hint = typing.get_type_hints(type(value))[name]
    return f"{key}={next(word for option in _options(hint) if (word := _word(option)) != 'None').partition(',')[0]}"


class _No(Exception):
    """The text does not say a value of this type."""


def _value(text: str, hint: Any, key: str) -> Any:
    for option in _options(hint):
        try:
            return _as(text, option)
        except _No:
            continue
        except ConfigError as error:
            raise ConfigError(f"--set {key}={text}: {error}") from None
    wanted = " or ".join(dict.fromkeys(_word(option) for option in _options(hint)))
    kind = type(_literal(text)).__name__
    raise ConfigError(f"--set {key}={text}: expected {wanted}, got {text!r} ({kind})")


def _options(hint: Any) -> list[Any]:
    """The members of a union, texts last: a number must not be taken for one."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    flat = [inner for member in members for inner in (_options(member) if _is_union(member) else [member])]
    return sorted(flat, key=lambda option: (option is str, option is float))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _as(text: str, hint: Any) -> Any:
    """What ``text`` means as a ``hint``; raises _No if it means nothing."""
    literal = _literal(text)
    origin = typing.get_origin(hint)
    if hint is None or hint is type(None):
        return _sure(None, literal is None)
    if hint is bool:
        return _sure(literal, isinstance(literal, bool))
    if hint is int:
        return _sure(literal, isinstance(literal, int) and not isinstance(literal, bool))
    if hint is float:
        if isinstance(literal, str) and literal.lower() in ("nan", "inf", "-inf"):
            return float(literal)  # the field's own range says why not
        return _sure(literal, isinstance(literal, int | float) and not isinstance(literal, bool))
    if hint is str:
        return _sure(literal, isinstance(literal, str))
    if origin is typing.Literal:
        return _sure(literal, literal in typing.get_args(hint))
    if origin is tuple:
        items = literal if isinstance(literal, tuple | list) else (literal,)
        inner = typing.get_args(hint)[0]
        return tuple(_as(str(item), inner) for item in items)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _sure(literal, isinstance(literal, dict))
    made = _call(text)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _sure(made, isinstance(made, hint))
    if getattr(hint, "_is_protocol", False):
        members = [name for name in vars(hint) if not name.startswith("_") or name == "__call__"]
        return _sure(made, made is not None and all(hasattr(made, name) for name in members))
    if hint is Any:
        return literal
    raise _No


def _sure(value: Any, fits: bool) -> Any:
    if not fits:
        raise _No
    return value


def _literal(text: str) -> Any:
    """A Python (or JSON) value; else the text itself."""
    words: dict[str, bool | None] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def _call(text: str) -> Any:
    """A settings object such as ``Linear(1e-3, 0)``: a public name of the library, called with plain values."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return _made(node, inner=False) if isinstance(node, ast.Call) else None


def _made(node: ast.expr, inner: bool = True) -> Any:
    """The value of an expression: plain, or a settings object, whose arguments may be settings objects again.

    None for the call of another name; an ``inner`` one is refused. Raises ConfigError.
    """
    if not isinstance(node, ast.Call):
        return _plain(node)
    name = _called(node.func) or ""
    cls = settings_class(name)
    if cls is None and inner:
        known = sorted(one for names in SETTINGS.values() for one in names)
        near = nearest(name, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(f"{name!r} is no settings class of the library{hint}")
    if cls is None:
        return None
    try:
        arguments = [_made(argument) for argument in node.args]
        keywords = {str(keyword.arg): _made(keyword.value) for keyword in node.keywords}
        return cls(*arguments, **keywords)
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name}: {error}") from None


def _plain(node: ast.expr) -> Any:
    """A plain value: numbers, texts, truth values, None, and lists, tuples and mappings of what :func:`_made` makes.

    Raises:
        ConfigError: for names and anything that would have to be computed.
    """
    if isinstance(node, ast.Tuple | ast.List):
        items = [_made(item) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise ConfigError(f"expected a plain value or a settings object, got {ast.unparse(node)!r:.80}") from None


def _word(hint: Any) -> str:
    """A type in words."""
    if hint is type(None):
        return "None"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    if hint in plain:
        return plain[hint]
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"{_word(typing.get_args(hint)[0]).removeprefix('a ')}s separated by commas"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"{hint.__name__}(...)"
    if getattr(hint, "_is_protocol", False):
        examples = {
            "Network": "MLP(...), CNN(...), GRU(...) or LSTM(...)",
            "Stop": "MeanReturn(...)",
            "Scope": "Joint(...), Local(...) or another scope",
            "Credit": "Independent(...), TeamReward(...) or another credit",
            "Optimizer": "Adam(...), SGD(...) or another optimizer",
            "Exploration": "EpsilonGreedy(...), GaussianNoise(...) or another exploration",
        }
        return examples.get(str(hint.__name__), str(hint.__name__))
    return str(getattr(hint, "__name__", hint))
