"""Scenarios: one playable Python file each, found by name, by path, or as ``module:attribute``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from marl.adapters.resolve import is_instance
from marl.config import unknown
from marl.curriculum.state import checked_curricula
from marl.installed import entry_points
from marl.league import checked_league
from marl.learners import LearnerConfig
from marl.setup import DEFAULT_COPIES, FILE, Features, says
from marl.shaping.shaper import Hooks, checked_hooks
from marl.stopping import Stop
from marl.types import ConfigError

GROUP = "marl.scenarios"


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
        workers: processes that the copies are spread over; 0 steps them in this process.
        stop: stop early when this rule says so.
        shaping: hooks that change what agents are paid for learning: a list for all teams, or one for each by name.
        curriculum: what chooses the task of each copy's next episode; a mapping gives teams one each.
        league: whom learners play against: ``marl.League`` or ``marl.PSRO``; None: each other, as they are.
        channel: messages as actions: ``marl.Spoken``; learned ones are a learner's ``channel=``.
        tasks: how the curriculum's tasks reach the environment: ``marl.curriculum.ByOptions()``, ``ByKwargs()`` or
            ``BySetter(...)``; None: by options if it declares a ``task_space``.
        reset_options: options of every reset of the environment.
        message_entries: where observations show what others did to be understood, such as
            ``("listener_0<speaker_0:8-10",)``: entries 8 to 10 of what ``listener_0`` sees are what ``speaker_0`` said.
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
    message_entries: tuple[str, ...] = field(default=(), metadata=says(told=FILE))
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
        try:
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


def names() -> list[str]:
    """The names of all installed scenarios."""
    return sorted(_installed())


def _installed() -> dict[str, EntryPoint]:
    """Installed scenarios by name: an entry point is for one, ``module:attribute``, or for a package of files."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.attr:
            found.setdefault(point.name, point)
        else:
            for name in _modules_in(point.module):
                found.setdefault(name, EntryPoint(name, f"{point.module}.{name}:scenario", GROUP))
    return found


def _modules_in(package: str) -> list[str]:
    """The public modules of a package, none of which is imported; none where there is no such package."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    folders = None if spec is None else spec.submodule_search_locations
    return [module.name for module in pkgutil.iter_modules(folders or ()) if not module.name.startswith("_")]


def find(reference: str) -> Scenario:
    """A scenario by installed name, by path to a ``.py`` file, or as ``module:attribute``.

    Raises:
        ConfigError: if there is none, naming the nearest; or if what is found is no scenario.
    """
    if reference.endswith(".py"):
        path = Path(reference).absolute()
        return replace(_from_file(path), reference=str(path))
    if ":" in reference:
        module_name, _, attribute = reference.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(f"scenario {reference!r}: cannot import {module_name!r} ({error})") from None
        return _checked(reference, getattr(module, attribute, None))
    installed = _installed()
    if reference not in installed:
        raise ConfigError(unknown("scenario", reference, sorted(installed), "scenario"))
    point = installed[reference]
    return _checked(reference, getattr(importlib.import_module(point.module), point.attr, None))


def resolve_scenario(env: Any) -> Scenario | None:
    """The scenario that ``env`` is or names; None if it is an environment. Raises ConfigError for a name of neither."""
    if isinstance(env, Scenario):
        return env
    if isinstance(env, str) and (env in names() or env.endswith(".py")):
        return find(env)
    if isinstance(env, str) and env.isidentifier() and importlib.util.find_spec(env) is None:
        return find(env)
    if isinstance(env, str) and ":" in env:
        module_name, _, attribute = env.partition(":")
        with suppress(ImportError):  # who makes the environment says what is missing
            if isinstance(getattr(importlib.import_module(module_name), attribute, None), Scenario):
                return find(env)
    return None


def reference_of(env: Any, scenario: Scenario | None) -> str | None:
    """What finds an environment again: a scenario's reference, an id; None for an object."""
    return scenario.reference if scenario is not None else env if isinstance(env, str) else None


def importable(folder: Path) -> None:
    """Let modules in a folder be imported, after whatever is installed: worker processes get the same path."""
    entry = str(folder.absolute())
    if entry not in sys.path:
        sys.path.append(entry)


_loaded: dict[Path, tuple[bytes, ModuleType]] = {}  # a file is run once, so that its classes are the same everywhere


def _from_file(path: Path) -> Scenario:
    module = _module_of(path)
    found = [value for value in vars(module).values() if isinstance(value, Scenario)]
    if len(found) != 1:
        raise ConfigError(f"scenario file {path}: expected one marl.Scenario at module level, found {len(found)}")
    return found[0]


def _module_of(path: Path) -> ModuleType:
    """The module that a scenario file makes, run anew only when the file has changed."""
    if not path.is_file():
        raise ConfigError(f"scenario file {path} does not exist")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"scenario file {path}: cannot be read ({error.strerror})") from None
    if path in _loaded and _loaded[path][0] == source:
        return _loaded[path][1]
    name = f"marl_scenario_{path.stem}"
    if any(module.__name__ == name and other != path for other, (_, module) in _loaded.items()):
        name += f"_{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:8]}"  # another folder's
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise ConfigError(f"scenario file {path} is not Python")
    importable(path.parent)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # so that worker processes, pickles and dataclasses find it
    try:
        # Whoever calls has named the file; what a checkpoint or run folder names never comes here untrusted
        # (`marl.received`). Compiled here, since the import system may take a cached one of the same second.
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        if isinstance(error, ConfigError) or not isinstance(error, Exception | SystemExit):
            raise
        raise ConfigError(f"scenario file {path}: {type(error).__name__}: {error}") from error
    _loaded[path] = source, module
    return module


def _checked(reference: str, value: object) -> Scenario:
    if not isinstance(value, Scenario):
        raise ConfigError(f"scenario {reference!r}: expected a marl.Scenario, got {type(value).__name__}")
    return replace(value, reference=reference)
