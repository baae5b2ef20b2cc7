"""Seeds of the same settings: runs under one name, and their curves as one with its interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from marl.studies.run_folders import RunFolder
from marl.studies.statistics import Band, aligned, curve
from marl.types import Array

POINTS = 200  # of a curve over seeds with different steps


def named_groups(runs: Sequence[RunFolder]) -> list[tuple[str, list[RunFolder]]]:
    """Runs of the same settings under one name; a run without a ``config.json`` stands for itself."""
    several = len({run.task for run in runs}) > 1
    alone = len({(run.task, run.algorithm) for run in runs}) == len(runs)
    found: dict[str, list[RunFolder]] = {}
    for run in runs:
        label = f"{run.task}, {run.algorithm}" if several else run.algorithm
        label = run.path.resolve().name if alone or not run.settings else label
        found.setdefault(label, []).append(run)
    return list(found.items())


def over_seeds(runs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Band:
    """The mean of at least two curves (steps and values) with its 95 % interval over seeds."""
    grid = _common(runs)
    return curve([np.array([aligned(x, y, grid) for x, y in runs])], grid, statistic="mean")


def _common(runs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Array:
    """Steps for the mean: those of the runs if they are the same for all."""
    if all(list(x) == list(runs[0][0]) for x, _ in runs):
        return np.array(runs[0][0], dtype=np.float64)
    start, end = max(x[0] for x, _ in runs), max(x[-1] for x, _ in runs)
    return np.linspace(start, end, min(POINTS, max(len(x) for x, _ in runs)))
