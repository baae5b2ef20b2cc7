"""Curves of metrics for a page: runs grouped by their settings, thinned so that a page stays small."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from marl.report.facts import text
from marl.report.rows import Column, thinned
from marl.studies.seeds import over_seeds
from marl.training.metric_words import words

NUMBERS = 60_000  # of all curves of a page
LEAST, MOST = 40, 400  # points of one curve
FIRST = (
    "mean_return", "evaluation_return", "mean_length", "entropy", "kl", "policy_loss", "value_loss", "epsilon",
    "steps_per_second",
)  # fmt: skip
Labelled = Sequence[tuple[str, Sequence[Mapping[str, Column]]]]  # a label, and the columns of its runs


def curves(groups: Labelled) -> dict[str, Any]:
    """All metrics: ``xs``, the steps of curves, each once, and ``metrics``, which refer to them by their place.

    A group of several runs is their mean with its 95 % interval over seeds and each of them; one of a single run is the
    run. Each point of a thinned curve is a mean of neighboring rows.
    """
    names = {name for _, runs in groups for run in runs for name in run}
    ordered = sorted(names, key=_place)
    lines = sum(name in run for name in names for _, runs in groups for run in runs)
    points = max(LEAST, min(MOST, NUMBERS // max(1, lines)))
    xs: dict[tuple[float, ...], int] = {}

    def line(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
        place = xs.setdefault(tuple(round(one) for one in x), len(xs))
        return {"x": place, "y": [short(one) for one in y]}

    metrics = []
    for name in ordered:
        drawn = []
        for label, runs in groups:
            found = [[part.tolist() for part in thinned(run[name], points)] for run in runs if name in run]
            if not found:
                continue
            made: dict[str, Any] = {"label": text(label), "seeds": len(found)}
            if len(found) == 1:
                made |= line(*found[0])
            else:
                band = over_seeds([(x, y) for x, y in found])
                made |= line(band.x.tolist(), band.value.tolist())
                made |= {"low": [short(one) for one in band.low], "high": [short(one) for one in band.high]}
                made["runs"] = [line(x, y) for x, y in found]
            drawn.append(made)
        metrics.append({"name": text(name), "title": text(words(name)), "lines": drawn})
    return {"xs": [list(one) for one in xs], "metrics": metrics, "points": points}


def short(value: float) -> float | None:
    """A number with five digits; None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _place(name: str) -> tuple[int, str, int, str]:
    """Where a metric stands: those that people look at first, then by name; a team's beside the whole's."""
    team, _, metric = name.rpartition("/")
    place = FIRST.index(metric) if metric in FIRST else len(FIRST)
    return place, metric if place == len(FIRST) else "", len(team), name
