"""Tasks: numbers for the parameters of an environment, and distributions of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from marl.adapters.tasks import TaskRange
from marl.config import unknown
from marl.schedules import Clock, Exponential, Linear, value_at
from marl.types import Array, BatchEnv, ConfigError


class Range(Protocol):
    """The values that a task parameter may have."""

    @property
    def low(self) -> float:
        """Least value."""
        ...

    @property
    def high(self) -> float:
        """Greatest value."""
        ...

    @property
    def integer(self) -> bool:
        """Whether only whole numbers have a meaning."""
        ...


@runtime_checkable
class HasTasks(Protocol):
    """A batch whose copies may be given tasks."""

    @property
    def task_space(self) -> Mapping[str, Range]:
        """The parameters and their ranges; empty where there are none."""
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


Task = Mapping[str, Number | Between | Among]
TaskSpace = Mapping[str, Range]


def check_task(where: str, task: Task, space: TaskSpace) -> None:
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
            for low, high in zip(limits(choice.low), limits(choice.high), strict=True):
                if low > high:
                    raise ConfigError(f"{where}: {name}: expected low at most high, got {choice}")


def _in_range(where: str, name: str, value: float, parameter: Range) -> None:
    if not parameter.low <= value <= parameter.high:
        raise ConfigError(
            f"{where}: {name}: expected a number in [{parameter.low:g}, {parameter.high:g}], got {value:g}"
        )


def limits(number: Number) -> tuple[float, float]:
    """The first and the last value of a schedule; a number twice."""
    return (number.start, number.end) if isinstance(number, Linear | Exponential) else (number, number)


def _ends(where: str, name: str, choice: object) -> list[float]:
    numbers = {Between: ("low", "high"), Linear: ("start", "end"), Exponential: ("start", "end")}
    if isinstance(choice, Among):
        found: list[Any] = list(choice.values)
    elif isinstance(choice, Between | Linear | Exponential):
        found = [getattr(choice, end) for end in numbers[type(choice)]]
        found = [end for value in found for end in (limits(value) if not isinstance(value, str) else (value,))]
    else:
        found = [choice]
    for value in found:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(
                f"{where}: {name}: expected a number, Between(...), Among(...) or a schedule, got {choice!r}"
            )
    return found


def draw_task(task: Task, space: TaskSpace, count: int, clock: Clock, random: np.random.Generator) -> dict[str, Array]:
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


def final(choice: Number | Between | Among) -> Number | Between | Among:
    """A choice as it is once every schedule has ended."""
    if isinstance(choice, Linear | Exponential):
        return choice.end
    if isinstance(choice, Between):
        return Between(limits(choice.low)[1], limits(choice.high)[1])
    return choice


def ranges_of(tasks: Iterable[Task]) -> dict[str, TaskRange]:
    """The least range of each parameter that holds all of these tasks; whole numbers where all of its numbers are ints.

    Raises:
        ConfigError: for what is no number.
    """
    numbers: dict[str, list[float]] = {}
    for task in tasks:
        for name, choice in task.items():
            numbers.setdefault(name, []).extend(_ends("curriculum", name, choice))
    return {
        name: TaskRange(min(ends), max(ends), all(isinstance(end, int) for end in ends))
        for name, ends in numbers.items()
    }


def has_tasks(env: BatchEnv) -> bool:
    """Whether the copies of an environment can be given tasks."""
    return isinstance(env, HasTasks) and bool(env.task_space)


def with_tasks(env: BatchEnv, hint: str = "") -> HasTasks:
    """The environment, if its copies can be given tasks. Raises ConfigError, which ends with ``hint``."""
    if not isinstance(env, HasTasks) or not env.task_space:
        raise ConfigError(
            f"curriculum: {env.spec.env} declares no task_space, so say how tasks reach it: "
            "tasks=marl.curriculum.ByOptions() for reset(options={'task': ...}), ByKwargs() for keyword arguments, "
            f"BySetter('set_task') for a method or a function{hint}"
        )
    return env
