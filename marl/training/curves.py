"""Learning curves as a figure (extra ``plot``); imported where one is drawn, since that takes matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from marl.types import ConfigError

try:
    from matplotlib.figure import Figure
except ImportError:
    raise ConfigError("matplotlib is not installed: pip install 'marl-system[plot]'") from None

Rows = Sequence[Mapping[str, float]]
MOST_PANELS = 20  # of one picture


class Curves(Figure):
    """A figure of matplotlib that shows itself in a notebook; ``savefig(file)`` writes it, ``axes`` are its panels."""

    def _repr_png_(self) -> bytes:
        return self.png()

    def png(self, kind: str = "png") -> bytes:
        """The picture as a file of some kind."""
        picture = io.BytesIO()
        self.savefig(picture, format=kind, dpi=120)
        return picture.getvalue()


def curves(tables: Sequence[tuple[str, str, Rows]], names: Sequence[str] = ()) -> Curves:
    """Metrics over environment steps.

    Args:
        tables: a line each: what an error calls it, what the legend calls it, rows of metrics.
        names: of metrics, a panel each; empty: returns, a panel for each team too, evaluations as dots.

    Raises:
        ConfigError: if a table has no such metric.
    """
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
    panels = (list(names) or ["mean_return", *sorted(of_teams)])[:MOST_PANELS]
    figure = Curves(figsize=(7.0, 0.6 + 3.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, name in zip(axes, panels, strict=True):
        for place, (_, label, rows) in enumerate(tables):
            color = f"C{place % 10}"
            axis.plot(*column(rows, name), color=color, label=_plain(label))
            if name == "mean_return":
                x, y = column(rows, "evaluation_return")
                if x:
                    axis.plot(x, y, "o--", color=color, markersize=3, linewidth=0.8, label="evaluation (greedy)")
        axis.set_ylabel(_plain(_words(name)))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[-1].set_xlabel("environment steps (all copies)")
    return figure


def column(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric, where it was logged and is a number."""
    pairs = [(row["steps"], row[name]) for row in rows if "steps" in row and math.isfinite(row.get(name, math.nan))]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _words(name: str) -> str:
    team, _, metric = name.rpartition("/")
    if metric != "mean_return":
        return name
    return f"return, sum over {team or 'all agents'}"


def _plain(text: str) -> str:
    """No mathematics, no line breaks; a leading underscore would hide a label."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$").lstrip("_")[:100]
