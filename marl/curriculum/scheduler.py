"""Protocols of curricula: settings build a scheduler, which draws tasks and learns from results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from marl.curriculum.rules import Success, TaskOutcome
from marl.curriculum.tasks import Task, TaskSpace
from marl.schedules import Clock
from marl.types import Array


class Scheduler(Protocol):
    """A built curriculum: draws tasks, takes in results."""

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        """A choice of its own, to be handed back with the result, and the parameters: arrays ``(count,)``."""
        ...

    def learn(self, outcomes: Sequence[TaskOutcome], clock: Clock) -> bool:
        """Learn from results. True: redraw the tasks of episodes that have not begun."""
        ...

    def metrics(self) -> dict[str, float]:
        """What to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All of it, random stream included."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


class Curriculum(Protocol):
    """A frozen dataclass that builds a scheduler."""

    @property
    def target(self) -> Task:
        """The tasks that evaluation plays; parameters left out keep the world's defaults."""
        ...

    @property
    def success(self) -> Success:
        """What a success is, where the world does not report it."""
        ...

    @property
    def parameters(self) -> frozenset[str]:
        """The task parameters it chooses."""
        ...

    def check(self, steps: int | None) -> None:
        """Refuse curricula that a training of so many steps cannot finish. Raises ConfigError."""
        ...

    def build(self, space: TaskSpace, seed: np.random.SeedSequence) -> Scheduler:
        """Make the scheduler. Raises ConfigError for parameters that the world does not have."""
        ...


@runtime_checkable
class KnowsTasks(Protocol):
    """A curriculum that can list its tasks, which environments need that declare no ``task_space``."""

    @property
    def target(self) -> Task:
        """The tasks that evaluation plays."""
        ...

    @property
    def tasks(self) -> Sequence[Task]:
        """All tasks that it may choose, as distributions."""
        ...


def stream_state(random: np.random.Generator) -> dict[str, Any]:
    """The state of a random stream, as JSON values."""
    return dict(random.bit_generator.state)
