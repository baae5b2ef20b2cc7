"""Algorithms compared: runs brought to one step, normalized, aggregated, tested in pairs, followed over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from marl.config import check_whole
from marl.playing.intervals import INDISTINCT
from marl.studies.comparison import Comparison, Entry, Lost, Pair
from marl.studies.marl_eval import FINAL
from marl.studies.run_folders import RANDOM
from marl.studies.scores import Curve, Scores
from marl.studies.statistics import (
    FEW,
    LEVEL,
    RESAMPLES,
    Band,
    Times,
    aggregates,
    aligned,
    curve,
    estimate_mean,
    holm,
    paired,
    performance_profile,
    probability_of_improvement,
    seeds_needed,
    time_to_threshold,
)
from marl.types import Array, ConfigError

PREFERRED = ("evaluation_return", f"{FINAL}evaluation_return", "mean_return")  # the metric, where nobody names one
TOLERANCE = 0.05  # share of the steps by which evaluations may miss the step of the comparison
POINTS = 101  # of profiles, and at most of curves
DEVIATIONS = "standard deviations"  # the unit of differences where nothing else is common to all tasks

References = Mapping[str, tuple[float | None, float | None]]  # of random play and of the best known, by task


def compare(
    scores: Scores,
    metric: str | None = None,
    *,
    references: References | None = None,
    at: int | None = None,
    threshold: float | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare algorithms over tasks and seeds.

    Runs of a task are compared at one step, by the evaluation nearest to it: where the algorithms ran for different
    lengths, the longest that all of them reached. A run without a finite number there counts nowhere, and is listed.

    Args:
        scores: of all runs.
        metric: what is compared; None: evaluations if there are such, else returns in training. Higher is better.
        references: scores of random play and of the best known, by task: scores are normalized to ``(score - random) /
            (best - random)``, also where lower scores are better. None for random play: as its runs logged it.
        at: the step of the comparison, instead.
        threshold: also measure the time until this score, a normalized one where scores are normalized.
        level: of intervals and tests.
        resamples: of the bootstraps of tables.
        seed: of all draws; equal scores give equal numbers.

    Raises:
        ConfigError: if there is no such metric, no run with a number, or references make no sense.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a number between 0 and 1, got {level:g}")
    check_whole("resamples", resamples, 1)
    metric = metric if metric is not None else _preferred(scores)
    found = scores.curves(metric)
    tasks = tuple(dict.fromkeys(task for task, _ in found))
    algorithms = tuple(name for name in scores.algorithms if any(key[1] == name for key in found))
    notes: list[str] = []
    steps = {task: at if at is not None else _step(task, found, notes) for task in tasks}
    entries, lost = _entries(scores, found, steps, {"resamples": resamples, "level": level, "seed": seed})
    if not entries:
        why = f" ({lost[0]})" if lost else ""
        raise ConfigError(f"scores: no run has a finite {metric} at the step of the comparison{why}")
    scales = _scales(scores, tasks, references or {}, notes)
    entries = {key: _normalized(entry, scales.get(key[0])) for key, entry in entries.items()}
    made = Comparison(metric, level, tasks, algorithms, steps, entries, tuple(lost), len(scales) == len(tasks))
    made = _aggregated(made, notes, resamples, seed)
    made = _paired(made, resamples, seed)
    made = _over_time(made, scores, scales, threshold, seed)
    return replace(made, notes=(*notes, *_warnings(made)))


def _preferred(scores: Scores) -> str:
    for metric in (*PREFERRED, *scores.metrics):
        if metric in scores.metrics:
            return metric
    raise ConfigError("scores: there are none")


def _step(task: str, found: Mapping[tuple[str, str], Mapping[int, Curve]], notes: list[str]) -> int:
    """The longest that every algorithm with any number reached."""
    lengths: dict[str, int] = {}
    for (where, algorithm), runs in found.items():
        ends = [int(steps[np.isfinite(values)][-1]) for steps, values in runs.values() if np.isfinite(values).any()]
        if where == task and ends:
            lengths[algorithm] = max(ends)
    if not lengths:
        return 0
    step = min(lengths.values())
    if max(lengths.values()) > step * (1 + TOLERANCE):
        said = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        notes.append(f"{task}: lengths differ ({said} steps): compared at step {step:,}, which all of them reached")
    return step


def _entries(
    scores: Scores,
    found: Mapping[tuple[str, str], Mapping[int, Curve]],
    steps: Mapping[str, int],
    options: Mapping[str, Any],
) -> tuple[dict[tuple[str, str], Entry], list[Lost]]:
    """The score of every run at the step of its task, and the runs that have none."""
    runs = dict.fromkeys((row.task, row.algorithm, row.seed) for row in scores.rows if row.task in steps)
    kept: dict[tuple[str, str], dict[int, float]] = {}
    lost = []
    for task, algorithm, seed in sorted(runs, key=lambda run: run[2]):
        logged = found.get((task, algorithm), {}).get(seed)
        value, why = (math.nan, "has no such metric") if logged is None else _score(logged, steps[task])
        if why:
            lost.append(Lost(task, algorithm, seed, why))
        else:
            kept.setdefault((task, algorithm), {})[seed] = value
    order = list(dict.fromkeys((task, algorithm) for task, algorithm, _ in runs))
    lost.sort(key=lambda one: order.index((one.task, one.algorithm)))
    entries = {}
    for key in order:
        if key in kept:
            values = tuple(kept[key].values())
            entries[key] = Entry(tuple(kept[key]), values, estimate_mean([values], **options))
    return entries, lost


def _score(logged: Curve, step: int) -> tuple[float, str]:
    """A run's score at a step, or why it has none."""
    steps, values = logged
    place = int(np.abs(steps - step).argmin())
    if abs(steps[place] - step) > TOLERANCE * step:
        return math.nan, f"ended at {steps[-1]:,.0f} of {step:,} steps"
    if not math.isfinite(values[place]):
        finite = steps[np.isfinite(values)]
        since = f"after {finite[-1]:,.0f} steps" if len(finite) else "from the beginning"
        return math.nan, f"diverged: no finite number {since}"
    return float(values[place]), ""


def _scales(
    scores: Scores, tasks: Sequence[str], references: References, notes: list[str]
) -> dict[str, tuple[float, float]]:
    """Random play's score and the best known of each task, where both are known."""
    if unknown := [task for task in references if task not in tasks]:
        raise ConfigError(f"references: no task {unknown[0]!r}; tasks: {', '.join(tasks)}")
    scales = {}
    for task in tasks:
        random, best = references.get(task, (None, None))
        if best is None:
            continue
        if random is None:
            logged = [row.value for row in scores.rows if (row.task, row.metric) == (task, RANDOM)]
            random = float(np.nanmean(logged)) if np.isfinite(logged).any() else math.nan
        if not (math.isfinite(random) and math.isfinite(best)) or random == best:
            raise ConfigError(
                f"references: {task}: expected two different numbers, of random play and of the best known, got "
                f"{random:g} and {best:g}"
            )
        scales[task] = random, best
    if scales and len(scales) < len(tasks):
        without = ", ".join(task for task in tasks if task not in scales)
        notes.append(f"no reference scores of {without}: scores of different tasks are not averaged")
    return scales


def _normalized(entry: Entry, scale: tuple[float, float] | None) -> Entry:
    if scale is None:
        return entry
    random, best = scale
    return replace(entry, normalized=tuple((score - random) / (best - random) for score in entry.scores))


def _values(made: Comparison, task: str, algorithm: str) -> Array:
    """The scores that statistics over tasks are of."""
    entry = made.entries[task, algorithm]
    return np.array(entry.normalized if made.normalized and entry.normalized is not None else entry.scores)


def _aggregated(made: Comparison, notes: list[str], resamples: int, seed: int) -> Comparison:
    if not made.normalized and len(made.tasks) > 1:
        if not any("not averaged" in note for note in notes):
            notes.append(
                "scores of several tasks are not normalized, so they are not averaged: give reference scores of random "
                "play and of the best known"
            )
        return made
    whole = [name for name in made.algorithms if all((task, name) in made.entries for task in made.tasks)]
    for name in made.algorithms:
        missing = [task for task in made.tasks if (task, name) not in made.entries]
        if missing:
            notes.append(f"{name} has no run of {', '.join(missing)}, so it is not among the aggregates")
    tables = {name: [_values(made, task, name) for task in made.tasks] for name in whole}
    found = {
        name: aggregates(table, resamples=resamples, level=made.level, seed=seed) for name, table in tables.items()
    }
    if not made.normalized:
        found = {
            name: {key: one for key, one in all_.items() if key != "optimality_gap"} for name, all_ in found.items()
        }
    pooled = np.concatenate([np.concatenate(table) for table in tables.values()]) if tables else np.zeros(1)
    low, high = float(pooled.min()), float(pooled.max())
    at = np.linspace(min(low, 0.0), max(high, 1.0), POINTS) if made.normalized else np.linspace(low, high, POINTS)
    profiles = {
        name: performance_profile(table, at, resamples=resamples, level=made.level, seed=seed)
        for name, table in tables.items()
    }
    return replace(made, aggregates=found, profiles=profiles)


def _paired(made: Comparison, resamples: int, seed: int) -> Comparison:
    """Every pair of algorithms, over the tasks and seeds that both have."""
    common = made.normalized or len(made.tasks) == 1
    options: dict[str, Any] = {"resamples": resamples, "level": made.level, "seed": seed}
    pairs: list[Pair] = []
    for one, other in combinations(made.algorithms, 2):
        both = [task for task in made.tasks if (task, one) in made.entries and (task, other) in made.entries]
        if not both:
            continue
        left, right = ([_values(made, task, name) for task in both] for name in (one, other))
        improvement = probability_of_improvement(left, right, **options)
        x: list[Array] = []
        y: list[Array] = []
        for task, mine, theirs in zip(both, left, right, strict=True):
            seeds, others = (made.entries[task, name].seeds for name in (one, other))
            shared = [number for number in seeds if number in others]
            # Swapping a pair leaves the deviation of both together as it is, so the test stays one of sign flips.
            scale = 1.0 if common else float(np.concatenate((mine, theirs)).std()) or 1.0
            if shared:
                x.append(mine[[seeds.index(number) for number in shared]] / scale)
                y.append(theirs[[others.index(number) for number in shared]] / scale)
        if x:
            test = paired(x, y, **options)
            needed = seeds_needed([a - b for a, b in zip(x, y, strict=True)], level=made.level)
            pairs.append(Pair(one, other, improvement, test.difference, test.p, None, test.pairs, needed))
        else:
            pairs.append(Pair(one, other, improvement, None, None, None, 0, None))
    tested = [place for place, pair in enumerate(pairs) if pair.p is not None]
    for place, p in zip(tested, holm([pairs[place].p or 0.0 for place in tested]), strict=True):
        pairs[place] = replace(pairs[place], corrected=p)
    unit = "normalized score" if made.normalized else made.metric if common else DEVIATIONS
    return replace(made, pairs=tuple(pairs), unit=unit)


def _over_time(
    made: Comparison, scores: Scores, scales: Mapping[str, tuple[float, float]], threshold: float | None, seed: int
) -> Comparison:
    metric = next((name for name in (made.metric, "mean_return") if _has_curves(scores, name)), "")
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"threshold: expected a finite number, got {threshold:g}")
    if not metric:
        return made
    found = scores.curves(metric)
    lost = {(one.task, one.algorithm, one.seed) for one in made.lost}
    curves: dict[tuple[str, str], Band] = {}
    shares: dict[str, list[Array]] = {}
    times: dict[tuple[str, str], Times] = {}
    progress = np.linspace(0, 1, POINTS)
    for task in made.tasks:
        kept = {
            name: [run for number, run in runs.items() if (task, name, number) not in lost]
            for (where, name), runs in found.items()
            if where == task and (task, name) in made.entries
        }
        kept = {name: runs for name, runs in kept.items() if runs}
        grid = _grid([run for runs in kept.values() for run in runs], made.steps[task])
        for name, runs in kept.items():
            table = np.array([aligned(*run, grid) for run in runs])  # (runs, K)
            curves[task, name] = curve([table], grid, level=made.level, seed=seed)
            if made.normalized:
                random, best = scales[task]
                rows = np.array([aligned(*run, progress * made.steps[task]) for run in runs])
                shares.setdefault(name, []).append((rows - random) / (best - random))
        if threshold is not None:
            times |= _times(task, found, threshold, scales[task] if made.normalized else None, made.level, seed)
    overall = {
        name: curve(tables, progress, level=made.level, seed=seed)
        for name, tables in shares.items()
        if len(tables) == len(made.tasks) > 1
    }
    return replace(made, over_time=metric, curves=curves, overall=overall, times=times)


def _has_curves(scores: Scores, metric: str) -> bool:
    if metric not in scores.metrics:
        return False
    return any(len(steps) > 1 for runs in scores.curves(metric).values() for steps, _ in runs.values())


def _grid(runs: Sequence[Curve], step: int) -> Array:
    """Steps at which the curves of a task are compared: those of the runs if they are the same for all."""
    first = runs[0][0]
    if all(np.array_equal(steps, first) for steps, _ in runs):
        kept: Array = first[first <= max(step, first[0])]
        return kept
    start = max(steps[0] for steps, _ in runs)
    count = min(POINTS, max(len(steps) for steps, _ in runs))
    return np.linspace(start, max(step, start), count)


def _times(
    task: str,
    found: Mapping[tuple[str, str], Mapping[int, Curve]],
    threshold: float,
    scale: tuple[float, float] | None,
    level: float,
    seed: int,
) -> dict[tuple[str, str], Times]:
    """Runs that were lost count too, as censored."""
    made = {}
    for (where, name), runs in found.items():
        if where == task:
            low, size = (0.0, 1.0) if scale is None else (scale[0], scale[1] - scale[0])
            logged = [(steps, (values - low) / size) for steps, values in runs.values()]
            made[task, name] = time_to_threshold(logged, threshold, level=level, seed=seed)
    return made


def _warnings(made: Comparison) -> list[str]:
    """What makes the numbers worth less than they look."""
    said = [f"left out of every number: {lost}" for lost in made.lost]
    if made.lost:
        said.append("numbers of algorithms that lost runs are better than the algorithms are")
    runs = {(task, name): made.entries[task, name].seeds for task, name in made.entries}
    runs |= {(lost.task, lost.algorithm): () for lost in made.lost if (lost.task, lost.algorithm) not in runs}
    wanted = {task: sorted({number for (where, _), seeds in runs.items() if where == task for number in seeds})
              for task in made.tasks}  # fmt: skip
    gone = {(one.task, one.algorithm, one.seed) for one in made.lost}
    for task in made.tasks:
        for name in made.algorithms:
            seeds = runs.get((task, name))
            missing = [
                number for number in wanted[task] if number not in (seeds or ()) and (task, name, number) not in gone
            ]
            if seeds is None:
                said.append(f"{task}: there is no run of {name}")
            elif missing:
                said.append(f"{task}: {name} has no seed {', '.join(map(str, missing))}, which others have")
    few = min(len(entry.seeds) for entry in made.entries.values())
    if few == 1:
        said.append("one seed says nothing of others: there is no interval where a task has one seed")
    elif few < FEW:
        said.append(
            f"{few} seeds are few: intervals of fewer than {FEW} are too narrow (95 % intervals over 3 seeds of one "
            "task hold the truth in about 73 of 100 cases, over 5 seeds in about 87, over 10 in about 94)"
        )
    said += _power(made)
    return said


def _power(made: Comparison) -> list[str]:
    """Whether the tests could have found anything at all."""
    tested = [pair for pair in made.pairs if pair.p is not None]
    hopeless = [pair for pair in tested if pair.seeds and len(tested) * 2.0 ** (1 - pair.seeds) > 1 - made.level]
    if not hopeless:
        return []
    most = max(pair.seeds for pair in hopeless)
    wanted = math.ceil(1 + math.log2(len(tested) / (1 - made.level)))
    return [
        f"{most} pairs of runs are too few for a test: whatever they are, the smallest corrected p is above "
        f"{1 - made.level:.2g}, so all are {INDISTINCT}; it takes {wanted} pairs (seeds times tasks)"
    ]
