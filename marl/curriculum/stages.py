"""Fixed stages in order, each with a rule for leaving it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from marl.curriculum.rules import Rule, Success, TaskOutcome, value_of
from marl.curriculum.scheduler import Scheduler, stream_state
from marl.curriculum.tasks import Task, TaskSpace, check_task, draw_task, final
from marl.schedules import Clock
from marl.types import Array, ConfigError


@dataclass(frozen=True)
class Stage:
    """A distribution of tasks, and what has to be reached to leave it.

    Args:
        task: numbers, :class:`Between`, :class:`Among` or schedules, by parameter.
        advance: MeanReturn, SuccessRate, WinRate or Steps; None in the last stage, which never ends.
        name: for people.
    """

    task: Task
    advance: Rule | None = None
    name: str = ""


@dataclass(frozen=True)
class Stages:
    """Fixed stages in order; only results of the current stage count.

    Args:
        stages: the stages; each but the last has a rule.
        target: the tasks to evaluate on; None: the last stage's.
        patience: the rule has to hold after so many episodes in a row.
        rollback: go back a stage where the rule's measure falls below this share of what it asks for (where that is
            negative, as far below it); None: never.
        hysteresis: a stage that was gone back to asks for so much more.
        rehearse: the share of episodes that play an earlier stage, so that it is not forgotten.
        success: what a success is: a least return, the name of a number in the infos of an episode's last step, or a
            function of an Episode; None: what infos call ``success``.
    """

    stages: Sequence[Stage]
    target: Task = field(default_factory=dict)
    patience: int = 1
    rollback: float | None = None
    hysteresis: float = 0.0
    rehearse: float = 0.0
    success: Success = None

    def __post_init__(self) -> None:
        """Check that every stage can be reached."""
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages or not all(isinstance(stage, Stage) for stage in self.stages):
            raise ConfigError(f"Stages.stages: expected at least one Stage(...), got {self.stages!r}")
        if not self.target:
            object.__setattr__(self, "target", {name: final(x) for name, x in self.stages[-1].task.items()})
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise ConfigError(f"Stages.patience: expected a whole number of at least 1, got {self.patience!r}")
        if self.hysteresis < 0 or not 0 <= self.rehearse < 1:
            raise ConfigError(
                f"Stages: expected hysteresis of at least 0 and rehearse in [0, 1), got {self.hysteresis!r} and "
                f"{self.rehearse!r}"
            )
        if self.rollback is not None and not 0 < self.rollback < 1:
            raise ConfigError(f"Stages.rollback: expected a share in (0, 1) or None, got {self.rollback!r}")
        names = set(self.stages[0].task)
        for place, stage in enumerate(self.stages):
            if set(stage.task) != names:
                raise ConfigError(
                    f"Stages: stage {place} sets {sorted(stage.task)} and stage 0 {sorted(names)}: every stage "
                    "sets the same parameters, since what one leaves out would stay as the one before had it"
                )
            if place == len(self.stages) - 1:
                break
            rule = stage.advance
            if rule is None:
                raise ConfigError(f"Stages: stage {place + 1} can never be reached: stage {place} has no advance rule")
            highest = rule.at_least + (self.hysteresis if self.rollback is not None else 0.0)
            if (rule.measures in ("success", "win") and highest > 1) or not math.isfinite(highest):
                raise ConfigError(
                    f"Stages: stage {place + 1} can never be reached: stage {place} asks for {highest:g} of "
                    f"{rule.measures}"
                )

    @property
    def parameters(self) -> frozenset[str]:
        """The task parameters it chooses."""
        return frozenset(self.stages[0].task)

    @property
    def tasks(self) -> list[Task]:
        """All tasks that it may choose, as distributions."""
        return [stage.task for stage in self.stages]

    def check(self, steps: int | None) -> None:
        """Refuse a stage that begins only after the training's end. Raises ConfigError."""
        spent = 0.0
        for place, stage in enumerate(self.stages[:-1]):
            spent += stage.advance.at_least if stage.advance is not None and stage.advance.measures == "steps" else 0
            if steps is not None and spent >= steps:
                raise ConfigError(
                    f"Stages: stage {place + 1} can never be reached: the stages before it take {spent:,.0f} of "
                    f"{steps:,} steps"
                )

    def build(self, space: TaskSpace, seed: np.random.SeedSequence) -> Scheduler:
        """Make the scheduler."""
        for place, stage in enumerate(self.stages):
            check_task(f"Stages: stage {place}", stage.task, space)
        return _Stages(self, space, np.random.default_rng(seed))


class _Stages:
    def __init__(self, config: Stages, space: TaskSpace, random: np.random.Generator) -> None:
        self.config, self.space, self.random = config, space, random
        self.stage, self.held, self.began = 0, 0, 0
        self.asked_more = [False] * len(config.stages)  # stages that were gone back to
        self.recent: deque[float] = deque()

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        chosen = np.full(count, self.stage, dtype=np.int64)
        if self.stage and self.config.rehearse:
            earlier = self.random.random(count) < self.config.rehearse
            chosen = np.where(earlier, self.random.integers(0, self.stage, size=count), chosen)
        tasks = {name: np.zeros(count) for name in self.config.stages[0].task}
        for stage in np.unique(chosen).tolist():
            which = chosen == stage
            drawn = draw_task(self.config.stages[stage].task, self.space, int(which.sum()), clock, self.random)
            for name, values in drawn.items():
                tasks[name][which] = values
        return chosen, tasks

    def learn(self, outcomes: Sequence[TaskOutcome], clock: Clock) -> bool:
        changed = False
        for outcome in outcomes:
            if outcome.choice == self.stage and self._take(outcome, clock):
                changed = True
        return changed

    def _take(self, outcome: TaskOutcome, clock: Clock) -> bool:
        """One result of the current stage; True if it ends the stage."""
        stages, rule = self.config.stages, self.config.stages[self.stage].advance
        last = self.stage == len(stages) - 1
        if rule is None and self.config.rollback is not None and self.stage:
            rule = stages[self.stage - 1].advance  # the last stage is held to what led to it
        if rule is None:
            return False
        if rule.measures == "steps":
            reached = clock.steps - self.began >= rule.at_least
            return not last and reached and self._go(1, clock)
        self.recent.append(value_of(outcome, rule.measures))
        if len(self.recent) > rule.over:
            self.recent.popleft()
        if len(self.recent) < rule.over:
            return False
        mean = sum(self.recent) / rule.over
        asked = rule.at_least + (self.config.hysteresis if self.asked_more[self.stage] else 0.0)
        self.held = self.held + 1 if mean >= asked else 0
        if not last and self.held >= self.config.patience:
            return self._go(1, clock)
        if self.config.rollback is not None and self.stage and mean < self._floor(rule):
            self.asked_more[self.stage - 1] = True
            return self._go(-1, clock)
        return False

    def _floor(self, rule: Rule) -> float:
        """The threshold below which a stage is left for the one before; valid for negative thresholds too."""
        return rule.at_least - (1 - (self.config.rollback or 1.0)) * abs(rule.at_least)

    def _go(self, way: int, clock: Clock) -> bool:
        self.stage += way
        self.held, self.began = 0, clock.steps
        self.recent.clear()
        return True

    def metrics(self) -> dict[str, float]:
        return {"stage": float(self.stage)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "held": self.held,
            "began": self.began,
            "asked_more": list(self.asked_more),
            "recent": list(self.recent),
            "random": stream_state(self.random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        stage, count = int(state["stage"]), len(self.config.stages)
        if not 0 <= stage < count:
            raise ValueError(f"stage {stage} (from 0) of {count}")
        self.stage, self.held, self.began = stage, int(state["held"]), int(state["began"])
        self.asked_more = [*map(bool, state["asked_more"]), *[False] * count][:count]
        self.recent = deque(state["recent"])
        self.random.bit_generator.state = state["random"]


def growing(
    parameter: str, first: int, last: int, advance: Rule, *, target: Task | None = None, rehearse: float = 0.0
) -> Stages:
    """Stages that raise a whole-number parameter by one each time, such as how many agents of a team take part.

    Args:
        parameter: the task parameter, e.g. ``"agents"``.
        first: its value in the first stage.
        last: and in the last.
        advance: the rule of every stage but the last.
        target: the tasks to evaluate on; None: the last stage's.
        rehearse: as for :class:`Stages`.
    """
    if not first <= last:
        raise ConfigError(f"growing({parameter!r}): expected first at most last, got {first} and {last}")
    stages = [Stage({parameter: value}, advance if value < last else None) for value in range(first, last + 1)]
    return Stages(stages, target=target or {}, rehearse=rehearse)
