"""Learning curves of one or several runs as a picture (extra ``plot``)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from marl.logs.files import replace_file
from marl.logs.metrics import column, read_metrics
from marl.types import ConfigError

MOST_PANELS = 20  # of one picture


def plot_curves(runs: Sequence[Path], out: Path) -> Path:
    """Draw returns over environment steps: training returns as lines, evaluations as dots; one panel per team.

    Raises:
        ConfigError: if a run has no metrics, or matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("matplotlib is not installed: pip install 'marl-system[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    tables = {run: read_metrics(run) for run in runs}
    for run, rows in tables.items():
        if not any("mean_return" in row for row in rows):
            raise ConfigError(
                f"{run}: there is nothing to plot yet: no episode had ended when metrics were last logged"
            )
    names = {name for rows in tables.values() for row in rows for name in row if name.endswith("/mean_return")}
    panels = ["mean_return", *sorted(names)][:MOST_PANELS]
    figure = Figure(figsize=(7.0, 0.6 + 3.4 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, name in zip(axes, panels, strict=True):
        for place, (run, rows) in enumerate(tables.items()):
            x, y = column(rows, name)
            color = f"C{place % 10}"
            axis.plot(x, y, color=color, label=_plain(Path(run).resolve().name))
            if name == "mean_return":
                x, y = column(rows, "evaluation_return")
                if x:
                    axis.plot(x, y, "o--", color=color, markersize=3, linewidth=0.8, label="evaluation (greedy)")
        what = "all agents" if name == "mean_return" else name.removesuffix("/mean_return")
        axis.set_ylabel(_plain(f"return, sum over {what}"))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    axes[-1].set_xlabel("environment steps (all copies)")
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format=out.suffix[1:] or "png", dpi=120)
    replace_file(out, picture.getvalue())  # it may lie in a run folder: never through a link
    return out


def _plain(text: str) -> str:
    """No mathematics, no line breaks; a leading underscore would hide a label."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$").lstrip("_")[:100]
