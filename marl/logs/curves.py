"""Learning curves of one or several runs as a picture (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from marl.logs.files import replace_file
from marl.logs.metrics import read_metrics


def plot_curves(runs: Sequence[Path], out: Path) -> Path:
    """Draw returns over environment steps: training returns as lines, evaluations as dots; one panel per team.

    Raises:
        ConfigError: if a run has no metrics, or matplotlib is not installed.
    """
    from marl.training.curves import curves

    tables = [(str(run), Path(run).resolve().name, read_metrics(run)) for run in runs]
    picture = curves(tables).png(out.suffix[1:] or "png")
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, picture)  # it may lie in a run folder: never through a link
    return out
