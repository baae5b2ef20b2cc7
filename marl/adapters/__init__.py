"""Any PettingZoo or Gymnasium environment as a `BatchEnv`: its dicts end here, arrays keyed by position go on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marl.adapters.copies import LocalBatch, in_process
from marl.adapters.lifecycle import PASS_A_FUNCTION, close_env, open_env
from marl.adapters.ray_batch import on_ray
from marl.adapters.resolve import make_with, resolve
from marl.adapters.tasks import ByKwargs, CopyTasks, Ranges, Route, declared_space, largest_task
from marl.adapters.workers import WorkerBatch
from marl.cluster import Actors
from marl.types import BatchEnv, ConfigError, SupportsBatch

__all__ = ["in_process", "make"]


def make(
    env: Any,
    num_envs: int = 1,
    patterns: Sequence[str] | None = None,
    *,
    workers: int = 0,
    actors: Actors | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    on_bad_obs: str | None = None,
    deadline: float = 60.0,
    state: bool = True,
    infos: bool = False,
    lent: bool = False,
    reset_options: Mapping[str, Any] | None = None,
    tasks: Route | None = None,
    task_ranges: Ranges | None = None,
    first_copy: int = 0,
) -> BatchEnv:
    """Copies of an environment that step together.

    env: a Gymnasium or PettingZoo id (``"CartPole-v1"``, ``"sisl/pursuit-v5"``), a module (``"mpe2.simple_spread_v3"``
        or the module itself), a function or class that makes an environment, or one environment (for one copy in this
        process only). Environments with a batched form of their own bring it.
    num_envs: ``E``, how many copies.
    patterns: shell patterns over agent ids, one team each; None puts all agents into one team.
    workers: how many processes the copies are spread over; 0 keeps them in this one. Results do not depend on it.
    actors: actors of a Ray cluster that they are spread over instead; environments with a batched form take none.
    env_kwargs: passed to the function or class that makes the environment.
    max_steps: truncate episodes after this many steps.
    on_bad_obs: ``error``, ``cast``, ``clip`` or ``drop`` (see `LocalBatch`); None: ``error``.
    deadline: seconds a worker process or actor may take for one step before it is replaced.
    state: read ``env.state()`` in every step; switch it off where no critic or mixer wants the global state.
    infos: put all infos of the environment into each step, which a batched form or workers do not.
    lent: an environment that was given as such is not closed with the copies.
    reset_options: options of every reset; environments with a batched form take none.
    tasks: how tasks reach an environment without a batched form: ``ByOptions()``, ``ByKwargs()`` or ``BySetter(...)``;
        None: by options, if it declares a ``task_space``.
    task_ranges: the values that its tasks will have, if it declares none.
    first_copy: number of the first copy, on which its random stream depends; copies with ``workers`` begin at 0.

    No more than ``num_envs`` environments are open at any time. Raises ConfigError if they cannot be made, or if
    somebody else plays in the one that was given.
    """
    if isinstance(workers, bool) or not isinstance(workers, int | np.integer) or workers < 0:
        raise ConfigError(f"workers: expected a non-negative integer, got {workers!r}")
    factory, instance = resolve(env, env_kwargs)
    ranges = task_ranges or {}
    if isinstance(tasks, ByKwargs):
        if instance is not None:
            raise ConfigError(f"tasks: ByKwargs makes the environment anew for each task: {PASS_A_FUNCTION}")
        factory = functools.partial(make_with, env, dict(env_kwargs or {}))
    if instance is not None and not isinstance(instance, SupportsBatch) and (num_envs != 1 or workers or actors):
        raise ConfigError(
            f"an environment instance is one copy in this process (num_envs={num_envs}, workers={workers}): "
            "pass a function that makes the environment, e.g. lambda: MyEnv()"
        )
    first = open_env(functools.partial(factory, **largest_task(tasks, ranges)))
    if isinstance(first, SupportsBatch):
        try:
            if actors is not None:
                name = type(first).__name__
                raise ConfigError(f"actors: {name} steps all of its copies by itself, in this process; leave ray out")
            if reset_options:
                name = type(first).__name__
                raise ConfigError(f"reset_options: {name} steps its copies by itself, which take no options")
            if max_steps is not None:
                name = type(first).__name__
                raise ConfigError(f"max_steps: {name} ends its own episodes; give it its own limit instead")
            if not first_copy:
                return first.batch_env(num_envs, patterns)
            if "first_copy" not in inspect.signature(first.batch_env).parameters:
                name = type(first).__name__
                raise ConfigError(f"{name}: to train in several ranks its batch_env has to take first_copy=")
            return first.batch_env(num_envs, patterns, first_copy=first_copy)  # type: ignore[call-arg]
        except BaseException:
            if instance is None:
                close_env(first)
            raise
    if workers or actors is not None:
        known = CopyTasks(int(num_envs), declared_space(first), tasks, ranges)
        close_env(first)  # it has said that it brings no batch: the workers make their own
        return WorkerBatch(
            factory,
            num_envs,
            patterns,
            workers=workers if actors is None else actors.count,
            max_steps=max_steps,
            on_bad_obs=on_bad_obs or "error",
            deadline=deadline,
            build=functools.partial(
                in_process, state=state, reset_options=reset_options, tasks=tasks, task_ranges=ranges
            ),
            tasks=known,
            place=None if actors is None else on_ray(actors),
        )
    return LocalBatch(
        factory,
        num_envs,
        patterns,
        first_copy=first_copy,
        max_steps=max_steps,
        on_bad_obs=on_bad_obs or "error",
        state=state,
        infos=infos,
        reset_options=reset_options,
        tasks=tasks,
        task_ranges=ranges,
        first=first,
        instance=instance is not None,
        lent=lent,
    )
