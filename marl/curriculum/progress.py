"""Learning progress: play the tasks whose results change most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from marl.curriculum.rules import Success, TaskOutcome, value_of
from marl.curriculum.scheduler import Scheduler, stream_state
from marl.curriculum.tasks import Between, Task, TaskSpace, check_task, limits
from marl.schedules import Clock
from marl.types import Array, ConfigError


def _check_box(where: str, task: Mapping[str, Between], space: TaskSpace) -> None:
    if not task or not all(isinstance(choice, Between) for choice in task.values()):
        raise ConfigError(f"{where}: expected Between(low, high) for each of its parameters, got {dict(task)!r}")
    check_task(where, task, space)
    for name, choice in task.items():
        if not isinstance(choice.low, int | float) or not isinstance(choice.high, int | float):
            raise ConfigError(f"{where}: {name}: expected numbers, got {choice}; schedules have no place here")


@dataclass(frozen=True)
class LearningProgress:
    """A bandit over a grid of tasks, rewarded by absolute learning progress.

    A bin is drawn in proportion to ``|fast - slow|``, two moving averages of its results (Matiisen et al. 2017,
    Portelas et al. 2019), or uniformly with probability ``explore``. What is too easy or too hard changes little.

    Args:
        task: the box to divide, a :class:`Between` for each parameter.
        target: the tasks to evaluate on; None: the world's defaults.
        bins: parts of each parameter's range; fewer where there are fewer whole numbers.
        measure: what a result is, ``"success"`` or ``"return"``.
        explore: probability of a bin drawn uniformly.
        rate: step size of the fast average; the slow one has a quarter of it.
        success: as for :class:`Stages`.
    """

    task: Mapping[str, Between]
    target: Task = field(default_factory=dict)
    bins: int = 5
    measure: str = "success"
    explore: float = 0.2
    rate: float = 0.1
    success: Success = None

    def __post_init__(self) -> None:
        """Check the values."""
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or self.bins < 1:
            raise ConfigError(f"LearningProgress.bins: expected a whole number of at least 1, got {self.bins!r}")
        if self.measure not in ("success", "return"):
            raise ConfigError(f"LearningProgress.measure: expected 'success' or 'return', got {self.measure!r}")
        if not (0 < self.explore <= 1 and 0 < self.rate <= 1):
            raise ConfigError(
                f"LearningProgress: expected explore and rate in (0, 1], got {self.explore!r} and {self.rate!r}"
            )

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
        _check_box("LearningProgress.task", self.task, space)
        return _LearningProgress(self, space, np.random.default_rng(seed))


class _LearningProgress:
    def __init__(self, config: LearningProgress, space: TaskSpace, random: np.random.Generator) -> None:
        self.config, self.random = config, random
        parts = []  # of each parameter: least and greatest value of every part
        for name, choice in config.task.items():
            low, high = limits(choice.low)[0], limits(choice.high)[0]
            if space[name].integer:  # whole numbers low..high in groups that differ by one at most
                edges = np.floor(np.linspace(low, high + 1, min(config.bins, int(high - low) + 1) + 1))
                parts.append(np.array([(a, b - 1) for a, b in pairwise(edges)]))
            else:
                parts.append(np.array(list(pairwise(np.linspace(low, high, config.bins + 1)))))
        self.space, self.shape = space, tuple(len(part) for part in parts)
        grid = [axis.reshape(-1) for axis in np.meshgrid(*map(np.arange, self.shape), indexing="ij")]
        ends = [part[axis] for part, axis in zip(parts, grid, strict=True)]  # (bins, 2) each
        self.low = {name: end[:, 0] for name, end in zip(config.task, ends, strict=True)}
        self.high = {name: end[:, 1] for name, end in zip(config.task, ends, strict=True)}
        size = math.prod(self.shape)
        self.fast, self.slow, self.tried = np.zeros(size), np.zeros(size), np.zeros(size, dtype=np.int64)

    @property
    def chances(self) -> Array:
        """Probability of each bin."""
        progress, size = np.abs(self.fast - self.slow), len(self.fast)
        total = progress.sum()
        uniform = np.full(size, 1 / size)
        greedy = progress / total if total > 0 else uniform
        chances: Array = (1 - self.config.explore) * greedy + self.config.explore * uniform
        return chances

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        chosen = self.random.choice(len(self.fast), size=count, p=self.chances)
        tasks = {}
        for name, low in self.low.items():
            a, b = low[chosen], self.high[name][chosen]
            whole = self.space[name].integer
            tasks[name] = (
                self.random.integers(a.astype(int), b.astype(int) + 1) * 1.0 if whole else self.random.uniform(a, b)
            )
        return chosen, tasks

    def learn(self, outcomes: Sequence[TaskOutcome], clock: Clock) -> bool:
        for outcome in outcomes:
            k, value = outcome.choice, value_of(outcome, self.config.measure)
            if not self.tried[k]:
                # Returns may lie anywhere: the first one is where both averages start. Failure is where success does.
                self.fast[k] = self.slow[k] = 0.0 if self.config.measure == "success" else value
            self.tried[k] += 1
            self.fast[k] += self.config.rate * (value - self.fast[k])
            self.slow[k] += 0.25 * self.config.rate * (value - self.slow[k])
        return False

    def metrics(self) -> dict[str, float]:
        return {
            "progress": float(np.abs(self.fast - self.slow).mean()),
            "bins_tried": float((self.tried > 0).mean()),
            "mean_result": float(self.slow.mean()),
        }

    def state_dict(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).copy() for name in ("fast", "slow", "tried")}
        return {**arrays, "random": stream_state(self.random)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("fast", "slow", "tried"):
            getattr(self, name)[:] = state[name]
        self.random.bit_generator.state = state["random"]
