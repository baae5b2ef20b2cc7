"""Figures of a comparison (extra ``plot``): curves with intervals, profiles, aggregates, pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from marl.logs.files import replace_file
from marl.studies.comparison import Comparison
from marl.studies.statistics import Band
from marl.studies.tables import NAMES
from marl.training.curves import Curves, Line, draw, panels, plain, style
from marl.training.metric_words import STEPS, words

COLUMNS = 3  # of panels


def figures(made: Comparison) -> dict[str, Curves]:
    """The figures of a comparison by name: ``curves``, ``profiles``, ``aggregates``, ``pairs``; no empty ones."""
    found = {}
    if made.curves:
        found["curves"] = curves_figure(made)
    if made.profiles:
        found["profiles"] = profiles_figure(made)
        found["aggregates"] = aggregates_figure(made)
    if made.pairs:
        found["pairs"] = pairs_figure(made)
    return found


def write_figures(made: Comparison, folder: Path) -> list[Path]:
    """Write them as PNG; returns the files. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures(made).items():
        files.append(folder / f"{name}.png")
        replace_file(files[-1], figure.png())
    return files


def _line(label: str, place: int, band: Band) -> Line:
    return Line(label, band.x.tolist(), band.value.tolist(), place, (band.low.tolist(), band.high.tolist()))


def curves_figure(made: Comparison) -> Curves:
    """The IQM over seeds with its interval over time, a panel for each task, and one for all where scores allow it."""
    count = len(made.tasks) + bool(made.overall)
    wide = 2 if count == 4 else min(count, COLUMNS)
    high = -(-count // wide)
    figure = Curves(figsize=(0.6 + 4.2 * wide, 0.4 + 3.4 * high), layout="constrained")
    axes = figure.subplots(high, wide, squeeze=False).reshape(-1)
    for axis, task in zip(axes, made.tasks, strict=False):
        bands = [(n, name, made.curves.get((task, name))) for n, name in enumerate(made.algorithms)]
        draw(axis, [_line(name, n, band) for n, name, band in bands if band is not None])
        axis.set_title(plain(task), fontsize="medium")
        axis.set_xlabel(STEPS)
    for axis in axes[: len(made.tasks) : wide]:
        axis.set_ylabel(plain(words(made.over_time)), fontsize="small")
    if made.overall:
        axis = axes[len(made.tasks)]
        draw(axis, [_line(n, made.algorithms.index(n), band) for n, band in made.overall.items()])
        axis.set_title("all tasks, normalized", fontsize="medium")
        axis.set_xlabel("share of the steps")
        axis.set_ylabel("normalized score, IQM")
    for axis in axes[count:]:
        axis.remove()
    figure.suptitle(f"IQM over seeds, {100 * made.level:g} % CI", fontsize="medium")
    return figure


def profiles_figure(made: Comparison) -> Curves:
    """The share of runs above each score."""
    lines = [_line(name, made.algorithms.index(name), band) for name, band in made.profiles.items()]
    score = "normalized score" if made.normalized else words(made.metric)
    return panels([f"share of runs above it ({100 * made.level:g} % CI over seeds)"], [lines], x=plain(score))


def aggregates_figure(made: Comparison) -> Curves:
    """IQM, mean, median and optimality gap with their intervals, a row for each algorithm."""
    names = list(next(iter(made.aggregates.values())))
    rows = list(made.aggregates)
    figure = Curves(figsize=(1.5 + 2.6 * len(names), 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, names, strict=True):
        for row, algorithm in enumerate(rows):
            found = made.aggregates[algorithm][name]
            color, _ = style(made.algorithms.index(algorithm))
            axis.use_sticky_edges = False
            if found.known:
                axis.barh(row, found.high - found.low, left=found.low, height=0.5, color=color, alpha=0.5)
            axis.plot([found.value], [row], "|", color="k", markersize=12, markeredgewidth=2)
        axis.set_title(NAMES[name], fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), [plain(name) for name in rows])
    axes[0].invert_yaxis()
    score = "normalized score" if made.normalized else words(made.metric)
    figure.supxlabel(f"{plain(score)} ({100 * made.level:g} % CI over seeds)", fontsize="small")
    return figure


def pairs_figure(made: Comparison) -> Curves:
    """The probability that a run of the row scores higher than a run of the column; ``=``: may be chance."""
    names = list(made.algorithms)
    table = np.full((len(names), len(names)), np.nan)
    told = np.zeros(table.shape, dtype=bool)
    for (row, one), (column_, other) in ((a, b) for a in enumerate(names) for b in enumerate(names) if a != b):
        found = made.improvement(one, other)
        table[row, column_] = np.nan if found is None else found.value
        told[row, column_] = any(
            {pair.one, pair.other} == {one, other} and pair.distinguishable(made.level) for pair in made.pairs
        )
    size = 2.5 + 0.7 * len(names)
    figure = Curves(figsize=(size + 1.5, size), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(table, cmap="PuOr", vmin=0, vmax=1)
    for (row, column_), value in np.ndenumerate(table):
        if np.isfinite(value):
            text = f"{value:.2f}" + ("" if told[row, column_] else " =")
            axis.text(column_, row, text, ha="center", va="center", color="w" if abs(value - 0.5) > 0.35 else "k")
    shown = [plain(name) for name in names]
    axis.set_xticks(range(len(names)), shown, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), shown)
    axis.set_title(
        f"P(a run of the row scores higher)\n=: not distinguishable at {1 - made.level:.2g} (sign flips, Holm)",
        fontsize="medium",
    )
    figure.colorbar(image, ax=axis)
    return figure
