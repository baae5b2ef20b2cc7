"""The tasks that evaluation plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marl.curriculum.tasks import Task, check_task, draw_task, with_tasks
from marl.schedules import Clock
from marl.types import Array, BatchEnv


class EvaluationTasks:
    """Tasks of evaluation, drawn for each episode from a stream of their own."""

    def __init__(self, task: Task, env: BatchEnv, seed: int) -> None:
        """Raises ConfigError if the environment has no such tasks."""
        self.env = with_tasks(env, "; for evaluate(env=) in a marl.Scenario(tasks=...)")
        check_task("task", task, self.env.task_space)
        self.task, self.random = task, np.random.default_rng(seed)

    def first(self) -> dict[str, Any]:
        """Options for the reset."""
        count = self.env.num_envs  # type: ignore[attr-defined]
        return {"task": self._draw(count)}

    def renew(self, copies: Sequence[int]) -> None:
        """Draw what these copies play after the episode that they have just begun."""
        if copies:
            self.env.set_tasks(self._draw(len(copies)), copies)

    def _draw(self, count: int) -> dict[str, Array]:
        return draw_task(self.task, self.env.task_space, count, Clock(0, 1), self.random)
