"""Run folders as rows of scores: which runs there are, what each is called, what it logged."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from marl.config import today
from marl.logs import read_metrics
from marl.logs.files import read_json
from marl.run.folder import CONFIG, METRICS, SUMMARY
from marl.studies.marl_eval import FINAL, Row
from marl.types import ConfigError

MOST_FOLDERS = 20_000  # that are looked into
STUDY, CELLS = "study.json", "cells"  # of a study's folder
OF_TASK = ("env", "env_kwargs", "max_steps", "tasks", "reset_options")  # settings that say what is learnt
SCHEDULES = "marl.schedules:"  # of which one is a single value to people
NOT_TOLD = ("name", "seed")
RANDOM = "random_return"  # the metric that random play's returns are
MOST_TOLD = 3  # settings in a name
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """A run and what it is called.

    path: of the folder.
    task: what was learnt.
    algorithm: by what.
    seed: of the run.
    settings: all others, a value for each key; empty where the folder does not say them.
    """

    path: Path
    task: str
    algorithm: str
    seed: int
    settings: Settings


def found_runs(paths: Iterable[Path]) -> list[RunFolder]:
    """Run folders, and those at any depth below other folders, each once, with names that tell settings apart.

    Of a study's folder they are its cells, called as the study calls them; those that have not begun are among them. A
    run without a ``config.json`` stands for itself.

    Raises:
        ConfigError: if a path holds no run, or a ``config.json`` or ``study.json`` was damaged.
    """
    plain: dict[Path, Path] = {}
    cells: dict[Path, RunFolder] = {}
    for path in paths:
        before = len(plain) + len(cells)
        for folder in folders_below(path):
            if (folder / STUDY).exists():
                cells |= {run.path.resolve(): run for run in _cells(folder)}
            else:
                plain.setdefault(folder.resolve(), folder)
        there = path.resolve() in plain or path.resolve() in cells
        if len(plain) + len(cells) == before and not there and not any(path.resolve() in one.parents for one in plain):
            raise ConfigError(f"run {path}: there is no {METRICS}; expected a folder that marl train wrote, or of such")
    told = [_told(folder) for where, folder in plain.items() if where not in cells]
    told.sort(key=lambda run: _natural(run.path))
    told = _apart(told, lambda run: run.task, lambda key: key.partition(".")[0] in OF_TASK, "task")
    told = _apart(
        told, lambda run: (run.task, run.algorithm), lambda key: key.partition(".")[0] not in OF_TASK, "algorithm"
    )
    return [*cells.values(), *told]


def folders_below(path: Path) -> Iterator[Path]:
    """Folders of runs and of studies, which nothing is looked for in. Raises ConfigError for very many folders."""
    for looked, (folder, inner, names) in enumerate(os.walk(path)):
        if looked >= MOST_FOLDERS:
            raise ConfigError(f"run {path}: holds more than {MOST_FOLDERS:,} folders; name those of the runs")
        if STUDY in names or METRICS in names or (CONFIG in names and "checkpoints" in inner):
            inner.clear()
            yield Path(folder)
        else:
            inner[:] = sorted(name for name in inner if not name.startswith("."))


def _cells(folder: Path) -> list[RunFolder]:
    """The cells of a study."""
    cells = read_json(folder / STUDY).get("cells")
    found = []
    for one in cells if isinstance(cells, list) else [None]:
        fields = one if isinstance(one, dict) else {}
        place, task, algorithm, seed = (fields.get(name) for name in ("folder", "task", "algorithm", "seed"))
        words = isinstance(place, str) and isinstance(task, str) and isinstance(algorithm, str)
        if not words or type(seed) is not int or Path(str(place)).is_absolute() or ".." in Path(str(place)).parts:
            raise ConfigError(f"{folder / STUDY}: cells: expected task, algorithm, seed and folder, got {one!r:.80}")
        path = folder / CELLS / str(place)
        found.append(RunFolder(path, _short(str(task)), _short(str(algorithm)), seed, {"study": str(folder)}))
    return found


def references_of(paths: Iterable[Path]) -> dict[str, tuple[float | None, float | None]]:
    """Scores of random play and of the best known, by task, that the studies in some folders were given."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for folder in (one for path in paths for one in folders_below(path) if (one / STUDY).exists()):
        said = read_json(folder / STUDY).get("references")
        for task, reference in said.items() if isinstance(said, dict) else ():
            both = [reference.get(name) if isinstance(reference, dict) else None for name in ("random", "best")]
            random, best = (float(one) if isinstance(one, int | float) else None for one in both)
            found[task] = random, best
    return found


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Numbers within names in the order of their size."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d{1,18})", str(path)) if part]


def _told(path: Path) -> RunFolder:
    from marl.recipes import canonical, name_said

    if not (path / CONFIG).exists():
        return RunFolder(path, "task", _short(path.resolve().name), 0, {})
    config = read_json(path / CONFIG)
    settings, asked = config.get("settings"), config.get("asked")
    if not isinstance(settings, dict):
        raise ConfigError(f"{path / CONFIG}: 'settings' is missing or no object; was it edited?")
    settings = today(settings)
    learner, seed = settings.get("learner"), settings.get("seed")
    if not isinstance(learner, dict) or type(seed) is not int or seed < 0:
        raise ConfigError(f"{path / CONFIG}: settings.learner or settings.seed makes no sense; was it edited?")
    teams = [learner] if "$class" in learner else [one for one in learner.values() if isinstance(one, dict)]
    words = asked.get("algorithm") if isinstance(asked, dict) else None
    algorithm = words if isinstance(words, str) else ", ".join(dict.fromkeys(map(name_said, teams)))
    task = _task(settings)
    for name in dict.fromkeys((algorithm, canonical(algorithm))):
        task = task.removesuffix(f"_{name}")
    return RunFolder(path, _short(task), _short(algorithm), seed, dict(flat(settings)))


def _task(settings: Settings) -> str:
    """The scenario's name; of a run from Python that of the environment."""
    name, env = settings.get("name"), settings.get("env")
    if isinstance(env, Mapping):
        env = env.get("$code", env.get("$class"))
    said = name if isinstance(name, str) and name else env
    return said if isinstance(said, str) and said else "task"


def _short(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)[:100]


def flat(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Settings as one level; what is None or empty says nothing, as where runs are compared."""
    if isinstance(value, Mapping) and str(value.get("$class", "")).startswith(SCHEDULES):
        name = value["$class"].removeprefix(SCHEDULES)
        numbers = (str(item) for key, item in value.items() if key != "$class" and item is not None)
        yield where, f"{name}({', '.join(numbers)})"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if where or key not in NOT_TOLD:
                yield from flat(item, f"{where}.{key}" if where else str(key))
    elif value not in (None, []):
        yield where, value


def _apart(
    runs: list[RunFolder],
    name: Callable[[RunFolder], Any],
    counts: Callable[[str], bool],
    field: Literal["task", "algorithm"],
) -> list[RunFolder]:
    """Add to the names of runs what differs in their settings."""
    groups: dict[Any, list[RunFolder]] = {}
    for run in runs:
        groups.setdefault(name(run), []).append(run)
    told: dict[Path, RunFolder] = {}
    for group in groups.values():
        keys = list(dict.fromkeys(key for run in group for key in run.settings if counts(key)))
        said = {key: [json.dumps(run.settings.get(key)) for run in group] for key in keys}
        different = [key for key in keys if len(set(said[key])) > 1]
        kinds: dict[tuple[str, ...], int] = {}
        for place, run in enumerate(group):
            kind = tuple(said[key][place] for key in different)
            number = kinds.setdefault(kind, len(kinds) + 1)
            words = [_assignment(key, said[key][place]) for key in different[:MOST_TOLD]]
            words += [f"and {len(different) - MOST_TOLD} more, {number}"] if len(different) > MOST_TOLD else []
            text = f"{getattr(run, field)} ({', '.join(words)})" if different else getattr(run, field)
            told[run.path] = replace(run, task=text[:200]) if field == "task" else replace(run, algorithm=text[:200])
    return [told[run.path] for run in runs]


def _assignment(key: str, value: str) -> str:
    """A setting as ``--set`` takes it, or nearly."""
    plain = value.strip('"')
    return f"{key.removesuffix('.$class')}={plain:.40}"


def read_runs(paths: Iterable[Path], metrics: Sequence[str] = ()) -> list[Row]:
    """Rows of scores of run folders; a run that logged nothing of a metric that others have is NaN there.

    Args:
        paths: the folders.
        metrics: of rows of metrics, beside returns and evaluations.

    Raises:
        ConfigError: if there is no run, two are the same, or none has one of the metrics.
    """
    runs = found_runs(paths)
    seen: dict[tuple[str, str, int], Path] = {}
    for run in runs:
        key = (run.task, run.algorithm, run.seed)
        if key in seen:
            raise ConfigError(
                f"runs {seen[key]} and {run.path} are of the same settings and seed ({run.task}, {run.algorithm}, "
                f"seed {run.seed}): leave one out"
            )
        seen[key] = run.path
    rows: list[Row] = []
    lasts: dict[tuple[str, str, int], int] = {}
    there: dict[tuple[str, str, int], set[str]] = {}
    for run in runs:
        key = (run.task, run.algorithm, run.seed)
        found = [*_logged(run, key, metrics), *_final(run, key)]
        rows += found
        there[key] = {row[4] for row in found}
        lasts[key] = max((row[3] for row in found), default=0)
    known = list(dict.fromkeys(row[4] for row in rows))
    if missing := [name for name in metrics if name not in known]:
        logged = sorted({name for run in runs[:20] for row in read_metrics(run.path) for name in row} - {"steps"})
        raise ConfigError(f"runs: there is no {missing[0]} in any of them; known: {', '.join(logged) or 'nothing yet'}")
    if not rows:
        raise ConfigError(
            "runs: no episode had ended when metrics were last logged, so there is nothing to compare yet"
        )
    rows += [(*key, lasts[key], metric, math.nan, ()) for key in there for metric in known if metric not in there[key]]
    return rows


def _logged(run: RunFolder, key: tuple[str, str, int], metrics: Sequence[str]) -> Iterator[Row]:
    steps = set[tuple[int, str]]()
    for row in read_metrics(run.path):
        if not math.isfinite(row.get("steps", math.nan)) or row["steps"] < 0:
            continue
        for metric, value in row.items():
            wanted = _is_return(metric) or metric in metrics
            place = (int(row["steps"]), metric)
            if wanted and metric != "steps" and place not in steps:
                steps.add(place)
                yield (*key, place[0], metric, float(value), ())


def _is_return(metric: str) -> bool:
    return metric in ("mean_return", "evaluation_return") or metric.startswith("evaluation/")


def _final(run: RunFolder, key: tuple[str, str, int]) -> list[Row]:
    """The evaluation at the end of ``marl train`` and that of random play beside it, with their episodes."""
    if not (run.path / SUMMARY).exists():
        return []
    summary = read_json(run.path / SUMMARY)
    steps, rows = summary.get("steps"), []
    for name, metric in (("evaluation", f"{FINAL}evaluation_return"), ("random", RANDOM)):
        report = summary.get(name)
        if not isinstance(report, dict) or type(steps) is not int:
            continue
        mean, returns = report.get("mean_return"), report.get("returns")
        if not isinstance(returns, list) or not all(isinstance(one, int | float) for one in returns):
            returns = []
        value = float(mean) if isinstance(mean, int | float) else math.nan
        rows.append((*key, steps, metric, value, tuple(map(float, returns))))
    return rows
