"""Figures of a search (extra ``plot``): trials in parallel coordinates, importances, values in the order of trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib import colormaps

from marl.studies.search import Search
from marl.studies.spaces import Choice, IntUniform, LogUniform
from marl.studies.trials import COMPLETE, PRUNED, TrialRow
from marl.training.curves import Curves, Line, panels, plain, style

GREY = "#999999"


def figures(search: Search, rows: Sequence[TrialRow], importances: Mapping[str, float]) -> dict[str, Curves]:
    """The figures of a search by name: ``parallel``, ``trials`` and, where it is known, ``importances``."""
    found = {"parallel": parallel_figure(search, rows), "trials": trials_figure(rows)}
    return found | ({"importances": importances_figure(importances)} if importances else {})


def height(search: Search, key: str, word: str) -> float:
    """Where a value in words stands on the axis of its setting, from 0 to 1."""
    dimension = search.space[key]
    if isinstance(dimension, Choice):
        words = dimension.ends()
        return words.index(word) / (len(words) - 1)
    low, high, value = float(dimension.low), float(dimension.high), float(word)
    if isinstance(dimension, LogUniform) or (isinstance(dimension, IntUniform) and dimension.log):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def parallel_figure(search: Search, rows: Sequence[TrialRow]) -> Curves:
    """An axis for each setting and one for the value, a line for each trial; grey: it was not trained to its end."""
    keys = list(search.space)
    shown = [row for row in rows if row.value is not None]
    values = [row.value for row in shown if row.value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span = (high - low) or 1.0
    figure = Curves(figsize=(2.0 + 1.7 * len(keys), 4.5), layout="constrained")
    axis = figure.subplots()
    colors = colormaps["viridis"]
    for row in sorted(shown, key=lambda one: (one.status == COMPLETE, one.value or 0.0)):
        assert row.value is not None
        share = (row.value - low) / span
        spots = [(n, height(search, key, row.settings[key])) for n, key in enumerate(keys) if key in row.settings]
        spots.append((len(keys), share))
        whole = row.status == COMPLETE
        axis.plot(
            [x for x, _ in spots],
            [y for _, y in spots],
            color=colors(share) if whole else GREY,
            alpha=0.9 if whole else 0.35,
            linewidth=1.4 if whole else 0.8,
        )
    for place, key in enumerate(keys):
        words = search.space[key].ends()
        axis.axvline(place, color="k", linewidth=0.6)
        for word in words:
            axis.annotate(plain(word), (place, height(search, key, word)), fontsize="x-small", xytext=(2, 0),
                          textcoords="offset points")  # fmt: skip
    axis.axvline(len(keys), color="k", linewidth=0.6)
    for end, at in ((low, 0.0), (high, 1.0)):
        axis.annotate(f"{end:.4g}", (len(keys), at), fontsize="x-small", xytext=(2, 0), textcoords="offset points")
    axis.set_xticks(range(len(keys) + 1), [plain(key) for key in (*keys, "return")], rotation=20, ha="right")
    axis.set_yticks([])
    axis.set_title("trials; grey: ended early", fontsize="medium")
    return figure


def importances_figure(importances: Mapping[str, float]) -> Curves:
    """How much each setting decides about being among the best."""
    names = list(importances)
    figure = Curves(figsize=(6.0, 1.2 + 0.4 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.barh(range(len(names)), [importances[name] for name in names], color=style(0)[0])
    axis.set_yticks(range(len(names)), [plain(name) for name in names])
    axis.invert_yaxis()
    axis.set_xlabel("importance (PED-ANOVA), of 1")
    axis.grid(axis="x", alpha=0.3)
    return figure


def trials_figure(rows: Sequence[TrialRow]) -> Curves:
    """Values in the order of trials, and the best so far."""
    whole = [(row.number, row.value) for row in rows if row.status == COMPLETE and row.value is not None]
    ended = [(row.number, row.value) for row in rows if row.status == PRUNED and row.value is not None]
    best = [max(value for _, value in whole[: n + 1]) for n in range(len(whole))]
    lines = [Line("best so far", [number for number, _ in whole], best, 0)]
    for place, (label, pairs) in enumerate((("trained to the end", whole), ("ended early", ended)), 1):
        if pairs:
            lines.append(Line(label, [number for number, _ in pairs], [value for _, value in pairs], place, dots=True))
    return panels(["return, mean over seeds"], [lines], x="trial")
