"""Scenarios: one playable Python file each, found by name, by path, or as ``module:attribute``."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from marl import sources
from marl.adapters.resolve import environment_in, is_instance
from marl.config import unknown
from marl.curriculum.state import checked_curricula
from marl.installed import installed_scenarios
from marl.league import checked_league
from marl.learners import LearnerConfig
from marl.notebook import html_table
from marl.setup import DEFAULT_COPIES, FILE, Features, checked_on_bad_obs, says
from marl.shaping.shaper import Hooks, checked_hooks
from marl.stopping import Stop
from marl.types import ConfigError


@dataclass(frozen=True, kw_only=True)
class Scenario(Features):
    """A task: an environment, the learners of its agents, and how long to train.

    Args:
        name: what it is called.
        env: a Gymnasium or PettingZoo id, or a factory (see ``marl.adapters.make``).
        agents: one learner for all agents, or a mapping from agent id patterns to learners (one team each).
        num_envs: copies that train side by side.
        steps: environment steps of a full training (all copies counted).
        env_kwargs: keywords for the environment.
        max_steps: truncate episodes of environments that do not end by themselves.
        on_bad_obs: what to do about observations outside their space: ``"error"``, ``"cast"``, ``"clip"``, ``"drop"``.
        workers: processes that the copies are spread over; 0 steps them in this process.
        stop: stop early when this rule says so.
        shaping: hooks that change what agents are paid for learning: a list for all teams, or one for each by name.
        curriculum: what chooses the task of each copy's next episode; a mapping gives teams one each.
        league: whom learners play against: ``marl.League`` or ``marl.PSRO``; None: each other, as they are.
        channel: messages as actions: ``marl.Spoken``; learned ones are a learner's ``channel=``.
        tasks: how the curriculum's tasks reach the environment: ``marl.curriculum.ByOptions()``, ``ByKwargs()`` or
            ``BySetter(...)``; None: by options if it declares a ``task_space``.
        reset_options: options of every reset of the environment.
        callbacks: objects that look on while it trains, of ``marl.callbacks`` or your own: ``[EarlyStopping()]``. Each
            system that trains the scenario has copies of its own.
        message_entries: where observations show what others did to be understood, such as
            ``("listener_0<speaker_0:8-10",)``: entries 8 to 10 of what ``listener_0`` sees are what ``speaker_0`` said.
        algorithms: other algorithms that this task has settings for: a name, and the fields of the scenario that
            differ, ``{"qmix": {"agents": marl.qmix(), "steps": 800_000}}``. See :meth:`by`.
        expect: the return to expect after ``steps``, in words.
        extra: the extra that its environment needs (``pip install 'marl-system[EXTRA]'``).
        about: one line for ``marl list``.
        reference: what finds it again (a name, a path, ``module:attribute``); set by :func:`find`, else the name.
    """

    name: str = field(metadata=says(told=FILE))
    env: Any = field(metadata=says(told=FILE))
    agents: LearnerConfig | Mapping[str, LearnerConfig] = field(metadata=says(told=FILE))
    num_envs: int = DEFAULT_COPIES
    steps: int = 100_000
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 0
    stop: Stop | None = None
    shaping: Hooks = field(default=(), metadata=says(told=FILE))
    callbacks: Sequence[Any] = field(default=(), metadata=says(told=FILE))
    message_entries: tuple[str, ...] = field(default=(), metadata=says(told=FILE))
    algorithms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata=says(told=FILE))
    expect: str = field(default="", metadata=says(told=FILE))
    extra: str | None = field(default=None, metadata=says(told=FILE))
    about: str = field(default="", metadata=says(told=FILE))
    reference: str = field(default="", metadata=says(told=FILE))

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("num_envs", 1), ("steps", 1), ("workers", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ConfigError(
                    f"Scenario {self.name!r}: {name} must be a whole number of at least {least}, got {value!r}"
                )
            object.__setattr__(self, name, int(value))
        if is_instance(self.env):
            raise ConfigError(
                f"Scenario {self.name!r}: env: expected an id or a function that makes the environment, got one "
                f"environment, which training and evaluation cannot share; pass lambda: {type(self.env).__name__}(...)"
            )
        if not isinstance(self.callbacks, list | tuple):
            raise ConfigError(f"Scenario {self.name!r}: callbacks: expected a list, got {self.callbacks!r:.80}")
        try:
            checked_on_bad_obs(self.on_bad_obs)
            checked_hooks(self.shaping)
            checked_league(self.league, self.steps)
            if self.curriculum is not None:
                checked_curricula(self.curriculum, self.steps)
        except ConfigError as error:
            raise ConfigError(f"Scenario {self.name!r}: {error}") from None
        if self.curriculum is not None and self.stop is not None:
            raise ConfigError(
                f"Scenario {self.name!r}: stop looks at training episodes, whose tasks the curriculum chooses; "
                "leave it out"
            )
        if not self.reference:
            object.__setattr__(self, "reference", self.name)
        for algorithm, different in self.algorithms.items():
            where = f"Scenario {self.name!r}: algorithms[{algorithm!r}]"
            known = [one.name for one in fields(self) if one.name not in ("name", "reference", "algorithms")]
            if not isinstance(different, Mapping) or "agents" not in different:
                raise ConfigError(f"{where}: expected the fields that differ, with agents, got {different!r:.80}")
            for name in different:
                if name not in known:
                    raise ConfigError(unknown(where, name, known, "field"))
            self.by(algorithm)

    def by(self, algorithm: str) -> Scenario:
        """The same task with its settings for another algorithm: ``spread`` by ``qmix`` is called ``spread_qmix``.

        Raises:
            ConfigError: if it has none for that algorithm.
        """
        if algorithm not in self.algorithms:
            raise ConfigError(unknown(f"scenario {self.name!r}", algorithm, self.algorithms, "algorithm"))
        file = sources.split(self.reference)
        base = self.reference if file is None or file[1] else f"{self.reference}:{self.name}"
        different: dict[str, Any] = {**self.algorithms[algorithm], "algorithms": {}}
        return replace(self, name=f"{self.name}_{algorithm}", reference=f"{base}_{algorithm}", **different)

    def __repr__(self) -> str:
        """Its name, environment, learners and length."""
        return f"<Scenario {self.name!r}: {', '.join(f'{name} {said}' for name, said in self._rows())}>"

    def _repr_html_(self) -> str:
        """The same as a table, with what it is about."""
        more = [("about", self.about), ("to expect", self.expect)]
        return html_table(f"Scenario {self.name}", [*self._rows(), *(row for row in more if row[1])])

    def _rows(self) -> list[tuple[str, str]]:
        learners = self.agents.items() if isinstance(self.agents, Mapping) else [("", self.agents)]
        said = ", ".join(f"{pattern} {type(one).__name__}".strip() for pattern, one in learners)
        env = self.env if isinstance(self.env, str) else getattr(self.env, "__name__", type(self.env).__name__)
        return [("on", env), ("by", said), ("for", f"{self.steps:,} steps"), ("in", f"{self.num_envs} copies")]


def names() -> list[str]:
    """The names of all installed scenarios."""
    return sorted(installed_scenarios())


def is_installed(name: str) -> bool:
    """Whether it names an installed scenario, or ``NAME_ALGORITHM``, one of the algorithms that it has settings for."""
    return name in installed_scenarios() or variant(name) is not None


def variant(name: str) -> tuple[str, str] | None:
    """An installed scenario and one of its algorithms that ``NAME_ALGORITHM`` names; None if it names none."""
    installed = installed_scenarios()
    return None if name in installed else _divided(name, installed, lambda base: _load(base, installed[base]))


def _divided(name: str, known: Iterable[str], load: Callable[[str], Scenario]) -> tuple[str, str] | None:
    """``NAME_ALGORITHM`` as the name and the algorithm, if there are such."""
    for base in known:
        algorithm = name.removeprefix(f"{base}_")
        if algorithm != name and algorithm in load(base).algorithms:
            return base, algorithm
    return None


def _load(name: str, point: EntryPoint) -> Scenario:
    return _checked(name, getattr(importlib.import_module(point.module), point.attr, None))


def find(reference: str) -> Scenario:
    """A scenario by installed name, by path to a ``.py`` file, or as ``module:attribute``.

    ``file.py:NAME`` is one of several in a file. ``NAME_ALGORITHM`` is, everywhere, the scenario with its settings for
    another algorithm; see :meth:`Scenario.by`.

    Raises:
        ConfigError: if there is none, naming the nearest; or if what is found is no scenario.
    """
    file = sources.split(reference)
    if file is not None:
        return _from_file(*file)
    if ":" in reference:
        module_name, _, attribute = reference.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(f"scenario {reference!r}: cannot import {module_name!r} ({error})") from None
        found = _named_in(module, attribute, f"{module_name}:")
        return _checked(reference, getattr(module, attribute, None)) if found is None else found
    installed = installed_scenarios()
    if reference in installed:
        return _load(reference, installed[reference])
    divided = variant(reference)
    if divided is None:
        text = unknown("scenario", reference, sorted(installed), "scenario")
        raise ConfigError(f"{text}; an environment is named by its id, as my_env.py, or as my_module:MyEnv")
    base, algorithm = divided
    return _load(base, installed[base]).by(algorithm)


def resolve_scenario(env: Any) -> Scenario | None:
    """The scenario that ``env`` is or names; None if it is an environment. Raises ConfigError for a name of neither."""
    if isinstance(env, Scenario):
        return env
    if not isinstance(env, str):
        return None
    file = sources.split(env)
    if file is not None:
        return None if _is_environment(*file) else find(env)
    if is_installed(env) or (env.isidentifier() and importlib.util.find_spec(env) is None):
        return find(env)
    if ":" in env:
        module_name, _, attribute = env.partition(":")
        with suppress(ImportError, ValueError):  # who makes the environment says what is missing
            return _named_in(importlib.import_module(module_name), attribute, f"{module_name}:")
    return None


def _is_environment(path: Path, name: str) -> bool:
    """Whether what a file calls ``name`` (empty: the file) is an environment and no scenario."""
    module = sources.module_of(path)
    if _named_in(module, name, "") is not None or (not name and _scenarios_in(module)):
        return False
    with suppress(ConfigError):
        environment_in(module, path.name, name)
        return True
    return False


def reference_of(env: Any, scenario: Scenario | None) -> str | None:
    """What finds an environment again: a scenario's reference, an id; None for an object."""
    return scenario.reference if scenario is not None else env if isinstance(env, str) else None


def _from_file(path: Path, name: str) -> Scenario:
    """The scenario that a file calls ``name``, or its only one. Raises ConfigError."""
    module = sources.module_of(path)
    found = _scenarios_in(module)
    if not name and len(found) == 1:
        return replace(next(iter(found.values())), reference=str(path))
    named = _named_in(module, name, f"{path}:") if name else None
    if named is not None:
        return named
    asked = f"there is no scenario {name!r} in it" if name else f"expected one marl.Scenario, found {len(found)}"
    if found:
        raise ConfigError(f"file {path}: {asked}; name one: {', '.join(f'{path.name}:{one}' for one in found)}")
    try:
        environment_in(module, path.name, name)
    except ConfigError as error:
        sought = "" if name else "expected one marl.Scenario at module level, or an environment, found neither: "
        raise ConfigError(f"file {path}: {sought}{error}") from None
    raise ConfigError(f"file {path}: expected one marl.Scenario at module level, found an environment")


def _scenarios_in(module: ModuleType) -> dict[str, Scenario]:
    """The scenarios of a module by the name of their variable, each once."""
    found: dict[str, Scenario] = {}
    for name, value in vars(module).items():
        if isinstance(value, Scenario) and not any(value is other for other in found.values()):
            found[name] = value
    return found


def _named_in(module: ModuleType, name: str, prefix: str) -> Scenario | None:
    """The scenario of a module whose variable or own name is ``name``, or ``NAME_ALGORITHM``; None: there is none.

    ``prefix``: what stands before the name in its reference.
    """
    own = {**{scenario.name: scenario for scenario in _scenarios_in(module).values()}, **_scenarios_in(module)}
    value = getattr(module, name, None) if name else None
    scenario = value if isinstance(value, Scenario) else own.get(name)
    if scenario is not None:
        return replace(scenario, reference=f"{prefix}{name}")
    divided = _divided(name, own, own.__getitem__)
    if divided is None:
        return None
    base, algorithm = divided
    return replace(own[base], reference=f"{prefix}{base}").by(algorithm)


def _checked(reference: str, value: object) -> Scenario:
    if not isinstance(value, Scenario):
        raise ConfigError(f"scenario {reference!r}: expected a marl.Scenario, got {type(value).__name__}")
    return replace(value, reference=reference)
