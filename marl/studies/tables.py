"""Tables of a comparison, as text, Markdown, LaTeX, and one tidy table of all numbers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marl.playing.intervals import INDISTINCT
from marl.studies.comparison import Comparison, Pair
from marl.studies.statistics import Estimate

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NAMES = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}
LEAST_IS_BEST = ("optimality_gap",)
LATEX = str.maketrans(
    {
        **{one: rf"\{one}" for one in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)
MARKDOWN = str.maketrans({one: f"\\{one}" for one in "\\|*_`<>[]"})


@dataclass(frozen=True)
class Cell:
    """A text in a table.

    text: as it is shown.
    best: whether it is the best of its column.
    """

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of texts under a title; the first cell of each row names it.

    title: what is in it.
    head: names of the columns.
    rows: a cell for each column.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def to_text(self) -> str:
        """Columns of equal width; the best of each column has a star."""
        texts = [self.head, *([cell.text + " *" * cell.best for cell in row] for row in self.rows)]
        widths = [max(len(row[place]) for row in texts) for place in range(len(self.head))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(one.rjust(n) for one, n in zip(row[1:], widths[1:], strict=True))])
            for row in texts
        ]
        return "\n".join([self.title, *(line.rstrip() for line in lines)])

    def to_markdown(self) -> str:
        """A table of Markdown under its title; the best of each column is bold."""

        def line(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        body = [
            line([f"**{_markdown(cell.text)}**" if cell.best else _markdown(cell.text) for cell in row])
            for row in self.rows
        ]
        rule = line(["---", *["---:"] * (len(self.head) - 1)])
        return "\n".join([f"{_markdown(self.title)}", "", line(list(map(_markdown, self.head))), rule, *body])

    def to_latex(self) -> str:
        """A ``tabular`` of LaTeX (package ``booktabs``) under its title; the best of each column is bold."""

        def line(cells: Sequence[str]) -> str:
            return f"  {' & '.join(cells)} \\\\"

        body = [
            line([rf"\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text) for cell in row])
            for row in self.rows
        ]
        head = line(list(map(_latex, self.head)))
        columns = "l" + "r" * (len(self.head) - 1)
        return "\n".join(
            [
                f"% {self.title}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"  \toprule",
                head,
                r"  \midrule",
                *body,
                r"  \bottomrule",
                r"\end{tabular}",
            ]
        )

    def to_rich(self) -> RichTable:
        """As rich draws it on a terminal; the best of each column is bold."""
        from rich.table import Table as RichTable
        from rich.text import Text

        made = RichTable(title=Text(self.title), title_justify="left", title_style="", pad_edge=False, box=None)
        for place, name in enumerate(self.head):
            made.add_column(Text(name), justify="right" if place else "left", no_wrap=not place)
        for row in self.rows:
            made.add_row(*(Text(cell.text, style="bold" if cell.best else "") for cell in row))
        return made

    def __str__(self) -> str:
        """As text."""
        return self.to_text()


def _markdown(text: str) -> str:
    return text.translate(MARKDOWN)


def _latex(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(LATEX))


def tables(made: Comparison) -> tuple[Table, ...]:
    """The tables of a comparison: scores by task, aggregates, pairs, times; those that have no rows are left out."""
    every = (_by_task(made), _aggregates(made), _pairs(made), _times(made))
    return tuple(table for table in every if table.rows)


def _interval(made: Comparison) -> str:
    return f"{100 * made.level:g} % CI over seeds"


def _by_task(made: Comparison) -> Table:
    rows = []
    best = {
        task: max(made.entries[task, name].mean.value for name in made.algorithms if (task, name) in made.entries)
        for task in made.tasks
        if any((task, name) in made.entries for name in made.algorithms)
    }
    if made.normalized:  # the best known may be the lowest
        best = {}
        for task in made.tasks:
            means = {
                name: sum(entry.normalized or ()) / len(entry.seeds)
                for name in made.algorithms
                if (entry := made.entries.get((task, name))) is not None
            }
            if means:
                best[task] = made.entries[task, max(means, key=means.__getitem__)].mean.value
    for name in made.algorithms:
        cells = [Cell(name)]
        for task in made.tasks:
            entry = made.entries.get((task, name))
            if entry is None:
                cells.append(Cell("no run"))
                continue
            text = f"{said(entry.mean)}  n={len(entry.seeds)}"
            rivals = sum((task, other) in made.entries for other in made.algorithms)
            cells.append(Cell(text, rivals > 1 and entry.mean.value == best[task]))
        rows.append(tuple(cells))
    head = [f"{task} at {made.steps[task]:,}" for task in made.tasks]
    title = f"{made.metric}: mean over seeds ({_interval(made)}) and number of seeds, by task at a step"
    return Table(title, ("algorithm", *head), tuple(rows))


def _aggregates(made: Comparison) -> Table:
    names = list(next(iter(made.aggregates.values()), {}))
    best = {
        name: (min if name in LEAST_IS_BEST else max)(found[name].value for found in made.aggregates.values())
        for name in names
    }
    rows = tuple(
        (
            Cell(algorithm),
            *(Cell(said(found[name]), len(made.aggregates) > 1 and found[name].value == best[name]) for name in names),
        )
        for algorithm, found in made.aggregates.items()
    )
    scores = "normalized scores (0: random, 1: best known)" if made.normalized else made.metric
    title = f"{scores} over all seeds of {len(made.tasks)} task{'s' * (len(made.tasks) != 1)} ({_interval(made)})"
    return Table(title, ("algorithm", *(NAMES[name] for name in names)), rows)


def _pairs(made: Comparison) -> Table:
    rows = tuple(_pair(made, pair) for pair in made.pairs)
    head = ("pair", "P(first higher)", "difference", "p (Holm)", "pairs", "seeds needed", "")
    title = (
        f"pairs: probability that a run of the first scores higher; difference over the same seeds in {made.unit} "
        f"({_interval(made)}); seeds of each task that would tell them apart"
    )
    return Table(title, head, rows)


def _pair(made: Comparison, pair: Pair) -> tuple[Cell, ...]:
    name = Cell(f"{pair.one} - {pair.other}")
    better = Cell(said(pair.improvement))
    if pair.difference is None or pair.corrected is None:
        return name, better, Cell("no seeds in common"), Cell(""), Cell("0"), Cell(""), Cell("")
    told = pair.distinguishable(made.level)
    winner = pair.one if pair.difference.value > 0 else pair.other
    return (
        name,
        better,
        Cell(said(pair.difference)),
        Cell(f"{pair.corrected:.2g}"),
        Cell(str(pair.seeds)),
        Cell("?" if pair.needed is None else f"about {pair.needed:,}"),
        Cell(f"{winner} is better" if told else INDISTINCT),
    )


def _times(made: Comparison) -> Table:
    rows = []
    for (task, name), found in made.times.items():
        reached = f"{sum(found.reached)} of {len(found.reached)}"
        rows.append((Cell(f"{task}, {name}"), Cell(reached), Cell(_steps(found.median))))
    threshold = next((found.threshold for found in made.times.values()), 0.0)
    unit = "normalized score" if made.normalized else made.over_time
    title = f"steps until {unit} {threshold:g}: median (Kaplan and Meier; {_interval(made)}), censored runs counted"
    return Table(title, ("task, algorithm", "reached", "median steps"), tuple(rows))


def _steps(median: Estimate) -> str:
    value, low, high = (
        "not reached" if math.isinf(one) else f"{one:,.0f}" for one in (median.value, median.low, median.high)
    )
    return f"{value} [{low}, {high}]" if median.known else value


def said(found: Estimate) -> str:
    """A number with its interval, ``0.57 [0.52, 0.62]``, with as many digits as tell its ends apart, three at most."""
    apart = found.high - found.low if found.known else abs(found.value) / 10
    most = 3 if abs(found.value) >= 0.01 else 6
    digits = 2 if not apart > 0 else min(max(1 - math.floor(math.log10(apart)), 0), most)
    if not found.known:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


COLUMNS = ("kind", "task", "algorithm", "other", "name", "x", "value", "low", "high", "runs")


def to_csv(made: Comparison) -> str:
    """All numbers as one tidy table of comma-separated values; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(
        kind: str, task: str, algorithm: str, other: str, name: str, x: object, found: Estimate, n: object
    ) -> None:
        numbers = [repr(one) if math.isfinite(one) else "" for one in (found.value, found.low, found.high)]
        writer.writerow((kind, task, algorithm, other, name, x, *numbers, n))

    for (task, name), entry in made.entries.items():
        write("score", task, name, "", "mean", made.steps[task], entry.mean, len(entry.seeds))
        for seed, score in zip(entry.seeds, entry.scores, strict=True):
            write("run", task, name, "", f"seed {seed}", made.steps[task], Estimate(score), 1)
    for name, all_ in made.aggregates.items():
        for statistic, one in all_.items():
            write("aggregate", "", name, "", statistic, "", one, "")
    for pair in made.pairs:
        write("pair", "", pair.one, pair.other, "probability_of_improvement", "", pair.improvement, "")
        if pair.difference is not None and pair.p is not None and pair.corrected is not None:
            write("pair", "", pair.one, pair.other, "difference", "", pair.difference, pair.seeds)
            write("pair", "", pair.one, pair.other, "p", "", Estimate(pair.p), pair.seeds)
            write("pair", "", pair.one, pair.other, "p_holm", "", Estimate(pair.corrected), pair.seeds)
    for (task, name), times in made.times.items():
        write("time", task, name, "", "median", times.threshold, times.median, len(times.steps))
    bands = [
        *(("curve", task, name, band) for (task, name), band in made.curves.items()),
        *(("curve", "", name, band) for name, band in made.overall.items()),
        *(("profile", "", name, band) for name, band in made.profiles.items()),
    ]
    for kind, task, name, band in bands:
        for x, value, low, high, runs in zip(band.x, band.value, band.low, band.high, band.runs, strict=True):
            write(kind, task, name, "", "", repr(float(x)), Estimate(float(value), float(low), float(high)), int(runs))
    return text.getvalue()
