"""Learning curves as a figure (extra ``plot``); imported where one is drawn, since that takes matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marl.training.metric_words import STEPS, words
from marl.types import ConfigError

try:
    from matplotlib.figure import Figure
except ImportError:
    raise ConfigError("matplotlib is not installed: pip install 'marl-system[plot]'") from None

Rows = Sequence[Mapping[str, float]]
MOST_PANELS = 20  # of one picture
# Okabe and Ito (2008), told apart by people who see colors differently, the palest left out; then other dashes.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")


class Curves(Figure):
    """A figure of matplotlib that shows itself in a notebook; ``savefig(file)`` writes it, ``axes`` are its panels."""

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self, kind: str = "png") -> bytes:
        """The picture as a file of some kind."""
        picture = io.BytesIO()
        self.savefig(picture, format=kind, dpi=120)
        return picture.getvalue()


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn.

    label: of the legend.
    x: where.
    y: how high.
    place: among the lines of a panel, which decides its color; lines of one place belong together.
    band: lower and upper ends of an interval around it.
    faint: curves that it stands for, drawn thin.
    dots: as dots, of what is measured now and then.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    place: int
    band: tuple[Sequence[float], Sequence[float]] | None = None
    faint: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    dots: bool = False


def panels(titles: Sequence[str], lines: Sequence[Sequence[Line]], x: str = STEPS) -> Curves:
    """A panel of lines for each title, one below the other."""
    figure = Curves(figsize=(7.0, 0.6 + 3.4 * len(titles)), layout="constrained")
    axes = figure.subplots(len(titles), 1, squeeze=False, sharex=True)[:, 0]
    for axis, title, drawn in zip(axes, titles, lines, strict=True):
        draw(axis, drawn)
        axis.set_ylabel(plain(title))
    axes[-1].set_xlabel(x)
    return figure


def draw(axis: Any, lines: Sequence[Line]) -> None:
    """Lines into a panel of matplotlib, with a legend and a grid."""
    for line in lines:
        color, dash = style(line.place)
        for x, y in line.faint:
            axis.plot(x, y, color=color, linewidth=0.6, alpha=0.35)
        if line.band is not None:
            axis.fill_between(line.x, *line.band, color=color, alpha=0.18, linewidth=0)
        look: dict[str, Any] = {"linestyle": dash}
        if line.dots:
            look = {"linestyle": "--", "marker": "o", "markersize": 3, "linewidth": 0.8}
        axis.plot(line.x, line.y, color=color, label=plain(line.label), **look)
    axis.grid(alpha=0.3)
    if lines:
        axis.legend(fontsize="small")


def style(place: int) -> tuple[str, str]:
    """Color and dashes of the n-th line."""
    return COLORS[place % len(COLORS)], DASHES[place // len(COLORS) % len(DASHES)]


def curves(tables: Sequence[tuple[str, str, Rows]], names: Sequence[str] = ()) -> Curves:
    """Metrics over environment steps.

    Args:
        tables: a line each: what an error calls it, what the legend calls it, rows of metrics.
        names: of metrics, a panel each; empty: returns, a panel for each team too, evaluations as dots.

    Raises:
        ConfigError: if a table has no such metric.
    """
    chosen = panel_names(tables, names)
    drawn = []
    for name in chosen:
        lines = []
        for place, (_, label, rows) in enumerate(tables):
            lines.append(Line(label, *column(rows, name), place))
            evaluation = column(rows, "evaluation_return")
            if name == "mean_return" and evaluation[0]:
                lines.append(Line("evaluation (greedy)", *evaluation, place, dots=True))
        drawn.append(lines)
    return panels([words(name) for name in chosen], drawn)


def panel_names(tables: Sequence[tuple[str, str, Rows]], names: Sequence[str]) -> list[str]:
    """The metrics that get a panel. Raises ConfigError if a table has none of one."""
    for where, _, rows in tables:
        for name in names or ("mean_return",):
            if not any(name in row for row in rows):
                known = sorted({other for row in rows for other in row if other != "steps"})
                raise ConfigError(
                    f"{where}: there is no {name} to plot; known: {', '.join(known) or 'nothing yet'}"
                    if names
                    else f"{where}: there is nothing to plot yet: no episode had ended when metrics were last logged"
                )
    of_teams = {name for _, _, rows in tables for row in rows for name in row if name.endswith("/mean_return")}
    return (list(names) or ["mean_return", *sorted(of_teams)])[:MOST_PANELS]


def column(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric, where it was logged and is a number."""
    pairs = [(row["steps"], row[name]) for row in rows if "steps" in row and math.isfinite(row.get(name, math.nan))]
    return [x for x, _ in pairs], [y for _, y in pairs]


def plain(text: str) -> str:
    """No mathematics, no line breaks; a leading underscore would hide a label."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$").lstrip("_")[:100]
