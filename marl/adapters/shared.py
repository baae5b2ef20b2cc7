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

    def __init__(self, block: mmap.mmap | bytearray | None) -> None:
        """``block``: the memory to lay arrays in."""
        self._block = block
        self.size = 0
        self.successors = 0  # where the successors of a step begin, behind everything else of it
        self.actions = 0  # where the actions begin

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The next array."""
        start = self.size
        self.size += -(-max(math.prod(shape) * np.dtype(dtype).itemsize, 1) // self.LINE) * self.LINE
        if self._block is None:
            return np.broadcast_to(np.zeros((), dtype=dtype), shape)
        return np.ndarray(shape, dtype, buffer=self._block, offset=start)


def lay_out(spec: Spec, num_envs: int, arena: Arena) -> tuple[Step, tuple[Array, ...]]:
    """The arrays of a step and of the actions for it. Learner and workers must call this with the same arguments.

    What a step always has lies first, successors behind it, actions last.
    """
    rows = [(num_envs, team.num_agents) for team in spec.teams]

    def observed() -> list[tuple[Array, Array | None]]:
        return [
            (
                arena.take((*shape, *team.obs.shape), team.obs.dtype),
                arena.take((*shape, team.action.num_choices), "bool") if team.masked else None,
            )
            for team, shape in zip(spec.teams, rows, strict=True)
        ]

    def state() -> Array | None:
        return None if spec.state_shape is None else arena.take((num_envs, *spec.state_shape), "float32")

    now, state_now = observed(), state()
    flags = [[arena.take(shape, dtype) for dtype in ("float32", "bool", "bool", "bool")] for shape in rows]
    started, discarded = arena.take((num_envs,), "bool"), arena.take((num_envs,), "bool")
    arena.successors = arena.size
    successors, next_state = observed(), state()
    arena.actions = arena.size
    actions = tuple(
        arena.take((*shape, *team.action.shape), team.action.dtype)
        for team, shape in zip(spec.teams, rows, strict=True)
    )
    teams = tuple(
        TeamStep(obs, next_obs, reward, terminated, truncated, acting, action_mask, next_action_mask)
        for (obs, action_mask), (next_obs, next_action_mask), (reward, terminated, truncated, acting) in zip(
            now, successors, flags, strict=True
        )
    )
    return Step(teams, started, discarded, state_now, next_state, ()), actions


def rows_of(step: Step, rows: slice) -> Step:
    """Views of some copies of a step."""

    def view(array: Array | None) -> Any:
        return None if array is None else array[rows]

    teams = tuple(TeamStep(*(view(getattr(team, entry.name)) for entry in fields(TeamStep))) for team in step.teams)
    return Step(teams, view(step.started), view(step.discarded), view(step.state), view(step.next_state), ())
