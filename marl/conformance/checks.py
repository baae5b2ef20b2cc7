"""The whole check: the raw environment, the adapter, the learners."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from marl.conformance.adapted import run_adapted
from marl.conformance.examine import close_checked, examine
from marl.conformance.learners import supported_learners
from marl.conformance.report import CheckReport, Findings
from marl.types import ConfigError

RAW_STEPS = 1000  # an episode longer than this is examined up to here


def check(
    env: Any,
    steps: int = 2000,
    seed: int = 0,
    learners: Sequence[type] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> CheckReport:
    """Examine an environment: an id, a factory or an instance, whatever `marl.adapters.make` accepts.

    steps: environment steps of random legal play through the adapter, after the raw examination.
    learners: learner config classes to judge, each with its ``action_kinds``; all of `marl.learners` unless given.
    progress: told in words what is being done.
    Raises ConfigError if there is no such environment; all that is wrong with it is reported, never raised.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}")
    create, only_one = _creator(env)
    log = Findings()
    facts: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        progress("playing the raw environment, twice in fresh copies and once in a used one")
        player = examine(create, only_one, min(steps, RAW_STEPS), seed, log, facts)
        if player is not None and not log.has_errors():
            run_adapted(env, steps, seed, log, facts, player, progress)
        if player is not None and only_one:
            close_checked(log, player.env)
    progress("")
    told = [w for w in caught if not issubclass(w.category, DeprecationWarning | PendingDeprecationWarning)]
    for text in sorted({f"{w.category.__name__}: {' '.join(str(w.message).split())}" for w in told}):
        log.add("note", "warns", text, f"the environment warns: {text}")
    table = {} if player is None or not player.action_spaces else supported_learners(player.action_spaces, learners)
    return CheckReport(_name(env), log.findings(), facts, table)


def _creator(env: Any) -> tuple[Callable[[], Any], bool]:
    """How to make a raw copy, and whether there is only this one."""
    from marl.adapters.resolve import resolve

    factory, instance = resolve(env)
    if instance is not None:
        return lambda: instance, True
    return factory, False


def _name(env: Any) -> str:
    if isinstance(env, str):
        return env
    return str(getattr(env, "__name__", None) or type(env).__name__)
