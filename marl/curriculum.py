"""Curricula: which task each copy of a world meets in its next episode.

A task is a number for some of the parameters that a world declares in its ``task_space``. When a copy's episode ends,
its result goes to the curriculum, which draws the task of an episode to come. Copies reset themselves in the step that
ends an episode, so the next one is already chosen then: a result changes the episode after it. Evaluation never sees
any of this; it plays the ``target``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from marl.config import config, setting, unknown
from marl.schedules import Clock, Exponential, Linear, value_at
from marl.types import Array, BatchEnv, ConfigError, Episode, Spec

# --- tasks ------------------------------------------------------------------------------------------------------------


class Range(Protocol):
    """A task parameter as a world declares it."""

    @property
    def low(self) -> float:
        """Least value."""
        ...

    @property
    def high(self) -> float:
        """Greatest value."""
        ...

    @property
    def default(self) -> float:
        """Its value unless a curriculum says otherwise."""
        ...

    @property
    def integer(self) -> bool:
        """Whether only whole numbers have a meaning."""
        ...


@runtime_checkable
class HasTasks(Protocol):
    """A batch whose copies can be given tasks."""

    @property
    def task_space(self) -> Mapping[str, Range]:
        """The parameters and their ranges."""
        ...

    def set_tasks(self, tasks: Mapping[str, Any], copies: Sequence[int] | slice = slice(None)) -> None:
        """Choose the tasks of some copies, from each one's next reset on."""
        ...


Number = float | Linear | Exponential


@dataclass(frozen=True)
class Between:
    """Uniform in a range, both ends included; the ends may be schedules.

    Args:
        low: least value.
        high: greatest value.
    """

    low: Number
    high: Number


@dataclass(frozen=True)
class Among:
    """One of some values, each as likely.

    Args:
        values: the values.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Keep a tuple."""
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ConfigError("Among: expected at least one value")


Task = Mapping[str, "Number | Between | Among"]
Space = Mapping[str, Range]


def check_task(where: str, task: Task, space: Space) -> None:
    """Raise ConfigError for an unknown parameter or a value out of its range."""
    for name, choice in task.items():
        if name not in space:
            raise ConfigError(unknown(where, name, space, "task parameter"))
        for end in _ends(where, name, choice):
            _in_range(where, name, end, space[name])
        for exact in choice.values if isinstance(choice, Among) else (choice,):
            if space[name].integer and isinstance(exact, int | float) and exact != math.floor(exact):
                raise ConfigError(f"{where}: {name}: expected a whole number, got {exact:g}")
        if isinstance(choice, Between):
            for low, high in zip(_limits(choice.low), _limits(choice.high), strict=True):
                if low > high:
                    raise ConfigError(f"{where}: {name}: expected low at most high, got {choice}")


def _in_range(where: str, name: str, value: float, parameter: Range) -> None:
    if not parameter.low <= value <= parameter.high:
        raise ConfigError(
            f"{where}: {name}: expected a number in [{parameter.low:g}, {parameter.high:g}], got {value:g}"
        )


def _limits(number: Number) -> tuple[float, float]:
    return (number.start, number.end) if isinstance(number, Linear | Exponential) else (number, number)


def _ends(where: str, name: str, choice: object) -> list[float]:
    numbers = {Between: ("low", "high"), Linear: ("start", "end"), Exponential: ("start", "end")}
    if isinstance(choice, Among):
        found: list[Any] = list(choice.values)
    elif isinstance(choice, Between | Linear | Exponential):
        found = [getattr(choice, end) for end in numbers[type(choice)]]
        found = [end for value in found for end in (_limits(value) if not isinstance(value, str) else (value,))]
    else:
        found = [choice]
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(
                f"{where}: {name}: expected a number, Between(...), Among(...) or a schedule, got {choice!r}"
            )
    return found


def draw_task(task: Task, space: Space, count: int, clock: Clock, random: np.random.Generator) -> dict[str, Array]:
    """``count`` tasks: an array ``(count,)`` for each parameter."""
    drawn = {}
    for name, choice in task.items():
        if isinstance(choice, Among):
            drawn[name] = random.choice(np.asarray(choice.values, dtype=np.float64), size=count)
        elif isinstance(choice, Between):
            low, high = value_at(choice.low, clock), value_at(choice.high, clock)
            if space[name].integer:
                drawn[name] = random.integers(round(low), round(high) + 1, size=count).astype(np.float64)
            else:
                drawn[name] = random.uniform(low, high, size=count)
        else:
            value = value_at(choice, clock)
            drawn[name] = np.full(count, round(value) if space[name].integer else value, dtype=np.float64)
    return drawn


# --- results ----------------------------------------------------------------------------------------------------------

Success = float | Callable[[Episode], bool] | None


@dataclass(frozen=True)
class Outcome:
    """What a curriculum learns from one finished episode: ``values`` by name, and which choice of its own it was."""

    choice: int
    values: Mapping[str, float]


class Rule(Protocol):
    """When a stage has been learnt: the mean of ``measures`` over the last ``over`` episodes is at least so much."""

    measures: ClassVar[str]

    @property
    def at_least(self) -> float:
        """The threshold."""
        ...

    @property
    def over(self) -> int:
        """Episodes."""
        ...


@config
class SuccessRate:
    """So many of the last ``over`` episodes succeeded."""

    at_least: float = setting(0.9, "the share of successes to reach", above=0, most=1)
    over: int = setting(100, "how many episodes the share is of", least=1)
    measures: ClassVar[str] = "success"


@config
class WinRate:
    """The curriculum's team returned more than every other in so many of the last ``over`` episodes; a tie is half."""

    at_least: float = setting(0.6, "the share of wins to reach", above=0, most=1)
    over: int = setting(100, "how many episodes the share is of", least=1)
    measures: ClassVar[str] = "win"


@config
class Rating:
    """The curriculum's team has been rated so high in its league, on average over so many episodes."""

    at_least: float = setting(1200.0, "the rating to reach")
    over: int = setting(100, "how many episodes the mean is of", least=1)
    measures: ClassVar[str] = "rating"


@config
class Steps:
    """The stage has lasted so many environment steps, all copies counted."""

    at_least: int = setting(100_000, "environment steps", least=1)
    over: int = setting(1, "has no meaning here", least=1, most=1)
    measures: ClassVar[str] = "steps"


def outcome_of(episode: Episode, spec: Spec, team: str | None, success: Success) -> dict[str, float]:
    """What can be measured in an episode, of one team or of all together."""
    sums = {each.name: sum(episode.returns[agent] for agent in each.agents) for each in spec.teams}
    total = sum(sums.values()) if team is None else sums[team]
    values = {"return": total}
    if callable(success):
        values["success"] = float(success(episode))
    elif success is not None:
        values["success"] = float(total >= success)
    elif "success" in episode.info:
        values["success"] = episode.info["success"]
    if team is not None and len(sums) > 1:
        best = max(value for name, value in sums.items() if name != team)
        values["win"] = 1.0 if total > best else 0.5 if total == best else 0.0
    for name in ("win", "rating"):  # where there is a league, it says
        said = episode.info.get(name if team is None else f"{name}/{team}")
        if said is not None:
            values[name] = said
    return values


def _value(outcome: Outcome, name: str) -> float:
    if name in outcome.values:
        return outcome.values[name]
    missing = {
        "success": "the world reports no success; say with success= what one is: a least return, or a function",
        "rating": "ratings are of a league, and there of one team: league=marl.League(...), curriculum={TEAM: ...}",
        "win": "winning needs two teams and a curriculum of one of them: curriculum={TEAM: ...}",
    }
    raise ConfigError(f"curriculum: {name} cannot be measured: {missing.get(name, 'nobody reports it')}")


# --- what a curriculum is ---------------------------------------------------------------------------------------------


class Scheduler(Protocol):
    """A built curriculum: draws tasks, takes in results."""

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        """A choice of its own, to be handed back with the result, and the parameters: arrays ``(count,)``."""
        ...

    def learn(self, outcomes: Sequence[Outcome], clock: Clock) -> bool:
        """Take in results. True: draw anew what is chosen for episodes that have not begun."""
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
        """Refuse what cannot be, in a training of so many steps. Raises ConfigError."""
        ...

    def build(self, space: Space, seed: np.random.SeedSequence) -> Scheduler:
        """Make the scheduler. Raises ConfigError for parameters that the world does not have."""
        ...


def _stream(random: np.random.Generator) -> dict[str, Any]:
    return dict(random.bit_generator.state)


# --- fixed distributions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DomainRandomisation:
    """The same distribution all along: ``{"density": Between(0, 0.4), "width": Among((5, 10))}``.

    Args:
        task: numbers, :class:`Between` or :class:`Among`, by parameter.
        target: the tasks to evaluate on; None: the same distribution.
    """

    task: Task
    target: Task = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Evaluate on the same unless told otherwise."""
        if not self.task:
            raise ConfigError(f"{type(self).__name__}.task: expected at least one parameter, got none")
        if not self.target:
            object.__setattr__(self, "target", self._usual_target())

    def _usual_target(self) -> Task:
        return self.task

    @property
    def success(self) -> Success:
        """It does not ask for any."""
        return None

    @property
    def parameters(self) -> frozenset[str]:
        """The task parameters it chooses."""
        return frozenset(self.task)

    def check(self, steps: int | None) -> None:
        """Nothing depends on the number of steps."""

    def build(self, space: Space, seed: np.random.SeedSequence) -> Scheduler:
        """See :class:`Curriculum`."""
        check_task(f"{type(self).__name__}.task", self.task, space)
        return _Fixed(self.task, space, np.random.default_rng(seed))


@dataclass(frozen=True)
class Annealed(DomainRandomisation):
    """Parameters that follow schedules in environment steps: ``{"width": Linear(4, 20, steps=500_000)}``.

    Args:
        task: schedules, or distributions whose ends are schedules, by parameter.
        target: the tasks to evaluate on; None: where the schedules end.
    """

    def _usual_target(self) -> Task:
        return {name: _final(choice) for name, choice in self.task.items()}


def _final(choice: Number | Between | Among) -> Number | Between | Among:
    if isinstance(choice, Linear | Exponential):
        return choice.end
    if isinstance(choice, Between):
        return Between(_limits(choice.low)[1], _limits(choice.high)[1])
    return choice


class _Fixed:
    def __init__(self, task: Task, space: Space, random: np.random.Generator) -> None:
        self.task, self.space, self.random = task, space, random

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        return np.zeros(count, dtype=np.int64), draw_task(self.task, self.space, count, clock, self.random)

    def learn(self, outcomes: Sequence[Outcome], clock: Clock) -> bool:
        return False

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"random": _stream(self.random)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.random.bit_generator.state = state["random"]


# --- stages -----------------------------------------------------------------------------------------------------------


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
        success: a least return, or a function of an Episode, where the world reports no ``success``.
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
            object.__setattr__(self, "target", {name: _final(x) for name, x in self.stages[-1].task.items()})
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

    def build(self, space: Space, seed: np.random.SeedSequence) -> Scheduler:
        """See :class:`Curriculum`."""
        for place, stage in enumerate(self.stages):
            check_task(f"Stages: stage {place}", stage.task, space)
        return _Stages(self, space, np.random.default_rng(seed))


class _Stages:
    def __init__(self, config: Stages, space: Space, random: np.random.Generator) -> None:
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

    def learn(self, outcomes: Sequence[Outcome], clock: Clock) -> bool:
        changed = False
        for outcome in outcomes:
            if outcome.choice == self.stage and self._take(outcome, clock):
                changed = True
        return changed

    def _take(self, outcome: Outcome, clock: Clock) -> bool:
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
        self.recent.append(_value(outcome, rule.measures))
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
        """Below it a stage is given up; it lies below a threshold that is negative, too."""
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
            "random": _stream(self.random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stage, self.held, self.began = int(state["stage"]), int(state["held"]), int(state["began"])
        self.asked_more, self.recent = list(state["asked_more"]), deque(state["recent"])
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


# --- adaptive curricula -----------------------------------------------------------------------------------------------


def _check_box(where: str, task: Mapping[str, Between], space: Space) -> None:
    if not task or not all(isinstance(choice, Between) for choice in task.values()):
        raise ConfigError(f"{where}: expected Between(low, high) for at least one parameter, got {dict(task)!r}")
    check_task(where, task, space)
    for name, choice in task.items():
        if not isinstance(choice.low, int | float) or not isinstance(choice.high, int | float):
            raise ConfigError(f"{where}: {name}: expected numbers, got {choice}; schedules have no place here")


@dataclass(frozen=True)
class LearningProgress:
    """Play where results change most: a bandit over a grid of tasks, paid by absolute learning progress.

    A bin is drawn in proportion to ``|fast - slow|``, two moving averages of its results (Matiisen et al. 2017,
    Portelas et al. 2019), or uniformly with probability ``explore``. What is too easy or too hard changes little.

    Args:
        task: the box to divide, a :class:`Between` for each parameter.
        target: the tasks to evaluate on; None: the world's defaults.
        bins: parts of each parameter's range; fewer where there are fewer whole numbers.
        measure: ``"success"`` or ``"return"``.
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

    def check(self, steps: int | None) -> None:
        """Nothing depends on the number of steps."""

    def build(self, space: Space, seed: np.random.SeedSequence) -> Scheduler:
        """See :class:`Curriculum`."""
        _check_box("LearningProgress.task", self.task, space)
        return _LearningProgress(self, space, np.random.default_rng(seed))


class _LearningProgress:
    def __init__(self, config: LearningProgress, space: Space, random: np.random.Generator) -> None:
        self.config, self.random = config, random
        parts = []  # of each parameter: least and greatest value of every part
        for name, choice in config.task.items():
            low, high = _limits(choice.low)[0], _limits(choice.high)[0]
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

    def learn(self, outcomes: Sequence[Outcome], clock: Clock) -> bool:
        for outcome in outcomes:
            k, value = outcome.choice, _value(outcome, self.config.measure)
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
        return {**arrays, "random": _stream(self.random)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("fast", "slow", "tried"):
            getattr(self, name)[:] = state[name]
        self.random.bit_generator.state = state["random"]


@dataclass(frozen=True)
class PrioritisedLevelReplay:
    """Keep the tasks worth playing again: those with the greatest scores, and those not seen for long.

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
            raise ConfigError("PrioritisedLevelReplay.task: expected at least one parameter, got none")
        if isinstance(self.capacity, bool) or not isinstance(self.capacity, int) or self.capacity < 1:
            raise ConfigError(
                f"PrioritisedLevelReplay.capacity: expected a whole number above 0, got {self.capacity!r}"
            )
        if self.score not in ("learnability", "regret", "surprise"):
            raise ConfigError(
                unknown("PrioritisedLevelReplay.score", self.score, ("learnability", "regret", "surprise"), "value")
            )
        for name, least in (("replay", 0.0), ("staleness", 0.0), ("temperature", 1e-6)):
            value = getattr(self, name)
            if not least <= value <= (1 if name != "temperature" else math.inf):
                raise ConfigError(f"PrioritisedLevelReplay.{name}: expected a number in range, got {value!r}")

    @property
    def parameters(self) -> frozenset[str]:
        """The task parameters it chooses."""
        return frozenset(self.task)

    def check(self, steps: int | None) -> None:
        """Nothing depends on the number of steps."""

    def build(self, space: Space, seed: np.random.SeedSequence) -> Scheduler:
        """See :class:`Curriculum`."""
        check_task("PrioritisedLevelReplay.task", self.task, space)
        return _LevelReplay(self, space, np.random.default_rng(seed))


class _LevelReplay:
    """A level has a number for life, and a slot for as long as it is kept; a result of a level let go is ignored."""

    AVERAGE = 0.2  # step size of a level's mean result
    UNBORN = 10_000  # more are not waited for: those of copies that crashed, or that others played, never come

    def __init__(self, config: PrioritisedLevelReplay, space: Space, random: np.random.Generator) -> None:
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

    def learn(self, outcomes: Sequence[Outcome], clock: Clock) -> bool:
        measure = "success" if self.config.score == "learnability" else "return"
        for outcome in outcomes:
            value = _value(outcome, measure)
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
        """A new level takes an empty slot, or that of the least score. Half known, it counts as worth a second look."""
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
            "random": _stream(self.random),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in self._ARRAYS:
            getattr(self, name)[:] = state[name]
        self.unborn = {int(number): np.array(task) for number, task in state["unborn"]}
        self.next_number, self.time = int(state["next_number"]), int(state["time"])
        self.random.bit_generator.state = state["random"]


# --- a training run's curricula ---------------------------------------------------------------------------------------

Curricula = Curriculum | Mapping[str, Curriculum]


def checked(curriculum: Curricula, steps: int | None) -> Curricula:
    """The same. Raises ConfigError for what is no curriculum, or cannot be done in so many steps."""
    for one in curriculum.values() if isinstance(curriculum, Mapping) else (curriculum,):
        if isinstance(one, type) or not (hasattr(one, "build") and hasattr(one, "target") and hasattr(one, "check")):
            raise ConfigError(f"curriculum: expected one such as marl.Stages([...]), got {one!r}")
        one.check(steps)
    return curriculum


class Target:
    """The tasks that evaluation plays: drawn for each episode, from a stream of the evaluation's own."""

    def __init__(self, task: Task, env: BatchEnv, seed: int) -> None:
        """Raises ConfigError if the environment has no such tasks."""
        self.env = with_tasks(env)
        check_task("target", task, self.env.task_space)
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


def with_tasks(env: BatchEnv) -> HasTasks:
    """The environment, if its copies can be given tasks. Raises ConfigError."""
    if not isinstance(env, HasTasks):
        raise ConfigError(
            f"curriculum: {env.spec.env} declares no tasks; a curriculum needs a batched world with task_space and "
            "set_tasks (such as those of marl_envs), since other environments take keywords only when they are made"
        )
    return env


class Course:
    """The curricula of a training run: what every copy plays now, and what it will play next."""

    def __init__(self, curricula: Mapping[str | None, Curriculum], env: BatchEnv, seed: np.random.SeedSequence) -> None:
        """``curricula`` by team name; None: of all teams together."""
        self.spec, self.num_envs, self.curricula = env.spec, env.num_envs, dict(curricula)
        space = with_tasks(env).task_space
        owners: dict[str, str | None] = {}
        self.schedulers: dict[str | None, Scheduler] = {}
        for (team, curriculum), own in zip(curricula.items(), seed.spawn(len(curricula)), strict=True):
            for name in curriculum.parameters:
                if name in owners:
                    raise ConfigError(
                        f"curriculum: task parameter {name!r} is chosen by {owners[name]!r} and by {team!r}: one only"
                    )
                owners[name] = team
            check_task("target", curriculum.target, space)
            self.schedulers[team] = curriculum.build(space, own)
        self.playing = {team: np.zeros(self.num_envs, dtype=np.int64) for team in self.schedulers}
        self.coming = {team: np.zeros(self.num_envs, dtype=np.int64) for team in self.schedulers}
        self.tasks = {name: np.zeros(self.num_envs) for name in sorted(owners)}
        self.next_tasks = {name: np.zeros(self.num_envs) for name in sorted(owners)}

    def first(self) -> dict[str, Any]:
        """Draw the first tasks: options for the reset."""
        clock = Clock(0)
        everywhere = np.arange(self.num_envs)
        self._draw(everywhere, clock)
        self._move(everywhere)
        return {"task": {name: values.copy() for name, values in self.tasks.items()}}

    def begin(self, env: BatchEnv, clock: Clock) -> None:
        """After the reset: choose the second episodes."""
        self._choose(np.arange(self.num_envs), env, clock)

    def take(self, episodes: Sequence[Episode], started: Array, env: BatchEnv, clock: Clock) -> None:
        """Learn from finished episodes, and choose the next ones of the copies that began one in this step."""
        if not started.any():
            return
        redraw = False
        for team, scheduler in self.schedulers.items():
            success = self.curricula[team].success
            outcomes = [
                Outcome(int(self.playing[team][episode.copy]), outcome_of(episode, self.spec, team, success))
                for episode in episodes
                if not episode.info.get(f"absent/{team}")  # a league's: what others did there teaches nothing
            ]
            redraw |= scheduler.learn(outcomes, clock)
        begun = np.flatnonzero(started)
        self._move(begun)
        self._choose(np.arange(self.num_envs) if redraw else begun, env, clock)

    def _move(self, copies: Array) -> None:
        """What was to come is being played."""
        for team in self.schedulers:
            self.playing[team][copies] = self.coming[team][copies]
        for name, values in self.tasks.items():
            values[copies] = self.next_tasks[name][copies]

    def _draw(self, copies: Array, clock: Clock) -> None:
        for team, scheduler in self.schedulers.items():
            chosen, tasks = scheduler.draw(len(copies), clock)
            self.coming[team][copies] = chosen
            for name, values in tasks.items():
                self.next_tasks[name][copies] = values

    def _choose(self, copies: Array, env: BatchEnv, clock: Clock) -> None:
        self._draw(copies, clock)
        with_tasks(env).set_tasks({name: values[copies] for name, values in self.next_tasks.items()}, copies.tolist())

    def metrics(self) -> dict[str, float]:
        """Stages and the like, and the mean of every parameter over what the copies play now."""
        found: dict[str, float] = {}
        for team, scheduler in self.schedulers.items():
            prefix = "curriculum/" if team is None else f"{team}/curriculum/"
            found |= {prefix + name: value for name, value in scheduler.metrics().items()}
        return found | {f"curriculum/task/{name}": float(values.mean()) for name, values in self.tasks.items()}

    def state_dict(self) -> dict[str, Any]:
        """What is played, what is to come, and every scheduler."""
        return {
            "tasks": {name: values.copy() for name, values in self.tasks.items()},
            "next_tasks": {name: values.copy() for name, values in self.next_tasks.items()},
            "schedulers": {
                team or "": {
                    "playing": self.playing[team].copy(),
                    "coming": self.coming[team].copy(),
                    "state": scheduler.state_dict(),
                }
                for team, scheduler in self.schedulers.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, values in self.tasks.items():
            values[:] = state["tasks"][name]
            self.next_tasks[name][:] = state["next_tasks"][name]
        for team, scheduler in self.schedulers.items():
            saved = state["schedulers"][team or ""]
            self.playing[team][:], self.coming[team][:] = saved["playing"], saved["coming"]
            scheduler.load_state_dict(saved["state"])
