"""Settings: frozen dataclasses whose fields say once what they mean, what they may be, and what they are by default."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

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
) -> Any:
    """A field with its default, its meaning and its range."""
    limits = {"above": above, "least": least, "below": below, "most": most, "one_of": one_of}
    return dataclasses.field(default=default, metadata={"doc": doc, **limits})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting, dataclasses.field))
def config(cls: type[C]) -> type[C]:
    """Make a class of :func:`setting` fields a frozen keyword-only dataclass that refuses what it cannot mean."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    plain_init: Callable[..., None] = made.__init__
    fields = {field.name: field for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    hints: dict[str, Any] = {}

    def __init__(self: C, *places: Any, **values: Any) -> None:
        if not hints:
            hints.update(typing.get_type_hints(made))
        if places:
            raise ConfigError(f"{made.__name__}({places[0]!r:.40}): settings are given by name: {', '.join(fields)}")
        for name in values:
            if name not in fields:
                raise ConfigError(unknown(f"{made.__name__}({name}=...)", name, fields, "field"))
        plain_init(self, **values)
        for name, field in fields.items():
            _check(f"{made.__name__}.{name}", getattr(self, name), hints[name], field.metadata)

    made.__init__ = __init__  # type: ignore[method-assign, assignment]
    lines = [f"    {field.name}: {field.metadata['doc']}" for field in fields.values() if "doc" in field.metadata]
    made.__doc__ = f"{(made.__doc__ or '').rstrip()}\n\nArgs:\n" + "\n".join(lines)
    return made


def unknown(where: str, name: str, known: Iterable[str], what: str) -> str:
    """One line that says what is unknown, what was probably meant, and what there is."""
    names = list(known)
    near = nearest(name, names)
    hint = "" if near is None else f"; did you mean {near!r}?"
    return f"{where}: unknown {what} {name!r}{hint} (known: {', '.join(names)})"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """What was probably meant: the name here of what has another elsewhere, else the most similar; dots are kept."""
    names = list(known)
    head, dot, last = name.rpartition(".")
    for here in ELSEWHERE.get(last, ()):
        if f"{head}{dot}{here}" in names:
            return f"{head}{dot}{here}"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return near[0] if near else None


def _check(where: str, value: object, hint: Any, limits: Mapping[str, Any]) -> None:
    if not _fits(value, hint):
        elsewhere = MISPLACED.get(type(value).__name__, "")
        raise ConfigError(f"{where}: expected {_name(hint)}, got {value!r} ({type(value).__name__}){elsewhere}")
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
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is not None and isinstance(origin, type):
        return isinstance(value, origin)
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if getattr(hint, "_is_protocol", False):
        return hasattr(value, "build") and not isinstance(value, type)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _name(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_name(option) for option in typing.get_args(hint))
    if hint is type(None):
        return "None"
    return hint.__name__ if isinstance(hint, type) else str(hint)


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


def to_json(value: Any) -> Any:
    """Settings as JSON: dataclasses of this library become ``{"$class": ..., fields}``.

    Raises:
        ConfigError: for values that only their author can make again (functions, modules, foreign classes).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        if not cls.__module__.startswith("marl."):
            raise ConfigError(f"{cls.__module__}.{cls.__qualname__} cannot be written as JSON")
        fields = {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"$class": f"{cls.__module__}:{cls.__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(f"{value!r} cannot be written as JSON")


def from_json(data: Any) -> Any:
    """The inverse of :func:`to_json`. Raises ConfigError for anything but dataclasses of this library."""
    if isinstance(data, list):
        return tuple(from_json(item) for item in data)
    if not isinstance(data, dict):
        return data
    name = data.get("$class")
    if name is None:
        return {key: from_json(item) for key, item in data.items()}
    module_name, _, attribute = str(name).partition(":")
    cls = None
    if module_name.startswith("marl.") and attribute.isidentifier():
        try:
            cls = getattr(importlib.import_module(module_name), attribute, None)
        except ImportError:
            cls = None
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise ConfigError(f"unknown settings class {name!r}; was this written by a newer version?")
    return cls(**{key: from_json(item) for key, item in data.items() if key != "$class"})
