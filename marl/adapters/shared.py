"""The block of memory that worker processes and the learner share: where the arrays of a step lie in it."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
from dataclasses import fields
from typing import Any

import numpy as np

from marl.types import Array, Spec, Step, TeamStep


def anonymous_file(name: str) -> int:
    """A file without a name, in memory where the system can: it is gone when the last process that holds it is."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Arena:
    """Arrays laid end to end in one block, each on its own cache line; without a block it only measures."""

    LINE = 64

    def __init__(self, block: mmap.mmap | None) -> None:
        """``block``: the memory to lay arrays in."""
        self._block = block
        self.size = 0

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The next array."""
        start = self.size
        self.size += -(-max(math.prod(shape) * np.dtype(dtype).itemsize, 1) // self.LINE) * self.LINE
        if self._block is None:
            return np.broadcast_to(np.zeros((), dtype=dtype), shape)
        return np.ndarray(shape, dtype, buffer=self._block, offset=start)


def lay_out(spec: Spec, num_envs: int, arena: Arena) -> tuple[Step, tuple[Array, ...]]:
    """The arrays of a step and of the actions for it. Learner and workers must call this with the same arguments."""
    teams: list[TeamStep] = []
    actions: list[Array] = []
    for team in spec.teams:
        rows = (num_envs, team.num_agents)
        teams.append(
            TeamStep(
                obs=arena.take((*rows, *team.obs.shape), team.obs.dtype),
                next_obs=arena.take((*rows, *team.obs.shape), team.obs.dtype),
                reward=arena.take(rows, "float32"),
                terminated=arena.take(rows, "bool"),
                truncated=arena.take(rows, "bool"),
                acting=arena.take(rows, "bool"),
                action_mask=arena.take((*rows, team.action.num_choices), "bool") if team.masked else None,
                next_action_mask=arena.take((*rows, team.action.num_choices), "bool") if team.masked else None,
            )
        )
        actions.append(arena.take((*rows, *team.action.shape), team.action.dtype))
    states = [
        None if spec.state_shape is None else arena.take((num_envs, *spec.state_shape), "float32") for _ in range(2)
    ]
    started, discarded = arena.take((num_envs,), "bool"), arena.take((num_envs,), "bool")
    return Step(tuple(teams), started, discarded, states[0], states[1], ()), tuple(actions)


def rows_of(step: Step, rows: slice) -> Step:
    """Views of some copies of a step."""

    def view(array: Array | None) -> Any:
        return None if array is None else array[rows]

    teams = tuple(TeamStep(*(view(getattr(team, entry.name)) for entry in fields(TeamStep))) for team in step.teams)
    return Step(teams, view(step.started), view(step.discarded), view(step.state), view(step.next_state), ())
