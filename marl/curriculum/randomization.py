"""Domain randomization: a fixed distribution of tasks, or one that follows schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from marl.curriculum.rules import Success, TaskOutcome
from marl.curriculum.scheduler import Scheduler, stream_state
from marl.curriculum.tasks import Task, TaskSpace, check_task, draw_task, final
from marl.schedules import Clock
from marl.types import Array, ConfigError


@dataclass(frozen=True)
class DomainRandomization:
    """A fixed distribution of tasks: ``{"density": Between(0, 0.4), "width": Among((5, 10))}``.

    Args:
        task: numbers, :class:`Between` or :class:`Among`, by parameter.
        target: the tasks to evaluate on; None: the same distribution.
    """

    task: Task
    target: Task = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Evaluate on the same distribution by default."""
        if not self.task:
            raise ConfigError(f"{type(self).__name__}.task: expected at least one parameter, got none")
        if not self.target:
            object.__setattr__(self, "target", self._usual_target())

    def _usual_target(self) -> Task:
        return self.task

    @property
    def success(self) -> Success:
        """None: it uses no success."""
        return None

    @property
    def parameters(self) -> frozenset[str]:
        """The task parameters it chooses."""
        return frozenset(self.task)

    @property
    def tasks(self) -> list[Task]:
        """All tasks that it may choose, as distributions."""
        return [self.task]

    def check(self, steps: int | None) -> None:
        """Accept any number of steps."""

    def build(self, space: TaskSpace, seed: np.random.SeedSequence) -> Scheduler:
        """Make the scheduler."""
        check_task(f"{type(self).__name__}.task", self.task, space)
        return _Fixed(self.task, space, np.random.default_rng(seed))


@dataclass(frozen=True)
class Annealed(DomainRandomization):
    """Parameters that follow schedules in environment steps: ``{"width": Linear(4, 20, steps=500_000)}``.

    Args:
        task: schedules, or distributions whose ends are schedules, by parameter.
        target: the tasks to evaluate on; None: where the schedules end.
    """

    def _usual_target(self) -> Task:
        return {name: final(choice) for name, choice in self.task.items()}


class _Fixed:
    def __init__(self, task: Task, space: TaskSpace, random: np.random.Generator) -> None:
        self.task, self.space, self.random = task, space, random

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        return np.zeros(count, dtype=np.int64), draw_task(self.task, self.space, count, clock, self.random)

    def learn(self, outcomes: Sequence[TaskOutcome], clock: Clock) -> bool:
        return False

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"random": stream_state(self.random)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.random.bit_generator.state = state["random"]
