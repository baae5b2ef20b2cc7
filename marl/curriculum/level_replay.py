"""Prioritized level replay: play single tasks again, in proportion to a score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from marl.config import unknown
from marl.curriculum.rules import Success, TaskOutcome, value_of
from marl.curriculum.scheduler import Scheduler, stream_state
from marl.curriculum.tasks import Task, TaskSpace, check_task, draw_task
from marl.schedules import Clock
from marl.types import Array, ConfigError


@dataclass(frozen=True)
class PrioritizedLevelReplay:
    """Replay the tasks with the greatest scores, and those not played for long.

    ``P = (1 - staleness) P_score + staleness P_age``, in proportion to ``(1 / rank) ** (1 / temperature)`` and to the
    episodes since it was played (Jiang et al. 2021). Scores of a level: ``regret``, its best return minus its
    mean one; ``surprise``, how far the last return was from that mean; ``learnability``, ``p (1 - p)`` with the mean
    success ``p`` (Rutherford et al. 2024).

    Args:
        task: where new levels are drawn from. Worlds whose layouts have numbers (``level`` of GridWorld) make it exact.
        target: the tasks to evaluate on; None: the world's defaults.
        capacity: levels that are kept.
        replay: probability of playing one of them again, once there are some.
        score: ``"learnability"``, ``"regret"`` or ``"surprise"``.
        temperature: small: the best ranks only.
        staleness: share of age.
        success: as for :class:`Stages`.
    """

    task: Task
    target: Task = field(default_factory=dict)
    capacity: int = 256
    replay: float = 0.5
    score: str = "learnability"
    temperature: float = 0.3
    staleness: float = 0.3
    success: Success = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.task:
            raise ConfigError("PrioritizedLevelReplay.task: expected at least one parameter, got none")
        if isinstance(self.capacity, bool) or not isinstance(self.capacity, int) or self.capacity < 1:
            raise ConfigError(
                f"PrioritizedLevelReplay.capacity: expected a whole number above 0, got {self.capacity!r}"
            )
        if self.score not in ("learnability", "regret", "surprise"):
            raise ConfigError(
                unknown("PrioritizedLevelReplay.score", self.score, ("learnability", "regret", "surprise"), "value")
            )
        for name, least in (("replay", 0.0), ("staleness", 0.0), ("temperature", 1e-6)):
            value = getattr(self, name)
            if not least <= value <= (1 if name != "temperature" else math.inf):
                raise ConfigError(f"PrioritizedLevelReplay.{name}: expected a number in range, got {value!r}")

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
        check_task("PrioritizedLevelReplay.task", self.task, space)
        return _LevelReplay(self, space, np.random.default_rng(seed))


class _LevelReplay:
    """A level has a number for life, and a slot for as long as it is kept; a result of a level let go is ignored."""

    AVERAGE = 0.2  # step size of a level's mean result
    UNBORN = 10_000  # more are not waited for: those of copies that crashed, or that others played, never come

    def __init__(self, config: PrioritizedLevelReplay, space: TaskSpace, random: np.random.Generator) -> None:
        self.config, self.space, self.random = config, space, random
        size = config.capacity
        self.number = np.full(size, -1, dtype=np.int64)
        self.tasks = np.zeros((size, len(config.task)))
        self.score, self.mean, self.best = np.zeros(size), np.zeros(size), np.zeros(size)
        self.played = np.zeros(size, dtype=np.int64)  # when it was last chosen, in episodes
        self.unborn: dict[int, Array] = {}  # drawn, not yet played to the end
        self.next_number, self.time = 0, 0

    @property
    def chances(self) -> Array:
        """Probability of each slot among those to replay."""
        known = self.number >= 0
        rank = np.empty(len(known))
        rank[np.argsort(np.where(known, -self.score, np.inf), kind="stable")] = np.arange(1, len(known) + 1)
        weight = np.where(known, (1 / rank) ** (1 / self.config.temperature), 0.0)
        age = np.where(known, self.time - self.played, 0).astype(np.float64)
        by_age = age / age.sum() if age.sum() > 0 else known / max(known.sum(), 1)
        chances: Array = (1 - self.config.staleness) * weight / weight.sum() + self.config.staleness * by_age
        return chances

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        fresh = draw_task(self.config.task, self.space, count, clock, self.random)
        rows = np.stack([fresh[name] for name in self.config.task], axis=1)  # (count, parameters)
        numbers = np.empty(count, dtype=np.int64)
        again = self.random.random(count) < self.config.replay if (self.number >= 0).any() else np.zeros(count, bool)
        for k in range(count):  # one or two a step: each choice makes the others older
            self.time += 1
            if again[k]:
                slot = int(self.random.choice(len(self.number), p=self.chances))
                numbers[k], rows[k], self.played[slot] = self.number[slot], self.tasks[slot], self.time
            else:
                numbers[k] = self.next_number
                self.unborn[self.next_number] = rows[k].copy()
                if len(self.unborn) > self.UNBORN:
                    del self.unborn[next(iter(self.unborn))]
                self.next_number += 1
        return numbers, {name: rows[:, column] for column, name in enumerate(self.config.task)}

    def learn(self, outcomes: Sequence[TaskOutcome], clock: Clock) -> bool:
        measure = "success" if self.config.score == "learnability" else "return"
        for outcome in outcomes:
            value = value_of(outcome, measure)
            task = self.unborn.pop(outcome.choice, None)
            if task is not None:
                self._admit(outcome.choice, task, value)
                continue
            found = np.flatnonzero(self.number == outcome.choice)
            if len(found):
                slot = int(found[0])
                surprise = abs(value - self.mean[slot])
                self.mean[slot] += self.AVERAGE * (value - self.mean[slot])
                self.best[slot] = max(self.best[slot], value)
                self.score[slot] = self._score(slot, surprise)
        return False

    def _score(self, slot: int, surprise: float) -> float:
        mean = float(self.mean[slot])
        kinds = {"learnability": mean * (1 - mean), "regret": float(self.best[slot]) - mean, "surprise": surprise}
        return kinds[self.config.score]

    def _admit(self, number: int, task: Array, value: float) -> None:
        """Store a new level in an empty slot, or in that of the least score; half-known levels get a second try."""
        empty = np.flatnonzero(self.number < 0)
        slot = int(empty[0]) if len(empty) else int(np.argmin(self.score))
        self.number[slot], self.tasks[slot], self.played[slot] = number, task, self.time
        self.mean[slot] = 0.5 * value if self.config.score == "learnability" else value
        self.best[slot] = value
        self.score[slot] = self._score(slot, 0.0)

    def metrics(self) -> dict[str, float]:
        known = self.number >= 0
        return {"levels": float(known.sum()), "mean_score": float(self.score[known].mean()) if known.any() else 0.0}

    _ARRAYS = ("number", "tasks", "score", "mean", "best", "played")

    def state_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name).copy() for name in self._ARRAYS},
            "unborn": [[number, task.tolist()] for number, task in self.unborn.items()],
            "next_number": self.next_number,
            "time": self.time,
            "random": stream_state(self.random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in self._ARRAYS:
            getattr(self, name)[:] = state[name]
        self.unborn = {int(number): np.array(task) for number, task in state["unborn"]}
        self.next_number, self.time = int(state["next_number"]), int(state["time"])
        self.random.bit_generator.state = state["random"]
