"""From what a user names to a function that makes the environment: ids, modules, functions, classes, instances."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import gymnasium
import pettingzoo
from gymnasium.envs.registration import EnvSpec
from pettingzoo.env_registry import exceptions
from pettingzoo.env_registry.helpers import find_spec

from marl import sources
from marl.adapters.tuples import by_agent, make_by_agent
from marl.config import unknown
from marl.installed import entry_points
from marl.types import ConfigError, SupportsBatch

Factory = Callable[[], Any]
GROUP = "marl.environments"
EXTRAS = {  # the top-level package or registry namespace, and the extra that brings what it needs
    "mpe2": "marl-system[mpe]",
    "mpe": "marl-system[mpe]",
    "classic": "marl-system[classic]",
    "butterfly": "marl-system[butterfly]",
    "sisl": "marl-system[sisl]",
    "lbforaging": "marl-system[lbf]",
    "magent2": "marl-system[magent]",
    "rware": "marl-system[rware]",
    "gymnasium_robotics": "marl-system[mujoco]",
    "atari": "pettingzoo[atari]",
}
FAMILIES = {  # packages whose modules are environments, and what these are called
    "gymnasium_robotics": r"gymnasium_robotics\.mamujoco_v[0-9]+",
    "magent2": r"magent2\.environments\.[a-z0-9_]+_v[0-9]+",
    "mpe2": r"mpe2\.[a-z0-9_]+_v[0-9]+",
    "pettingzoo": r"pettingzoo\.(atari|butterfly|classic|sisl)\.[a-z0-9_]+_v[0-9]+",
}
ID = r"([A-Za-z0-9_.-]+/)?[A-Za-z0-9_.-]+"
MAKERS = ("parallel_env", "env", "make")  # what a module calls the function that makes its environment
MISSING = re.compile(r"missing \d+ required (positional|keyword-only) arguments?: '\w+'.*")
FOREIGN = ("GymV21Environment", "GymV26Environment")  # ids that make what their arguments name
# How Gymnasium ids begin that a package registers when it is imported.
REGISTRARS = {"Foraging": "lbforaging", "rware-": "rware"}


def resolve(env: Any, env_kwargs: Mapping[str, Any] | None = None) -> tuple[Factory, Any]:
    """A function that makes the environment, and the instance itself where ``env`` is one (else None)."""
    kwargs = dict(env_kwargs or {})
    if isinstance(env, str):
        return functools.partial(make_by_name, env, kwargs), None
    if isinstance(env, ModuleType):
        return functools.partial(make_from_module, env.__name__, kwargs), None
    if _is_instance(env):
        if kwargs:
            raise ConfigError("env_kwargs has no use for an environment that exists already: pass a function or class")
        instance = by_agent(env)
        return lambda: instance, instance
    if callable(env):
        return functools.partial(make_by_agent, functools.partial(env, **kwargs) if kwargs else env), None
    raise ConfigError(
        f"env: expected an id, a module, a function that makes an environment, or an environment; got {env!r:.80}"
    )


def make_with(env: Any, kwargs: Mapping[str, Any], **task: Any) -> Any:
    """Make an environment with these keywords and those of a task, which count where both say something."""
    return resolve(env, {**kwargs, **task})[0]()


def is_instance(env: object) -> bool:
    """Whether this is one environment of the user's, of which `resolve` cannot make a second."""
    return not isinstance(env, str | ModuleType | SupportsBatch) and _is_instance(env)


def another_like(env: Any) -> Factory | None:
    """What makes environments like this instance: its Gymnasium spec, where that says all; else None."""
    spec = getattr(env, "spec", None)
    if not isinstance(env, gymnasium.Env) or not isinstance(spec, EnvSpec) or spec.entry_point is None:
        return None
    if any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):  # it does not say how it was made
        return None
    return functools.partial(gymnasium.make, spec)


def _is_instance(env: object) -> bool:
    if isinstance(env, type):
        return False
    return isinstance(env, SupportsBatch) or all(callable(getattr(env, name, None)) for name in ("reset", "step"))


def make_by_name(name: str, kwargs: Mapping[str, Any]) -> Any:
    """Make an environment from a Gymnasium id, a PettingZoo id (parallel before AEC), a module or a file."""
    with _Explained(name):
        file = sources.split(name)
        if file is not None:
            path, attribute = file
            return by_agent(environment_in(sources.module_of(path), path.name, attribute)(**kwargs))
        _register_namespace(name)
        for registry, kind in ((pettingzoo.parallel_registry, "parallel"), (pettingzoo.aec_registry, "aec")):
            if _registered(registry, name):
                return pettingzoo.make(kind, name, **kwargs)  # type: ignore[call-overload]
        if ":" in name and not name.startswith("gymnasium:"):
            module_name, _, attribute = name.partition(":")
            module = importlib.import_module(module_name)
            known = any(key == attribute or key.startswith(f"{attribute}-v") for key in gymnasium.registry)
            if callable(getattr(module, attribute, None)) or not known:
                return by_agent(environment_in(module, module_name, attribute)(**kwargs))
        if ":" in name or _in_gymnasium(name):
            return by_agent(gymnasium.make(name, disable_env_checker=True, **kwargs))
        if _importable(name):
            return make_from_module(name, kwargs)
    raise ConfigError(f"unknown environment {name!r}{_suggestion(name)}")


def comes_with_library(name: str) -> bool:
    """Whether making an environment of this name imports only what is registered, or installed and in ``FAMILIES``.

    So a file may name it: neither modules nor files of anybody else's are imported for it, or looked for.
    """
    family = next((package for package, form in FAMILIES.items() if re.fullmatch(form, name)), None)
    if family is not None:
        return _stands_where_installed(family)
    if not re.fullmatch(ID, name) or name.startswith(FOREIGN):
        return False
    if any(name.startswith(start) and not _stands_where_installed(package) for start, package in REGISTRARS.items()):
        return False
    with contextlib.suppress(ImportError):
        _register_namespace(name)
    pettingzoos = (pettingzoo.parallel_registry, pettingzoo.aec_registry)
    return _in_gymnasium(name) or any(_registered(registry, name) for registry in pettingzoos)


def _stands_where_installed(package: str) -> bool:
    """Whether a package would be imported from where it was installed to, not from a folder that hides that."""
    try:
        there = Path(str(distribution(package).locate_file(package))).resolve()
        found = importlib.util.find_spec(package)
    except (PackageNotFoundError, ImportError, ValueError):
        return False
    return found is not None and found.origin is not None and Path(found.origin).resolve().parent == there


def _register_namespace(name: str) -> None:
    """Import the package that registers an id.

    For ``namespace/...`` that is an entry point of that name in ``marl.environments``; others are in ``REGISTRARS``.
    """
    namespace, slash, _ = name.partition("/")
    for start, package in REGISTRARS.items():
        if name.startswith(start):
            importlib.import_module(package)
    if slash:
        for point in entry_points(GROUP).select(name=namespace):
            point.load()


def make_from_module(name: str, kwargs: Mapping[str, Any]) -> Any:
    """Make a module's environment; see :func:`environment_in`."""
    with _Explained(name):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            shown = _shown(name)
            if shown is None:
                raise
            module = shown
        return by_agent(environment_in(module, name)(**kwargs))


def _shown(name: str) -> ModuleType | None:
    """The module that an imported package shows under this name and keeps elsewhere; None if there is none.

    ``gymnasium_robotics.mamujoco_v1`` is a module of ``gymnasium_robotics.envs.multiagent_mujoco``.
    """
    package, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(package), attribute, None)
    return found if isinstance(found, ModuleType) else None


def environment_in(module: ModuleType, where: str, name: str = "") -> Callable[..., Any]:
    """What makes a module's environment: what it calls ``name``, else ``parallel_env``, ``env``, ``make``, its class.

    Args:
        module: of the user's.
        where: its name or file, for the error.
        name: of something in it.

    Raises:
        ConfigError: if there is none, or more than one class that could be meant.
    """
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    if name:
        found = getattr(module, name, None)
        if not callable(found):
            raise ConfigError(
                unknown("environment", f"{where}:{name}", [f"{where}:{key}" for key in own], "environment")
            )
        return cast(Callable[..., Any], found)
    for attribute in MAKERS:
        if callable(maker := getattr(module, attribute, None)):
            return cast(Callable[..., Any], maker)
    classes = {key: getattr(module, key) for key in own if isinstance(getattr(module, key), type)}
    classes = {key: cls for key, cls in classes.items() if hasattr(cls, "reset") and hasattr(cls, "step")}
    if len(classes) == 1:
        return cast(Callable[..., Any], next(iter(classes.values())))
    ways = f"; name one: {', '.join(f'{where}:{key}' for key in classes)}" if classes else ""
    raise ConfigError(f"module {where!r} has none of {', '.join(MAKERS)}{ways}")


def _registered(registry: Mapping[str, Any], name: str) -> bool:
    try:
        return find_spec(dict(registry), name) is not None
    except exceptions.PettingZooRegistryError:
        return False


def _in_gymnasium(name: str) -> bool:
    try:
        return gymnasium.spec(name) is not None
    except gymnasium.error.Error:
        return False


def _importable(name: str) -> bool:
    """Whether a module of that name exists. A missing top-level package that an extra brings counts as existing."""
    top = name.partition(".")[0]
    try:
        if importlib.util.find_spec(top) is None:
            return top in EXTRAS
        return importlib.util.find_spec(name) is not None or _shown(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


class _Explained:
    """Turns a failed import into the command that mends it, and wrong ``env_kwargs`` into a plain message."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, exceptions.FailedToImport) and isinstance(error.__cause__, ImportError):
            error = error.__cause__
        if isinstance(error, (ImportError, gymnasium.error.DependencyNotInstalled)):
            absent = getattr(error, "name", None)
            parts = [*self.name.replace("/", ".").split("."), absent]
            family = next((part for part in parts if part in EXTRAS), None)
            if family is None and absent == re.split("[.:]", self.name)[0]:
                raise ConfigError(
                    f"environment {self.name!r}: there is no module {absent!r}; is its package installed?"
                ) from None
            mend = f": pip install '{EXTRAS[family]}'" if family else ""
            raise ConfigError(f"environment {self.name!r} needs something not installed ({error}){mend}") from None
        missing = MISSING.search(str(error)) if isinstance(error, TypeError) else None
        if missing is not None:
            lacking = re.findall(r"'(\w+)'", missing.group())
            given = ", ".join(f"{name!r}: ..." for name in lacking)
            said = " ".join(f"--set env_kwargs.{name}=VALUE" for name in lacking)
            checked = " ".join(f"{name}=VALUE" for name in lacking)
            raise ConfigError(
                f"environment {self.name!r} cannot be made without {' and '.join(lacking)} ({error}); give "
                f"env_kwargs={{{given}}} (marl train {said}; marl check --env-kwargs {checked})"
            ) from None
        if isinstance(error, TypeError) and "argument" in str(error):
            raise ConfigError(f"environment {self.name!r} does not take these env_kwargs: {error}") from None


def _suggestion(name: str) -> str:
    known = {*gymnasium.registry, *pettingzoo.parallel_registry, *pettingzoo.aec_registry, *_modules("mpe2")}
    top, _, _ = name.rpartition(".")
    if top:
        known |= _modules(top)
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    if not near:  # the same without package, namespace and version
        stems = {key.rpartition(".")[2].rpartition("/")[2]: key for key in sorted(known)}
        near = [stems[stem] for stem in difflib.get_close_matches(name, sorted(stems), n=3, cutoff=0.7)]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return "; expected a Gymnasium id, a PettingZoo id such as 'sisl/pursuit-v5' or a module such as 'mpe2.simple_v3'"


def _modules(package: str) -> set[str]:
    """Modules of a package that look like environments."""
    try:
        found = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):
        return set()
    paths = (found.submodule_search_locations if found else None) or []
    return {f"{package}.{module.name}" for module in pkgutil.iter_modules(list(paths)) if "_v" in module.name}
