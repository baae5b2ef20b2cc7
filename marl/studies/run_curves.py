"""Learning curves of runs as a picture (extra ``plot``): seeds of the same settings as one line with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from marl.config import check_whole
from marl.logs import read_metrics
from marl.logs.files import replace_file
from marl.studies.run_folders import found_runs
from marl.studies.seeds import named_groups, over_seeds
from marl.studies.statistics import smoothed
from marl.training.curves import Curves, Line, Rows, column, panel_names, panels
from marl.training.metric_words import words

Group = tuple[str, list[tuple[str, Rows]]]  # a legend's words, and its runs: what an error calls each, rows of metrics


def plot_runs(runs: Sequence[Path], out: Path, names: Sequence[str] = (), smooth: int = 1) -> Path:
    """Draw the learning curves of runs; seeds of the same settings are one line with its interval.

    Args:
        runs: run folders, or folders that hold such.
        out: where to write; its ending says what kind of picture.
        names: of metrics, a panel each; none: returns, of each team too, and evaluations.
        smooth: rows that each value is the mean of, the latest ones.

    Raises:
        ConfigError: if a run has no such metric, or matplotlib is not installed.
    """
    picture = runs_figure(groups(runs), names, smooth).png(out.suffix[1:] or "png")
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, picture)  # it may lie in a run folder: never through a link
    return out


def groups(runs: Sequence[Path]) -> list[Group]:
    """Runs of the same settings under one name; a run without a ``config.json`` stands for itself."""
    told = [run for run in found_runs(runs) if run.path.exists()]
    return [(label, [(str(run.path), read_metrics(run.path)) for run in same]) for label, same in named_groups(told)]


def runs_figure(found: Sequence[Group], names: Sequence[str] = (), smooth: int = 1) -> Curves:
    """The same as a figure.

    Raises:
        ConfigError: if a run has no such metric.
    """
    check_whole("smooth", smooth, 1)
    tables = [(where, label, rows) for label, runs in found for where, rows in runs]
    chosen = panel_names(tables, names)
    drawn = []
    for name in chosen:
        lines = []
        for place, (label, runs) in enumerate(found):
            lines.append(_over_seeds(label, [column(rows, name) for _, rows in runs], place, smooth))
            evaluations = [one for _, rows in runs if (one := column(rows, "evaluation_return"))[0]]
            if name == "mean_return" and evaluations:
                lines.append(_over_seeds("evaluation (greedy)", evaluations, place, 1, dots=True))
        drawn.append(lines)
    return panels([words(name) for name in chosen], drawn)


def _over_seeds(
    label: str, runs: Sequence[tuple[list[float], list[float]]], place: int, smooth: int, dots: bool = False
) -> Line:
    """One run as it is; of several the mean with its 95 % interval over seeds, and each of them thin."""
    smooth_runs = [(x, smoothed(np.array(y), smooth).tolist()) for x, y in runs if x]
    if len(smooth_runs) < 2:
        x, y = smooth_runs[0] if smooth_runs else ([], [])
        return Line(label, x, y, place, dots=dots)
    band = over_seeds(smooth_runs)
    said = label if dots else f"{label}, mean of {len(smooth_runs)} seeds, 95 % CI"
    ends = (band.low.tolist(), band.high.tolist())
    return Line(said, band.x.tolist(), band.value.tolist(), place, ends, () if dots else smooth_runs, dots)
