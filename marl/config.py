"""Settings: frozen dataclasses whose fields say once what they mean, what they may be, and what they are by default."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import json
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import numpy as np

from marl.registry import registered_class, registered_name
from marl.renamed import FIELDS, NAMES
from marl.types import ConfigError

C = TypeVar("C")
ELSEWHERE = {  # what other libraries call a setting, and its names here
    "learning_rate": ("lr",),
    "actor_lr": ("lr",),
    "gamma": ("discount",),
    "batch_size": ("batch", "minibatches"),
    "buffer_size": ("buffer",),
    "n_steps": ("rollout", "n_step"),
    "train_batch_size": ("rollout", "batch"),
    "n_epochs": ("epochs",),
    "num_sgd_iter": ("epochs",),
    "ent_coef": ("entropy", "temperature"),
    "alpha": ("temperature",),
    "vf_coef": ("value_weight",),
    "clip_range": ("clip",),
    "clip_range_vf": ("value_clip",),
    "train_freq": ("updates_per_step",),
    "gradient_steps": ("updates_per_step",),
    "target_update_interval": ("target_every",),
    "polyak": ("tau",),
    "policy": ("network",),
    "policy_kwargs": ("network",),
    "net_arch": ("network", "sizes"),
    "action_noise": ("exploration",),
    "epsilon": ("exploration",),
    "exploration_fraction": ("exploration",),
    "exploration_initial_eps": ("exploration",),
    "exploration_final_eps": ("exploration",),
    "replay_buffer_class": ("hindsight",),
    "mixer": ("credit",),
    "parameter_sharing": ("sharing",),
    "adam_eps": ("optimizer.eps",),
    "optimizer_class": ("optimizer",),
    "weight_decay": ("optimizer.weight_decay", "optimizer"),
    "momentum": ("optimizer.momentum", "optimizer"),
}
GONE = {"adam_eps": "it is optimizer=marl.optim.Adam(eps=...) now"}  # settings that other ones took the place of
LONGEST_WHOLE, LARGEST_ARRAY = 10_000, 1_000_000  # bits of a number, elements of an array in settings
# The classes of the library that a file may name, by module or by the package that shows them: every one is a value of
# an axis and holds no code. Beside them a file may name what users registered.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "marl.adapters.spoken": ("Spoken",),
    "marl.adapters.tasks": ("ByKwargs", "ByOptions", "BySetter"),
    "marl.auxiliary": ("PredictActions",),
    "marl.channels.link": ("Link",),
    "marl.channels.speech": ("CommNet", "DIAL", "GraphAttention", "IC3Net", "TarMAC"),
    "marl.curriculum": (
        *("Among", "Annealed", "Between", "DomainRandomization", "LearningProgress", "PrioritizedLevelReplay"),
        *("Rating", "Stage", "Stages", "Steps", "SuccessRate", "WinRate"),
    ),
    "marl.exploration": (
        *("Boltzmann", "BoltzmannGumbel", "EpsilonGreedy", "GaussianNoise", "Greedy", "GumbelSample"),
        *("MaxBoltzmann", "OrnsteinUhlenbeck", "Uniform"),
    ),
    "marl.grid": (
        *("Counterfactual", "Independent", "Joint", "Local", "QMix", "QPlex", "TeamReward", "VDN", "VTrace"),
        "WeightedQMix",
    ),
    "marl.league.psro": ("PSRO",),
    "marl.league.snapshots": ("League",),
    "marl.learners.a2c": ("A2C",),
    "marl.learners.ddpg": ("DDPG",),
    "marl.learners.dqn": ("DQN",),
    "marl.learners.ppo": ("PPO",),
    "marl.learners.random": ("Random",),
    "marl.learners.sac": ("SAC",),
    "marl.learners.scripted": ("Fixed",),
    "marl.learners.td3": ("TD3",),
    "marl.memory.hindsight": ("Hindsight",),
    "marl.memory.priorities": ("Prioritized",),
    "marl.memory.replay": ("ReplayMemory",),
    "marl.nets": ("CNN", "GRU", "LSTM", "MLP", "Atoms", "Quantiles"),
    "marl.optim": ("SGD", "Adam", "AdamW", "RMSprop", "TorchOptim"),
    "marl.schedules": ("Exponential", "Linear", "Logarithmic"),
    "marl.shaping": (
        *("Clip", "CountBonus", "EpisodicNovelty", "RND", "RunningNormalize", "Scale", "SocialInfluence", "StepCost"),
        "TeamSpirit",
    ),
    "marl.stopping": ("MeanReturn",),
    "marl.topology": (*("Complete", "Graph", "Grid", "Groups", "Nearest", "Ring", "Star", "Where", "Within"),),
}
MOVED = {  # where classes stood that older files name
    "marl.channels.topology": "marl.topology",
    "marl.credit": "marl.grid",
    "marl.influence": "marl.shaping",
    "marl.learners.off_policy": "marl.memory.priorities",
    "marl.nets.networks": "marl.nets",
    "marl.nets.q_head": "marl.nets",
    "marl.scope": "marl.grid",
}
MISPLACED = {"Spoken": "; words are the environment's: give MultiAgentSystem or Scenario channel=marl.Spoken(...)"}


def setting(
    default: Any,
    doc: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    one_of: tuple[str, ...] | None = None,
    changeable: bool = False,
) -> Any:
    """A field with its default, its meaning and its range.

    ``changeable``: it may be changed while a system trains (:meth:`marl.MultiAgentSystem.change`). Fields of the type
    ``Schedule`` may be changed without saying so.
    """
    limits = {"above": above, "least": least, "below": below, "most": most, "one_of": one_of}
    return dataclasses.field(default=default, metadata={"doc": doc, "changeable": changeable, **limits})


# `setting` is no field specifier: checkers would look for a default that is given by the keyword `default=`, find none,
# and ask for every field. So they take what it returns for the default, as they do of any value.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def config(cls: type[C]) -> type[C]:
    """Make a class of :func:`setting` fields a frozen keyword-only dataclass that refuses what it cannot mean."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    plain_init: Callable[..., None] = made.__init__
    fields = {field.name: field for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    hints: dict[str, Any] = {}

    @functools.wraps(plain_init)  # editors and inspect.signature see the fields
    def __init__(self: C, *places: Any, **values: Any) -> None:
        if not hints:
            hints.update(typing.get_type_hints(made))
        if places:
            raise ConfigError(f"{made.__name__}({places[0]!r:.40}): settings are given by name: {', '.join(fields)}")
        for name in values:
            if name not in fields:
                raise ConfigError(unknown(f"{made.__name__}({name}=...)", name, fields, "field"))
        # NumPy's numbers are Python's from here on: they compare, are saved and come back.
        plain_init(self, **{name: x.item() if isinstance(x, np.generic) else x for name, x in values.items()})
        for name, field in fields.items():
            _check(f"{made.__name__}.{name}", getattr(self, name), hints[name], field.metadata)

    made.__init__ = __init__  # type: ignore[method-assign, assignment]
    lines = [f"    {field.name}: {field.metadata['doc']}" for field in fields.values() if "doc" in field.metadata]
    made.__doc__ = f"{(made.__doc__ or '').rstrip()}\n\nArgs:\n" + "\n".join(lines)
    return made


def unknown(where: str, name: str, known: Iterable[str], what: str) -> str:
    """An error line for an unknown name: the nearest known name and the list of known names."""
    names = list(known)
    near = nearest(name, names)
    hint = "" if near is None else f"; did you mean {near!r}?"
    hint = f"; {GONE[name]}" if name in GONE else hint
    return f"{where}: unknown {what} {name!r}{hint} (known: {', '.join(names)})"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: another library's name translated, else the most similar one."""
    names = list(known)
    head, dot, last = name.rpartition(".")
    for here in ELSEWHERE.get(last, ()):
        if f"{head}{dot}{here}" in names:
            return f"{head}{dot}{here}"
    begun = [one for one in names if name and one.startswith(name)]
    near = [*difflib.get_close_matches(name, names, n=1, cutoff=0.5), *begun]
    return near[0] if near else None


def _check(where: str, value: object, hint: Any, limits: Mapping[str, Any]) -> None:
    if not _fits(value, hint):
        elsewhere = MISPLACED.get(type(value).__name__) or _lacks(value, hint)
        doc = f" ({limits['doc']})" if limits.get("doc") and any(map(_is_protocol, _options(hint))) else ""
        raise ConfigError(f"{where}: expected {_name(hint)}{doc}, got {value!r} ({type(value).__name__}){elsewhere}")
    if isinstance(value, str) and limits.get("one_of") and value not in limits["one_of"]:
        raise ConfigError(unknown(where, value, limits["one_of"], "value"))
    numbers = [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
    if dataclasses.is_dataclass(value) and hasattr(value, "start") and hasattr(value, "end"):
        numbers = [value.start, value.end]
    for number in numbers:
        if not math.isfinite(number):
            raise ConfigError(f"{where}: expected a finite number, got {number}")
        for word, phrase, wrong in (
            ("above", "above", operator.le),
            ("least", "at least", operator.lt),
            ("below", "below", operator.ge),
            ("most", "at most", operator.gt),
        ):
            limit = limits.get(word)
            if limit is not None and wrong(number, limit):
                raise ConfigError(f"{where}: expected a number {phrase} {limit:g}, got {number:g}")


def _fits(value: object, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if len(_options(hint)) > 1:
        return any(_fits(value, option) for option in _options(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple and _is_plain(hint):
        inner = typing.get_args(hint)
        each = inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (...,) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if origin is not None and isinstance(origin, type):
        return isinstance(value, origin)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if _is_protocol(hint):
        fits = isinstance(value, hint) if hint._is_runtime_protocol else hasattr(value, "build")
        return fits and not isinstance(value, type)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _is_protocol(hint: Any) -> bool:
    return bool(getattr(hint, "_is_protocol", False))


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of anything else itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _lacks(value: object, hint: Any) -> str:
    """The methods or fields that a user's object lacks to be a value of an axis."""
    if isinstance(value, type):
        return f"; that is the class itself: write {value.__name__}(...)"
    for option in _options(hint) if dataclasses.is_dataclass(value) else ():
        if _is_protocol(option):
            lacking = sorted(name for name in vars(option) if name[0] != "_" and not hasattr(value, name))
            return f"; it has no {', '.join(lacking)}" if lacking else ""
    return ""


def _name(hint: Any) -> str:
    if len(_options(hint)) > 1:
        return " or ".join(map(_name, _options(hint)))
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def check_whole(name: str, value: object, least: int) -> int:
    """``value`` as an int, NumPy's too. Raises ConfigError unless it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs between two JSON trees, one ``key: old -> new`` each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        ]
    return [] if old == new else [f"{where}: {json.dumps(old)} -> {json.dumps(new)}"]


def other_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the settings of two runs, as :func:`differences`; an empty list or dict says nothing."""
    one, other = (json.loads(json.dumps(said)) for said in (old, new))
    for name in {*one, *other}:
        values = one.get(name), other.get(name)
        empty = next((value for value in values if value in ([], {})), None)
        if None in values and empty is not None:
            one[name] = other[name] = None
        elif None in values and any(isinstance(value, dict) for value in values):
            one[name], other[name] = ({} if value is None else value for value in values)
    return differences(one, other)


def to_json(value: Any, *, code: bool = False) -> Any:
    """Settings as JSON: dataclasses of :data:`SETTINGS` and registered ones become ``{"$class": ..., fields}``.

    Tuples become lists; what JSON has not gets a mark: ``$list``, ``$set``, ``$map``, ``$bytes``, ``$path``,
    ``$array``.
    NumPy's numbers become Python's.

    Args:
        value: the settings.
        code: write ``{"$code": what}`` in place of values that only their author can make again (functions, modules,
            other classes), which :func:`from_json` refuses.

    Raises:
        ConfigError: for such values, unless ``code``.
    """
    if isinstance(value, np.generic):
        value = value.item()
    kind = type(value)
    if value is None or kind in (bool, str, float) or (kind is int and value.bit_length() <= LONGEST_WHOLE):
        return value
    write = functools.partial(to_json, code=code)
    name = _class_name(kind)
    if name is not None:
        own = [field.name for field in dataclasses.fields(value) if field.init]
        return {"$class": name, **{field: write(getattr(value, field)) for field in own}}
    if isinstance(value, Mapping):
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: write(item) for key, item in value.items()}
        return {"$map": [[write(key), write(item)] for key, item in value.items()]}
    if kind is tuple:
        return [write(item) for item in value]
    if kind in (list, set, frozenset):
        return {f"${kind.__name__}": [write(item) for item in value]}
    if kind is bytes:
        return {"$bytes": value.hex()}
    if isinstance(value, Path):
        return {"$path": str(value)}
    if kind is np.ndarray and value.dtype.kind in "biufU" and value.size <= LARGEST_ARRAY:
        return {"$array": value.reshape(-1).tolist(), "shape": list(value.shape), "dtype": value.dtype.str}
    if not code:
        raise ConfigError(f"{value!r:.200} cannot be written as JSON")
    return {"$code": name_of(value)}


def _class_name(cls: type) -> str | None:
    """The name of a settings class in a file; None for a class that no file may name."""
    if cls.__qualname__ in SETTINGS.get(_home(cls), ()):
        return name_of(cls)
    return registered_name(cls) if dataclasses.is_dataclass(cls) else None


def _home(named: Any) -> str:
    """The module of a function or class; the package, where :data:`SETTINGS` lists that instead of its files."""
    module = str(getattr(named, "__module__", "?"))
    package = module.rpartition(".")[0]
    return package if package in SETTINGS else module


def name_of(value: Any) -> str:
    """``module:name`` of a function or class, or of the class of anything else."""
    named = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{_home(named)}:{getattr(named, '__qualname__', type(value).__name__)}"


def code_in(data: Any, where: str = "") -> dict[str, str]:
    """Values in settings as JSON that only their author can recreate: their names by position."""
    if isinstance(data, dict) and isinstance(data.get("$code"), str):
        return {where: data["$code"]}
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found: dict[str, str] = {}
    for key, item in parts:
        inner = where if str(key).startswith("$") else f"{where}.{key}" if where else str(key)
        found |= code_in(item, inner)
    return found


def from_json(data: Any) -> Any:
    """The inverse of :func:`to_json`. Raises ConfigError for classes neither in :data:`SETTINGS` nor registered."""
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    if "$class" in data:
        return _settings_from_json(data)
    mark = next((key for key in data if key.startswith("$")), None)
    match mark:
        case None:
            return {key: from_json(item) for key, item in data.items()}
        case "$map":
            return {from_json(key): from_json(item) for key, item in data["$map"]}
        case "$list":
            return [from_json(item) for item in data["$list"]]
        case "$set":
            return {from_json(item) for item in data["$set"]}
        case "$frozenset":
            return frozenset(from_json(item) for item in data["$frozenset"])
        case "$bytes":
            return bytes.fromhex(data["$bytes"])
        case "$path":
            return Path(data["$path"])
        case "$array" if np.dtype(data["dtype"]).kind in "biufU":
            return np.array(data["$array"], dtype=data["dtype"]).reshape(data["shape"])
        case "$code":
            raise ConfigError(f"{data['$code']!r} is code, which is not read from a file")
    raise ConfigError(f"unknown kind of value {mark!r}; was this written by a newer version?")


def settings_class(name: str) -> Any:
    """The settings class of this library that has this name; None if there is none."""
    module = next((module for module, names in SETTINGS.items() if name in names), None)
    return None if module is None else getattr(importlib.import_module(module), name)


def class_named(name: str) -> Any:
    """The settings class that a file names. Raises ConfigError if files may not name it."""
    module, _, own = name.partition(":")
    module = MOVED.get(module, module)
    if own not in SETTINGS.get(module, ()):
        own = NAMES.get(own, own)
    if own in SETTINGS.get(module, ()):
        return getattr(importlib.import_module(module), own)
    if module.partition(".")[0] == "marl":
        raise ConfigError(f"unknown settings class {name!r:.200}; was this written by a newer version?")
    registered = registered_class(name)
    if registered is None:
        raise ConfigError(
            f"settings class {name!r:.100} is not registered here: import it and call marl.extend.register with it "
            "first, or give what it is in again (agents=, shaping=, ...)"
        )
    return registered


def _settings_from_json(data: Mapping[str, Any]) -> Any:
    cls = class_named(str(data["$class"]))
    made = cls(**{key: from_json(item) for key, item in _of_today(data, cls).items() if key != "$class"})
    ours = cls.__module__.startswith("marl.")
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:  # imported for type checkers alone
        raise ConfigError(f"{cls.__name__}: the types of its fields cannot be looked at here ({error})") from None
    for field in dataclasses.fields(made):
        # Classes of the library look at everything else themselves.
        if not ours or _is_plain(hints[field.name]):
            _check(f"{cls.__name__}.{field.name}", getattr(made, field.name), hints[field.name], {})
    return made


def _of_today(data: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """Settings as JSON that an older version may have written, with today's fields."""
    own = {field.name for field in dataclasses.fields(cls)}
    fields = {key if key in own else FIELDS.get(key, key): item for key, item in data.items()}
    if "adam_eps" in fields:
        fields["optimizer"] = {"$class": "marl.optim:Adam", "eps": fields.pop("adam_eps")}
    return fields


def today(data: Any) -> Any:
    """Settings of a ``config.json`` that an older version may have written, as this one writes them."""
    if isinstance(data, list):
        return [today(item) for item in data]
    if not isinstance(data, dict):
        return data
    found = {key: today(item) for key, item in data.items()}
    if not isinstance(found.get("$class"), str):
        return found
    try:
        cls = class_named(found["$class"])
    except ConfigError:  # one of the user's own
        return found
    given = [field for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING]
    defaults = {field.name: described(field.default) for field in given}
    return defaults | {**_of_today(found, cls), "$class": name_of(cls)}


def _is_plain(hint: Any) -> bool:
    """Whether values of a type are made of numbers, texts and truth values alone."""
    if typing.get_origin(hint) is typing.Literal or hint in (bool, float, int, str, type(None), Ellipsis):
        return True
    nested = typing.get_origin(hint) in (tuple, typing.Union, types.UnionType)
    return nested and all(map(_is_plain, typing.get_args(hint)))


def described(value: Any) -> Any:
    """Settings as JSON to be compared and read by people; what only code can make is named."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [described(item) for item in value]
    fields = getattr(value, "__dataclass_fields__", None)
    if fields and not isinstance(value, type):
        return {"$class": name_of(value), **{field: described(getattr(value, field)) for field in fields}}
    return {"$code": name_of(value)}


def in_words(value: Any) -> str:
    """Settings as ``--set`` and ``--agents`` say them, ``Linear(start=0.001, end=0.0)``: fields that differ from their
    defaults.

    Raises:
        ConfigError: for what only code can make, or that is no setting of the library or registered.
    """
    if isinstance(value, str) and _says_itself(value):
        return value
    return _expression(value)


def _says_itself(text: str) -> bool:
    """Whether a text needs no quotes to be taken for one."""
    if not text.strip() or text != text.strip() or text.lower() in ("true", "false", "none", "null"):
        return False
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return True
    return False


def _expression(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_expression, value))}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_expression, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_expression(key)}: {_expression(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value) and settings_class(type(value).__name__) is type(value):
        said = [
            (one.name, getattr(value, one.name)) for one in dataclasses.fields(value) if not _is_default(value, one)
        ]
        return f"{type(value).__name__}({', '.join(f'{name}={_expression(item)}' for name, item in said)})"
    raise ConfigError(f"{value!r:.80} cannot be said in words: expected plain values and settings of the library")


def _is_default(value: Any, field: dataclasses.Field[Any]) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    own = getattr(value, field.name)
    return type(own) is type(default) and bool(own == default)


def finite(value: Any) -> Any:
    """A JSON tree without NaN and infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
