"""The JSON of marl-eval (Gorsane et al. 2022): environment, task, algorithm, run, step, metric, episodes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marl.logs.files import read_json
from marl.types import ConfigError

LARGEST = 2**28  # bytes of a file
FINAL = "final/"  # metrics of the evaluation at the end, which marl-eval calls absolute
ABSOLUTE, COUNT = "absolute_metrics", "step_count"
OTHERS = ("elapsed_time",)  # of a step, no list of episodes
NO_ENVIRONMENT = "scenarios"  # where a task's name says none

Row = tuple[str, str, int, int, str, float, tuple[float, ...]]  # task, algorithm, seed, step, metric, value, episodes


def read(source: str | Path | Mapping[str, Any]) -> list[Row]:
    """Rows of scores; ``null`` is NaN.

    Raises:
        ConfigError: naming the place that has another structure.
    """
    where = "marl-eval" if isinstance(source, Mapping) else str(source)
    data = source if isinstance(source, Mapping) else read_json(Path(source), LARGEST, nan=True)
    rows: list[Row] = []
    for environment, tasks in data.items():
        for task, algorithms in _level(f"{where}: {environment}", tasks):
            for algorithm, runs in _level(f"{where}: {environment}: {task}", algorithms):
                name = task if environment == NO_ENVIRONMENT else f"{environment}/{task}"
                place = f"{where}: {environment}: {task}: {algorithm}"
                found = _level(place, runs)
                for seed, (run, steps) in zip(_seeds([run for run, _ in found]), found, strict=True):
                    rows += _of_run(f"{place}: {run}", steps, (name, algorithm, seed))
    if not rows:
        raise ConfigError(f"{where}: there are no scores; expected environment, task, algorithm, run, step, metric")
    return rows


def _of_run(where: str, steps: Any, key: tuple[str, str, int]) -> list[Row]:
    rows: list[Row] = []
    absolute: Any = None
    last = 0
    for step, said in _level(where, steps):
        if step == ABSOLUTE:
            absolute = said
            continue
        metrics = dict(_level(f"{where}: {step}", said))
        count = metrics.pop(COUNT, None)
        if isinstance(count, float) and count.is_integer():
            count = int(count)
        if type(count) is not int or count < 0:
            raise ConfigError(f"{where}: {step}: {COUNT}: expected a whole number, got {count!r:.80}")
        last = max(last, count)
        rows += _metrics(f"{where}: {step}", metrics, (*key, count))
    if absolute is not None:
        rows += _metrics(f"{where}: {ABSOLUTE}", dict(_level(f"{where}: {ABSOLUTE}", absolute)), (*key, last), FINAL)
    return rows


def _metrics(where: str, metrics: Mapping[str, Any], key: tuple[str, str, int, int], prefix: str = "") -> list[Row]:
    rows = []
    for metric, values in metrics.items():
        if metric in (COUNT, *OTHERS):
            continue
        episodes = values if isinstance(values, list | tuple) else [values]
        numbers = [math.nan if one is None else one for one in episodes]
        if not numbers or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
            raise ConfigError(f"{where}: {metric}: expected a list of numbers, got {values!r:.80}")
        floats = tuple(_float(one) for one in numbers)
        rows.append((*key, prefix + metric, sum(floats) / len(floats), floats if len(floats) > 1 else ()))
    return rows


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.nan


def _level(where: str, data: Any) -> list[tuple[str, Any]]:
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ConfigError(
            f"{where}: expected an object (of environments, tasks, algorithms, runs, steps), got {data!r:.80}"
        )
    return list(data.items())


def _seeds(runs: Sequence[str]) -> list[int]:
    """The number at the end of each run's name; if one has none, or two have the same, their places."""
    found = [re.search(r"(\d{1,18})$", run) for run in runs]
    numbers = [int(one[1]) for one in found if one is not None]
    return numbers if len(set(numbers)) == len(runs) else list(range(len(runs)))


def tree(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Rows of scores in marl-eval's structure."""
    runs: dict[tuple[str, str, int], dict[int, dict[str, list[Any]]]] = {}
    final: dict[tuple[str, str, int], dict[str, list[Any]]] = {}
    for task, algorithm, seed, step, metric, value, episodes in rows:
        said = [one if math.isfinite(one) else None for one in (episodes or (value,))]
        key = (task, algorithm, seed)
        if metric.startswith(FINAL):
            runs.setdefault(key, {})
            final.setdefault(key, {})[metric.removeprefix(FINAL)] = said
        else:
            runs.setdefault(key, {}).setdefault(step, {})[metric] = said
    made: dict[str, Any] = {}
    for (task, algorithm, seed), steps in runs.items():
        environment, _, name = task.rpartition("/")
        ordered = [{COUNT: step, **steps[step]} for step in sorted(steps)]
        last = {metric: values for one in ordered for metric, values in one.items() if metric != COUNT}
        run = {f"step_{place}": one for place, one in enumerate(ordered)}
        there = made.setdefault(environment or NO_ENVIRONMENT, {}).setdefault(name, {}).setdefault(algorithm, {})
        there[f"seed_{seed}"] = {**run, ABSOLUTE: last | final.get((task, algorithm, seed), {})}
    return made
