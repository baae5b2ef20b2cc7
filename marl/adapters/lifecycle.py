"""Opening and closing environments: each is closed once, by its owner, and stepped by one owner at a time."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from marl.adapters.tuples import TupleEnv
from marl.types import ConfigError, MarlError, ResourceError

T = TypeVar("T")
OUT_OF = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
PASS_A_FUNCTION = "pass a function that makes the environment (lambda: MyEnv())"

OURS = ("marl.adapters.tuples", "marl.adapters.resolve", "marl.adapters.spoken", "gymnasium.envs.registration")

# By the id of the innermost environment, which is its own as long as an entry is there.
_owners: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # who closes an open environment
_players: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # who steps it
_closed: dict[int, weakref.ref[Any]] = {}
_told: set[type] = set()  # classes of environments of which a failing close() was told


def innermost(env: Any) -> Any:
    """The environment itself, without what is wrapped around it."""
    for _ in range(100):
        inner = env.env if isinstance(env, TupleEnv) else _unwrapped(env)
        if inner is None or inner is env or (inner is not _unwrapped(env) and not isinstance(env, TupleEnv)):
            break  # the last: one that is made when asked for has no lasting id
        env = inner
    return env


def _unwrapped(env: Any) -> Any:
    try:
        return getattr(env, "unwrapped", None)
    except Exception:  # a wrapper around something that has none
        return None


class NotMade(ConfigError):
    """The error of a factory that raised; ``made``: how many environments it had made before."""

    made = 0


# --- making -----------------------------------------------------------------------------------------------------------


def factory_name(factory: Any) -> str:
    """The name of an environment's factory in messages."""
    while isinstance(factory, functools.partial):
        ours = getattr(factory.func, "__module__", "") in OURS
        names = [value if isinstance(value, str) else getattr(value, "id", None) for value in factory.args]
        named = next((name for name in names if isinstance(name, str)), None)
        if named is not None and ours:
            return repr(named)
        inner = [value for value in (factory.func, *factory.args) if getattr(value, "__module__", "") not in OURS]
        factory = next((value for value in inner if callable(value)), factory.func)
    return str(getattr(factory, "__qualname__", None) or type(factory).__name__).replace(".<locals>", "")


def open_env(factory: Callable[[], Any]) -> Any:
    """What the factory makes. Raises NotMade for whatever it raises, ResourceError if something ran out."""
    try:
        return factory()
    except MarlError:
        raise
    except (Exception, SystemExit) as error:
        text = f"environment {factory_name(factory)} could not be made: {type(error).__name__}: {_flat(error)}"
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in OUT_OF):
            raise ResourceError(f"{text}; lower num_envs or workers") from error
        hint = "check env_kwargs and the function" if isinstance(error, TypeError) else "call the function"
        raise NotMade(f"{text}; {hint} that makes it by itself to see where") from error


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())


# --- whose it is ------------------------------------------------------------------------------------------------------


def own(env: Any, owner: Any) -> None:
    """An environment that was just made is this owner's to step and to close.

    Raises:
        ConfigError: if it is somebody's already, or was closed: the factory does not make new ones.
    """
    key = innermost(env)
    if id(key) in _owners or id(key) in _players or is_closed(env):
        was = "that was closed already" if is_closed(env) else "twice"
        raise ConfigError(f"the factory returned one environment {was}: it must make a new one at every call")
    _owners[id(key)] = _players[id(key)] = owner


def borrow(env: Any, owner: Any, *, keep: bool) -> None:
    """An instance that is the user's is looked at; ``keep``: its ``owner`` closes it at the end.

    Raises:
        ConfigError: if it was closed, or somebody plays in it.
    """
    if is_closed(env):
        raise ConfigError(f"this environment instance was closed: {PASS_A_FUNCTION}, or a new instance")
    refuse_played(env, owner)
    if keep:
        _owners.setdefault(id(innermost(env)), owner)


def play_in(env: Any, player: Any) -> None:
    """From now on nobody else may step or reset the environment. Raises ConfigError if somebody does."""
    refuse_played(env, player)
    _players[id(innermost(env))] = player


def refuse_played(env: Any, player: Any) -> None:
    """Raise ConfigError if somebody else plays in this environment."""
    if _players.get(id(innermost(env)), player) is not player:
        raise ConfigError(
            f"training goes on in this environment instance, and a second owner would step and close it: "
            f"{PASS_A_FUNCTION}, or evaluate(env=...) another one, or close() the system that trains in it first"
        )


def is_played(env: Any) -> bool:
    """Whether episodes are under way in this environment."""
    return id(innermost(env)) in _players


def is_closed(env: Any) -> bool:
    """Whether this environment was closed here."""
    return id(innermost(env)) in _closed


def give_back(env: Any, owner: Any) -> None:
    """The owner has done with an environment, without closing it."""
    key = id(innermost(env))
    for table in (_owners, _players):
        if table.get(key) is owner:
            del table[key]


# --- closing ----------------------------------------------------------------------------------------------------------


def close_env(env: Any) -> None:
    """Close an environment as `end_env` does; what that raises is logged, once for each class."""
    _quietly(env, functools.partial(end_env, env))


def close(batch: Any) -> None:
    """Close copies of an environment, as :func:`close_env` does."""
    _quietly(batch, batch.close)


def end_env(env: Any) -> None:
    """Call an environment's ``close``; nobody may step it from here on."""
    key = innermost(env)
    _owners.pop(id(key), None)
    _players.pop(id(key), None)
    with contextlib.suppress(TypeError):  # some objects cannot be remembered
        _closed[id(key)] = weakref.ref(key, functools.partial(_forget, id(key)))
    method = getattr(env, "close", None)
    if callable(method):
        with _pygame_stays() if _owners else contextlib.nullcontext():
            method()


def _quietly(thing: Any, action: Callable[[], None]) -> None:
    try:
        action()
    except (Exception, SystemExit) as error:
        kind = type(innermost(thing))
        if kind not in _told:
            _told.add(kind)
            logging.getLogger("marl.adapters").warning(
                "%s: close() raised %s: %s; it is taken as closed", kind.__name__, type(error).__name__, _flat(error)
            )


def _forget(key: int, _: object) -> None:
    _closed.pop(key, None)


@contextlib.contextmanager
def closing_batch(batch: T) -> Iterator[T]:
    """As `contextlib.closing`, where closing cannot end a command."""
    try:
        yield batch
    finally:
        close(batch)


@contextlib.contextmanager
def _pygame_stays() -> Iterator[None]:
    """Environments end pygame when they are closed, and with it the fonts and surfaces of all others in this process.

    The last one that is open may.
    """
    parts = ("", ".display", ".font", ".freetype", ".mixer")
    modules = [sys.modules.get(f"pygame{part}") for part in parts]
    kept = [(module, module.quit) for module in modules if module is not None and hasattr(module, "quit")]
    for module, _ in kept:
        module.quit = _nothing  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module, quit_ in kept:
            module.quit = quit_  # type: ignore[attr-defined]


def _nothing() -> None:
    """Does nothing; replaces ``pygame.quit``."""
