"""What may change while a system trains, by name, and a setup in which one of these settings is another."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from marl.config import unknown
from marl.learners import Learner
from marl.learners.base import TakesChanges
from marl.schedules import Schedule
from marl.setup import Setup
from marl.types import ConfigError, Spec

Place = tuple[str | int, ...]  # fields, keys and places in lists, from the setup to a setting


class Changeable:
    """The settings of a setup that may change: those of learners, weights of shaping hooks, and curricula.

    Names are those of the command line's ``--set``: ``learner.lr`` (every team's), ``TEAM.lr``, ``shaping.0.weight``,
    ``curriculum.stages.0.advance.at_least``. Every field of the type ``Schedule`` may change, and every field that says
    so (``setting(..., changeable=True)``).
    """

    def __init__(self, setup: Setup, spec: Spec, learners: Sequence[Learner]) -> None:
        """``learners`` of the setup's teams."""
        self.setup = setup
        self.places: dict[str, Place] = {}  # one name for each setting
        self.meant: dict[str, list[str]] = {}  # the names that a shorter name, or another one, stands for
        keys: Sequence[str | None] = setup.patterns or [None]
        for key, config, team, learner in zip(keys, setup.configs, spec.teams, learners, strict=True):
            for field in _changeable(type(config)) if isinstance(learner, TakesChanges) else ():
                name = f"learner.{field}" if key is None else f"{team.name}.{field}"
                self.places[name] = ("agents", field) if key is None else ("agents", key, field)
                self.meant.setdefault(f"learner.{field}", []).append(name)
                self.meant[f"{team.name}.{field}"] = [name]
        hooks = setup.shaping or ()
        for team_key, own in hooks.items() if isinstance(hooks, Mapping) else [(None, hooks)]:
            inner: Place = () if team_key is None else (team_key,)
            for number, hook in enumerate(own):
                for field in _changeable(type(hook)):
                    place = ("shaping", *inner, number, field)
                    self.places[".".join(map(str, place))] = place
        if isinstance(setup.curriculum, Mapping):
            self.places |= {f"curriculum.{key}": ("curriculum", key) for key in setup.curriculum}
        elif setup.curriculum is not None:
            self.places["curriculum"] = ("curriculum",)
        self.meant |= {name: [name] for name in self.places}

    def find(self, key: str) -> tuple[list[str], Place]:
        """The names that a key means, and the way to a field inside of these settings. Raises ConfigError."""
        for name, names in self.meant.items():
            if key == name or key.startswith(f"{name}."):
                rest = key[len(name) + 1 :]
                return names, tuple(int(part) if part.isdigit() else part for part in rest.split(".") if part)
        raise ConfigError(unknown(f"change({key!r})", key, self.meant, "setting that may change while training"))

    def get(self, name: str, rest: Place = ()) -> Any:
        """The value of a setting, or of a field inside of it. Raises ConfigError if there is none."""
        value: Any = self.setup
        for step in (*self.places[name], *rest):
            value = _inside(value, step, name)
        return value

    def put(self, name: str, value: Any, rest: Place = ()) -> Setup:
        """The setup with another value there. Raises ConfigError for a value that the setting cannot have."""
        setup: Setup = _replaced(self.setup, (*self.places[name], *rest), value, name)
        return setup


@lru_cache(maxsize=256)
def _changeable(cls: type) -> tuple[str, ...]:
    """The fields of a settings class that may change."""
    if not dataclasses.is_dataclass(cls):
        return ()
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # a user's class, whose types were imported for type checkers alone
        hints = {}
    fields = dataclasses.fields(cls)
    return tuple(one.name for one in fields if hints.get(one.name) == Schedule or one.metadata.get("changeable"))


def _inside(value: Any, step: str | int, name: str) -> Any:
    if isinstance(value, Mapping) and step in value:
        return value[step]
    if isinstance(value, tuple) and isinstance(step, int) and step < len(value):
        return value[step]
    fields = [one.name for one in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    if step in fields:
        return getattr(value, str(step))
    if value is None:
        raise ConfigError(f"change: {name} is None here, the learner's own; give it whole")
    raise ConfigError(unknown(f"change({name!r})", str(step), fields, "field"))


def _replaced(value: Any, place: Place, new: Any, name: str) -> Any:
    if not place:
        return new
    step, *rest = place
    made = _replaced(_inside(value, step, name), tuple(rest), new, name)
    if isinstance(value, Mapping):
        return {**value, step: made}
    if isinstance(value, tuple):
        assert isinstance(step, int)
        return (*value[:step], made, *value[step + 1 :])
    try:
        return dataclasses.replace(value, **{str(step): made})
    except TypeError as error:  # compared with a number
        raise ConfigError(f"change({name!r}): {new!r:.80} makes no sense there ({error})") from None
