"""Statistics of scores over seeds and tasks: aggregates, profiles, comparisons, times, each with what it is worth.

Scores of one algorithm are given as ``(runs, tasks)``, or as a list with the runs of each task, ``(runs,)`` each, where
tasks have different numbers of runs. Runs are the unit of every interval: a stratified bootstrap draws whole runs, for
each task as many as it has. Where a task has one run there is no interval: its ends are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from marl.types import Array, ConfigError

Runs = Array | Sequence[Any]
RESAMPLES = 50_000
LEVEL = 0.95
FEW = 5  # runs of a task below which percentile intervals are clearly too narrow
MOST_EXACT = 16  # pairs whose signs are flipped in all ways
CHUNK = 2_000_000  # draws held in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A number and its interval.

    value: the estimate.
    low: the lower end; NaN where there are too few runs for an interval.
    high: the upper end, likewise.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def to_dict(self) -> dict[str, float]:
        """Plain JSON values but for NaN."""
        return {"value": self.value, "low": self.low, "high": self.high}


def columns(scores: Runs, who: str = "scores") -> list[Array]:
    """The runs of each task, ``(runs,)`` each, in ascending order.

    Raises:
        ConfigError: if there are none, or one of them is no finite number.
    """
    if isinstance(scores, np.ndarray):
        if scores.ndim != 2:
            raise ConfigError(f"{who}: expected an array (runs, tasks), got one of shape {scores.shape}")
        scores = list(scores.T)
    found = [np.sort(np.asarray(column, dtype=np.float64).reshape(-1)) for column in scores]
    if not found or not all(len(column) for column in found):
        raise ConfigError(f"{who}: expected at least one run of every task, got {[len(column) for column in found]}")
    if not all(np.isfinite(column).all() for column in found):
        raise ConfigError(f"{who}: expected finite numbers; leave diverged runs out, and say how many there were")
    return found


def iqm(scores: Runs) -> float:
    """Interquartile mean over all runs and tasks: the lowest and the highest ``n // 4`` of ``n`` scores are left out.

    Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".

    Raises:
        ConfigError: as :func:`columns`; so do all functions here.
    """
    pooled = np.sort(np.concatenate(columns(scores)))
    cut = len(pooled) // 4
    return float(pooled[cut : len(pooled) - cut].mean())


def mean(scores: Runs) -> float:
    """Mean of the tasks' means."""
    return float(np.mean([column.mean() for column in columns(scores)]))


def median(scores: Runs) -> float:
    """Median of the tasks' means."""
    return float(np.median([column.mean() for column in columns(scores)]))


def optimality_gap(scores: Runs, target: float = 1.0) -> float:
    """``target - mean(min(score, target))``, of tasks' means: how far runs fall short of a score, on average."""
    return target - float(np.mean([np.minimum(column, target).mean() for column in columns(scores)]))


def aggregates(
    scores: Runs,
    *,
    target: float = 1.0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Estimate]:
    """``iqm``, ``mean``, ``median`` and ``optimality_gap`` with percentile intervals of a stratified bootstrap.

    Args:
        scores: ``(runs, tasks)``, or the runs of each task.
        target: of the optimality gap.
        resamples: of the bootstrap.
        level: of the intervals.
        seed: of the draws; equal scores give equal bounds.
    """
    found = columns(scores)
    sizes = [len(column) for column in found]
    pooled = np.concatenate(found)
    order = np.argsort(pooled, kind="stable")
    strata = np.cumsum([0, *sizes[:-1]])
    drawn: dict[str, list[Array]] = {"iqm": [], "mean": [], "median": [], "optimality_gap": []}
    for counts in _draws(sizes, resamples, seed):  # (R, runs of all tasks)
        means = np.add.reduceat(counts * pooled, strata, axis=1) / sizes  # (R, tasks)
        capped = np.add.reduceat(counts * np.minimum(pooled, target), strata, axis=1) / sizes
        drawn["iqm"].append(_weighted_iqm(pooled[order], counts[:, order]))
        drawn["mean"].append(means.mean(axis=1))
        drawn["median"].append(np.median(means, axis=1))
        drawn["optimality_gap"].append(target - capped.mean(axis=1))
    values = {
        "iqm": iqm(found),
        "mean": mean(found),
        "median": median(found),
        "optimality_gap": optimality_gap(found, target),
    }
    return {name: _estimate(value, np.concatenate(drawn[name]), sizes, level) for name, value in values.items()}


def estimate_mean(scores: Runs, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Estimate:
    """The mean of the tasks' means alone, for scores of which the other aggregates have no meaning."""
    found = columns(scores)
    sizes = [len(column) for column in found]
    weights = np.concatenate([column / (len(column) * len(found)) for column in found])
    drawn = np.concatenate([counts @ weights for counts in _draws(sizes, resamples, seed)])
    return _estimate(mean(found), drawn, sizes, level)


@dataclass(frozen=True)
class Band:
    """A curve with its interval at every place; NaN where there is none.

    x: where, ``(K,)``.
    value: the curve, ``(K,)``.
    low: lower ends, ``(K,)``.
    high: upper ends, ``(K,)``.
    runs: how many runs each value is of, ``(K,)``.
    """

    x: Array
    value: Array
    low: Array
    high: Array
    runs: Array

    def to_dict(self) -> dict[str, list[float]]:
        """Plain JSON values but for NaN."""
        return {name: getattr(self, name).tolist() for name in ("x", "value", "low", "high", "runs")}


def performance_profile(
    scores: Runs,
    at: Array,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Band:
    """The share of runs with a score above each of some thresholds, mean over tasks, with pointwise intervals.

    ``F(tau) = mean over tasks of mean over runs of 1[score > tau]`` (Agarwal et al. 2021). The profile of
    tasks' average scores is that of their means, ``(1, tasks)``.

    Args:
        scores: ``(runs, tasks)``, or the runs of each task.
        at: the thresholds, ``(K,)``.
        resamples: of the bootstrap.
        level: of the intervals.
        seed: of the draws.
    """
    found, at = columns(scores), np.asarray(at, dtype=np.float64)
    sizes = [len(column) for column in found]
    above = [(column[:, None] > at) / (len(column) * len(found)) for column in found]  # (runs, K) each
    shares = np.concatenate(above)
    value = np.mean([(column[:, None] > at).mean(axis=0) for column in found], axis=0)
    drawn = np.concatenate([counts @ shares for counts in _draws(sizes, resamples, seed)])  # (R, K)
    low, high = _ends(drawn, sizes, level)
    return Band(at, value, low, high, np.full(len(at), sum(sizes)))


def probability_of_improvement(
    ones: Runs,
    others: Runs,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """How probable it is that a run of one algorithm scores higher than a run of another, mean over tasks.

    ``P = mean over tasks of mean over pairs of runs of 1[x > y] + 1[x = y] / 2`` (Mann and Whitney 1947; Agarwal et al.
    2021). The interval is of a bootstrap of both, stratified by task.

    Args:
        ones: ``(runs, tasks)``, or the runs of each task.
        others: likewise, of the same tasks in the same order.
        resamples: of the bootstrap.
        level: of the interval.
        seed: of the draws.

    Raises:
        ConfigError: if the two have different numbers of tasks.
    """
    left, right = columns(ones), columns(others)
    if len(left) != len(right):
        raise ConfigError(
            f"probability_of_improvement: expected the same tasks, got {len(left):,} and {len(right):,} of them"
        )
    wins = [(np.sign(x[:, None] - y) + 1) / 2 for x, y in zip(left, right, strict=True)]  # (runs, runs) each
    sizes = [len(column) for column in (*left, *right)]
    starts = np.cumsum([0, *sizes])
    drawn = []
    for counts in _draws(sizes, resamples, seed):
        total = np.zeros(len(counts))
        for task, table in enumerate(wins):
            x = counts[:, starts[task] : starts[task + 1]]
            place = task + len(left)
            y = counts[:, starts[place] : starts[place + 1]]
            total += ((x @ table) * y).sum(axis=1) / table.size
        drawn.append(total / len(wins))
    return _estimate(float(np.mean([table.mean() for table in wins])), np.concatenate(drawn), sizes, level)


@dataclass(frozen=True)
class Paired:
    """Two algorithms over the same seeds of the same tasks.

    difference: mean over tasks of the mean over seeds of the first one's score less the other's.
    p: two-sided, of flipping the signs of the differences; 1 if they are all 0.
    pairs: how many differences there are.
    exact: whether all ways of flipping them were counted, and not a sample.
    least: the smallest ``p`` that so many pairs can have.
    """

    difference: Estimate
    p: float
    pairs: int
    exact: bool
    least: float


def paired(
    ones: Sequence[Any],
    others: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Paired:
    """Compare two algorithms seed by seed, by a test that supposes no distribution.

    If neither is better, each difference might as well have the other sign. ``p`` is the share of all sign patterns
    under which ``|difference| / standard error`` is at least as large (Fisher 1935): of all ``2**n`` of them for at
    most 16 pairs, of a sample for more. The error comes from the variance within tasks, so a difference that some tasks
    show and others do not is no noise (Chung and Romano 2013); of tasks with one pair there is none, and the
    difference alone is compared. For one task both are the same.

    Args:
        ones: the scores of each task, ``(seeds,)`` each.
        others: likewise, of the same seeds in the same order.
        resamples: of the interval, and of the sample of patterns.
        level: of the interval.
        seed: of the draws.

    Raises:
        ConfigError: if they are not of the same tasks and seeds.
    """
    pairs = list(zip(ones, others, strict=False))
    if len(ones) != len(others) or any(len(x) != len(y) for x, y in pairs):
        raise ConfigError("paired: expected scores of the same seeds of the same tasks, in the same order")
    apart = columns([np.asarray(x, dtype=np.float64) - np.asarray(y, dtype=np.float64) for x, y in pairs], "paired")
    count = sum(map(len, apart))
    exact = count <= MOST_EXACT
    if exact:
        p = float(_as_far(1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1), apart).mean())
    else:
        random = np.random.default_rng([seed, 1])
        chunks = (random.choice((-1.0, 1.0), size=(size, count)) for size in _chunks(resamples, count))
        p = (1 + sum(int(_as_far(signs, apart).sum()) for signs in chunks)) / (1 + resamples)
    least = 2.0 ** (1 - count) if exact else 1 / (1 + resamples)
    difference = estimate_mean(apart, resamples=resamples, level=level, seed=seed)
    return Paired(difference, p, count, exact, least)


def _as_far(signs: Array, apart: Sequence[Array]) -> Array:
    """Whether differences are at least as far from 0, in standard errors, with these signs ``(K, n)`` as they are."""
    signs = np.concatenate([np.ones((1, signs.shape[1])), signs])  # as they are first
    total, variance, at = np.zeros(len(signs)), np.zeros(len(signs)), 0
    for column in apart:
        size = len(column)
        sums = signs[:, at : at + size] @ column
        total += sums / size
        if size > 1:
            variance += np.maximum((column @ column - sums**2 / size) / (size - 1), 0) / size
        at += size
    if any(len(column) == 1 for column in apart):
        variance[:] = 1.0
    squares = total**2  # total**2 / variance, without dividing by a variance of 0
    slack = 1e-12 * (squares.max() * variance[0] + squares[0] * variance.max())  # equal but for rounding counts
    found: Array = squares[1:] * variance[0] >= squares[0] * variance[1:] - slack
    if variance[0] <= 1e-12 * variance.max():  # beyond all measure, as other patterns may be too
        found &= squares[1:] >= squares[0] * (1 - 1e-12)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that the chance of any false discovery keeps the level (Holm 1979).

    The i-th smallest of ``m`` is multiplied by ``m - i + 1``; none becomes smaller than one before it, or more than 1.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[place])))
        corrected[place] = largest
    return corrected


def seeds_needed(differences: Sequence[Any], power: float = 0.8, level: float = LEVEL) -> int | None:
    """About how many seeds of every task would tell two algorithms apart that differ as much as these do.

    ``n = ((z_level + z_power) sd / difference)**2 + z_level**2 / (2 tasks)``, the sample size of a paired t-test with
    Guenther's (1981) correction, and no fewer than a test of flipped signs needs. The difference found is itself
    uncertain: take the number for an order of magnitude.

    Args:
        differences: of each task, seed by seed, ``(seeds,)`` each.
        power: the chance of finding the difference.
        level: of the test.

    Returns:
        None where no number would do: no difference, or fewer than two seeds.
    """
    found = columns(differences, "seeds_needed")
    apart = float(np.mean([column.mean() for column in found]))
    if apart == 0 or any(len(column) < 2 for column in found):
        return None
    variance = sum(float(column.var(ddof=1)) for column in found) / len(found) ** 2
    z = NormalDist().inv_cdf((1 + level) / 2)
    wanted = (z + NormalDist().inv_cdf(power)) ** 2 * variance / apart**2 + z**2 / (2 * len(found))
    flips = (1 - math.log2(1 - level)) / len(found)  # 2 ** (1 - n tasks) is at most 1 - level
    return math.ceil(max(wanted, flips, 2))


# --- over time --------------------------------------------------------------------------------------------------------


def aligned(steps: Sequence[float] | Array, values: Sequence[float] | Array, grid: Array) -> Array:
    """A run's values at other steps, ``(K,)``: between its own along straight lines, and NaN before and after them.

    Values that are not finite are passed over; a run that ends with such is over before them.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    there = np.isfinite(y)
    if not there.any():
        return np.full(len(grid), np.nan)
    made: Array = np.interp(grid, x[there], y[there], left=np.nan, right=np.nan)
    return made


def curve(
    runs: Sequence[Array],
    grid: Array,
    *,
    statistic: str = "iqm",
    resamples: int = 2_000,
    level: float = LEVEL,
    seed: int = 0,
) -> Band:
    """Aggregated scores over time, with pointwise intervals of a bootstrap that draws whole runs.

    Args:
        runs: of each task ``(runs, K)``; NaN where a run has no value.
        grid: steps, ``(K,)``.
        statistic: ``"iqm"``, or ``"mean"`` over all runs.
        resamples: of the bootstrap.
        level: of the intervals.
        seed: of the draws.
    """
    sizes = [len(one) for one in runs]
    table = np.concatenate(list(runs))  # (runs of all tasks, K)
    table = table[np.concatenate([start + np.lexsort(one.T) for start, one in _starts(runs)])]
    counts = np.concatenate(list(_draws(sizes, resamples, seed)))
    value, low, high = (np.full(len(grid), np.nan) for _ in range(3))
    there = np.isfinite(table)
    for place in range(len(grid)):
        some = np.flatnonzero(there[:, place])
        if not len(some):
            continue
        order = some[np.argsort(table[some, place], kind="stable")]
        ascending, drawn = table[order, place], counts[:, order]
        one = np.ones((1, len(order)), dtype=counts.dtype)
        if statistic == "iqm":
            value[place], found = _weighted_iqm(ascending, one)[0], _weighted_iqm(ascending, drawn)
        else:
            totals = drawn.sum(axis=1)
            value[place] = ascending.mean()
            found = np.divide(drawn @ ascending, totals, out=np.full(len(drawn), np.nan), where=totals > 0)
        if len(order) > 1 and min(sizes) > 1:
            low[place], high[place] = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Band(np.asarray(grid, dtype=np.float64), value, low, high, there.sum(axis=0))


def smoothed(values: Array, window: int) -> Array:
    """Means over the latest ``window`` values, fewer at the beginning; values that are not finite count nowhere."""
    there = np.isfinite(values)
    sums, counts = (np.cumsum(np.concatenate(([0.0], one))) for one in (np.where(there, values, 0.0), there))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    found = counts[last] - counts[first]
    made: Array = np.divide(
        sums[last] - sums[first], found, out=np.full(len(values), np.nan), where=there & (found > 0)
    )
    return made


@dataclass(frozen=True)
class Times:
    """When runs first reached a score. Runs that did not are censored: they count for as long as they lasted.

    threshold: the score.
    steps: of each run: when it got there, or when it ended.
    reached: of each run: whether it got there.
    median: of the time by Kaplan and Meier (1958); infinite where fewer than half get there.
    """

    threshold: float
    steps: tuple[float, ...]
    reached: tuple[bool, ...]
    median: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values but for infinity."""
        return {
            "threshold": self.threshold,
            "steps": list(self.steps),
            "reached": list(self.reached),
            "median": self.median.to_dict(),
        }


def time_to_threshold(
    runs: Sequence[tuple[Sequence[float] | Array, Sequence[float] | Array]],
    threshold: float,
    *,
    resamples: int = 2_000,
    level: float = LEVEL,
    seed: int = 0,
) -> Times:
    """How long runs need until an evaluation first finds at least ``threshold``; those that never do are censored.

    Args:
        runs: steps and scores of each.
        threshold: the score.
        resamples: of the interval of the median, over runs.
        level: of the interval.
        seed: of the draws.

    Raises:
        ConfigError: if there are no runs, or one has no scores.
    """
    if not runs or not all(len(steps) for steps, _ in runs):
        raise ConfigError("time_to_threshold: expected at least one run, each with scores")
    ended = []
    for steps, values in runs:
        there = np.flatnonzero(np.asarray(values, dtype=np.float64) >= threshold)
        ended.append((float(steps[there[0]]), True) if len(there) else (float(steps[-1]), False))
    ended.sort()
    times = np.array([time for time, _ in ended])
    events = np.array([reached for _, reached in ended])
    value = float(_survival_median(times, events, np.ones((1, len(ended))))[0])
    low = high = math.nan
    if len(ended) > 1:
        counts = np.concatenate(list(_draws([len(ended)], resamples, seed)))
        drawn = _survival_median(times, events, counts)
        ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")  # some are infinite
        low, high = float(ends[0]), float(ends[1])
    return Times(threshold, tuple(times.tolist()), tuple(events.tolist()), Estimate(value, low, high))


def survival(steps: Sequence[float], reached: Sequence[bool]) -> tuple[Array, Array]:
    """The share of runs that have not got there yet, by Kaplan and Meier (1958): steps and shares, ``(K,)`` each.

    ``S(t) = product over times u <= t of 1 - events(u) / at_risk(u)``.
    """
    order = np.argsort(np.asarray(steps, dtype=np.float64), kind="stable")
    times, events = np.asarray(steps, dtype=np.float64)[order], np.asarray(reached, dtype=bool)[order]
    distinct, shares = _survival(times, events, np.ones((1, len(times))))
    return distinct, shares[0]


def _survival(times: Array, events: Array, counts: Array) -> tuple[Array, Array]:
    """Distinct times ``(K,)``, and for each row of counts the shares after them ``(R, K)``."""
    distinct, starts = np.unique(times, return_index=True)
    total = np.add.reduceat(counts, starts, axis=1).astype(np.float64)
    happened = np.add.reduceat(counts * events, starts, axis=1)
    at_risk = total[:, ::-1].cumsum(axis=1)[:, ::-1]
    hazard = np.divide(happened, at_risk, out=np.zeros_like(total), where=at_risk > 0)
    return distinct, np.cumprod(1 - hazard, axis=1)


def _survival_median(times: Array, events: Array, counts: Array) -> Array:
    distinct, shares = _survival(times, events, counts)
    half = shares <= 0.5 + 1e-12
    made: Array = np.where(half.any(axis=1), distinct[half.argmax(axis=1)], np.inf)
    return made


# --- drawing runs -----------------------------------------------------------------------------------------------------


def _chunks(resamples: int, runs: int) -> Iterator[int]:
    most = max(1, CHUNK // runs)
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _draws(sizes: Sequence[int], resamples: int, seed: int) -> Iterator[Array]:
    """How often each run is drawn, ``(R, runs of all tasks)``: of each task as many as it has, with replacement."""
    random = np.random.default_rng(seed)
    for rows in _chunks(resamples, sum(sizes)):
        offset = np.arange(rows)[:, None]
        counts = [
            np.bincount((random.integers(size, size=(rows, size)) + size * offset).ravel(), minlength=rows * size)
            for size in sizes
        ]
        yield np.concatenate([one.reshape(rows, size) for one, size in zip(counts, sizes, strict=True)], axis=1)


def _weighted_iqm(ascending: Array, counts: Array) -> Array:
    """The interquartile mean of ascending scores ``(N,)``, each as often as a row of the counts ``(R, N)`` says."""
    upto = counts.cumsum(axis=1)
    total = upto[:, -1:]
    cut = total // 4
    kept = np.maximum(np.minimum(upto, total - cut) - np.maximum(upto - counts, cut), 0)
    left = (total - 2 * cut)[:, 0]
    made: Array = np.divide(kept @ ascending, left, out=np.full(len(counts), np.nan), where=left > 0)
    return made


def _ends(drawn: Array, sizes: Sequence[int], level: float) -> tuple[Array, Array]:
    ends = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if min(sizes) < 2:
        ends = np.full_like(ends, np.nan)
    return ends[0], ends[1]


def _estimate(value: float, drawn: Array, sizes: Sequence[int], level: float) -> Estimate:
    low, high = _ends(drawn, sizes, level)
    return Estimate(value, float(low), float(high))


def _starts(runs: Sequence[Array]) -> list[tuple[int, Array]]:
    return list(zip(np.cumsum([0, *map(len, runs)]).tolist(), runs, strict=False))
