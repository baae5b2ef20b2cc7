"""Learning curves kept as tables, and their picture.

    python -m tests.benchmarks.curves docs/curves docs/img/curves.png

`learning` writes the tables: greedy returns of 100 episodes, sums over all agents, 20 times in a training.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

POINTS = 20  # evaluations of one training


class Point(NamedTuple):
    """One evaluation on the way; ``steps`` are of the environment, all copies counted."""

    seed: int
    steps: int
    result: float


def read(path: Path) -> list[Point]:
    """The points of a table, none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [Point(int(row["seed"]), int(row["steps"]), float(row["return"])) for row in csv.DictReader(file)]


def keep(path: Path, points: Sequence[Point]) -> None:
    """Put a seed's curve into a table, in the place of an earlier one of that seed."""
    seeds = {point.seed for point in points}
    rows = sorted([*(point for point in read(path) if point.seed not in seeds), *points])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("seed", "steps", "return"), *rows])


def draw(tables: Sequence[Path], out: Path) -> None:
    """One panel for each table: a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    columns = 4
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, table in zip(axes, tables, strict=False):
        points = read(table)
        for seed in sorted({point.seed for point in points}):
            own = [point for point in points if point.seed == seed]
            axis.plot([point.steps for point in own], [point.result for point in own], linewidth=1.2)
        axis.set_title(table.stem, fontsize="medium")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
    for axis in axes[len(tables) :]:
        axis.set_axis_off()
    figure.supxlabel("environment steps")
    figure.supylabel("greedy return, sum over agents")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all tables of a folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.curves", description="Draw learning curves.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args(arguments)
    draw(sorted(options.folder.glob("*.csv")), options.picture)


if __name__ == "__main__":
    main()
