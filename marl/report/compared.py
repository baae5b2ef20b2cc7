"""The drawings of a comparison for a page: curves with intervals, performance profiles, pairs of algorithms."""

from __future__ import annotations

from typing import Any

from marl.report.curves import short
from marl.report.facts import text
from marl.studies.comparison import Comparison
from marl.studies.statistics import Band
from marl.training.metric_words import words


def drawn(made: Comparison) -> dict[str, Any]:
    """``charts``: a title, what lies across, and a line with its interval for each algorithm; ``pairs``: a matrix."""
    charts = []
    whole = "IQM of normalized scores" if made.normalized else words(made.over_time)
    for task in made.tasks:
        lines = [(name, made.curves[task, name]) for name in made.algorithms if (task, name) in made.curves]
        if lines:
            title = f"{task}: {words(made.over_time)}, IQM over seeds"
            charts.append(_chart(made, title, "environment steps", lines))
    if made.overall:
        charts.append(_chart(made, f"all tasks: {whole}", "share of the steps", list(made.overall.items())))
    if made.profiles:
        across = "normalized score" if made.normalized else words(made.metric)
        charts.append(
            _chart(made, "performance profile: share of runs above a score", across, list(made.profiles.items()))
        )
    return {"charts": charts, "pairs": _pairs(made)}


def _chart(made: Comparison, title: str, across: str, lines: list[tuple[str, Band]]) -> dict[str, Any]:
    """The place of an algorithm is its color, the same in all of them."""
    return {
        "title": text(title),
        "across": text(across),
        "lines": [
            {
                "label": text(name),
                "place": made.algorithms.index(name),
                "x": [short(one) for one in band.x],
                "y": [short(one) for one in band.value],
                "low": [short(one) for one in band.low],
                "high": [short(one) for one in band.high],
            }
            for name, band in lines
        ],
    }


def _pairs(made: Comparison) -> dict[str, Any] | None:
    """How probable it is that a run of the row scores higher than one of the column; None without two algorithms."""
    if not made.pairs:
        return None
    rows = []
    for one in made.algorithms:
        found = [None if one == other else made.improvement(one, other) for other in made.algorithms]
        rows.append([None if cell is None else [short(x) for x in (cell.value, cell.low, cell.high)] for cell in found])
    return {"names": list(map(text, made.algorithms)), "rows": rows}
