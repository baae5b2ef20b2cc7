"""Sweeps: the return of a trained team as a function of message loss, delay, noise and the like."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from marl.channels import Link
from marl.config import unknown
from marl.notebook import html_table
from marl.playing.intervals import INDISTINCT, Difference, interval_text
from marl.playing.report import Report
from marl.system import MultiAgentSystem
from marl.types import ConfigError

WHOLE = ("floats", "bits", "budget", "delay")
MOST_POINTS = 1000
COLUMNS = ("effect", "value", "mean_return", "low", "high")  # of a table in a file


@dataclass(frozen=True)
class Point:
    """The return under one link; ``low`` to ``high`` is its 95 % bootstrap interval over episodes.

    change: how much larger it is than as trained, in the same episodes; None: this is as trained.
    """

    value: float
    mean_return: float
    low: float
    high: float
    change: Difference | None = None

    @classmethod
    def of(cls, value: float, report: Report, plain: Report | None = None) -> Point:
        """From an evaluation, and that under the channel's own link."""
        change = None if plain is None else report.minus(plain)
        return cls(value, report.mean_return, *report.confidence_interval, change)


@dataclass(frozen=True)
class Sweep:
    """Returns (sum over agents) as a function of a link's settings.

    Args:
        episodes: of each point.
        plain: under the channel's own link.
        silent: while nobody says a word.
        curves: the points of each effect of a link.
    """

    episodes: int
    plain: Point
    silent: Point
    curves: dict[str, tuple[Point, ...]]

    @property
    def points(self) -> list[tuple[str, str, Point]]:
        """Effect, value in words, and what was found."""
        found = [("as trained", "", self.plain), ("silent", "", self.silent)]
        return found + [(effect, f"{one.value:g}", one) for effect, curve in self.curves.items() for one in curve]

    def rows(self) -> list[tuple[str, str, float, float, float]]:
        """Effect, value, return, and the bounds of its interval."""
        return [(effect, value, one.mean_return, one.low, one.high) for effect, value, one in self.points]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = [
            {**dict(zip(COLUMNS, row, strict=True)), "change": None if one.change is None else one.change.to_dict()}
            for row, (_, _, one) in zip(self.rows(), self.points, strict=True)
        ]
        return {"episodes": self.episodes, "points": found}

    def __repr__(self) -> str:
        """What was swept; ``print`` shows the table."""
        return f"<Sweep: {', '.join(self.curves)}; {self.episodes} episodes each>"

    def _repr_html_(self) -> str:
        """The return under every link."""
        head = ("link", "value", "return", "95 % CI over episodes", "change", "95 % CI over episodes", "")
        return html_table(f"{self.episodes} episodes each, the same ones", self._cells(), head)

    def _cells(self) -> list[tuple[str, ...]]:
        """The table, a text for each cell."""
        cells: list[tuple[str, ...]] = []
        for effect, value, one in self.points:
            change = ("", "", "")
            if one.change is not None:
                interval = interval_text(*one.change.confidence_interval)
                change = (f"{one.change.mean:+.2f}", interval, "" if one.change.distinguishable else INDISTINCT)
            cells.append((effect, value, f"{one.mean_return:.2f}", interval_text(one.low, one.high), *change))
        return cells

    def __str__(self) -> str:
        """A table, and what its columns are."""
        lines = [f"{'link':<12} {'value':>8} {'return':>10}   {'interval':<22} {'change':>10}   interval"]
        for effect, value, mean, interval, change, apart, said in self._cells():
            row = f"{effect:<12} {value:>8} {mean:>10}   {interval:<22} {change:>10}   {apart:<22} {said}"
            lines.append(row.rstrip())
        lines.append(f"return: sum over agents, mean of {self.episodes:,} episodes, the same ones under every link")
        lines.append("change: the return less that as trained, episode by episode; intervals: 95 % CI over episodes")
        return "\n".join(lines)


def parse_effect(text: str) -> tuple[str, tuple[float, ...]]:
    """``"loss=0,0.1,0.5"`` or ``"loss=0:1:0.1"`` (first, last, step). Raises ConfigError."""
    name, equals, rest = (part.strip() for part in text.partition("="))
    known = [one.name for one in fields(Link)]
    if not equals or not rest:
        raise ConfigError(f"sweep: expected EFFECT=NUMBER,... or EFFECT=FIRST:LAST:STEP, got {text!r}")
    if name not in known:
        raise ConfigError(unknown("sweep", name, known, "effect"))
    kind = int if name in WHOLE else float
    try:
        if ":" in rest:
            first, last, step = map(float, rest.split(":"))
            if not (step > 0 and last >= first and (last - first) / step < MOST_POINTS):
                raise ValueError
            numbers = [str(round(first + step * k, 10)) for k in range(int((last - first) / step + 1e-9) + 1)]
            values = [float(number) for number in numbers]
            if kind is int and any(value != int(value) for value in values):
                raise ValueError
        else:
            values = [kind(part) for part in rest.split(",")]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"sweep: {name}: expected {wanted}, NUMBER,... or FIRST:LAST:STEP, got {rest!r}") from None
    return name, tuple(float(value) for value in values)


def sweep(
    system: MultiAgentSystem, effects: Sequence[str], episodes: int = 100, seed: int | None = None, greedy: bool = True
) -> Sweep:
    """Evaluate a system under one link after the other, in the same episodes each time.

    Args:
        system: whose agents talk.
        effects: such as ``"loss=0,0.1,0.5"`` or ``"delay=0:4:1"``, a curve each.
        episodes: of each point.
        seed: of all of them; None: the system's own.
        greedy: take the most likely action; False samples.

    Raises:
        ConfigError: if nobody talks, or a link makes no sense.
    """
    wanted: dict[str, tuple[float, ...]] = {}
    for name, values in map(parse_effect, effects):
        if name in wanted:
            raise ConfigError(f"sweep: {name} is named twice; give all of its values at once")
        wanted[name] = values
    if not wanted:
        raise ConfigError("sweep: name an effect, such as loss=0,0.1,0.5")
    links = {
        (name, value): f"{name}={int(value) if name in WHOLE else value}"
        for name, values in wanted.items()
        for value in values
    }
    for link in links.values():
        Link.parse(link)  # whatever makes no sense is said before anything is played

    def played(link: str | None = None, silence: Sequence[str] = ()) -> Report:
        return system.evaluate(episodes, seed=seed, greedy=greedy, link=link, silence=silence)

    plain = played("")
    talking = [
        name
        for team, channel in zip(system.spec.teams, system.setup.channels, strict=True)
        if channel is not None or system.spoken is not None
        for name in team.agents
    ]
    silent = Point.of(np.nan, played(silence=talking), plain)
    curves = {
        name: tuple(Point.of(value, played(links[name, value]), plain) for value in values)
        for name, values in wanted.items()
    }
    return Sweep(episodes, Point.of(np.nan, plain), silent, curves)


def write_csv(result: Sweep, out: Path) -> Path:
    """One row for each point."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(result.rows())
    return out


def plot(result: Sweep, out: Path) -> Path:
    """Draw a panel for each effect: return with its interval. Raises ConfigError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("matplotlib is not installed: pip install 'marl-system[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 3.6 * len(result.curves), 3.6), layout="constrained")
    axes = figure.subplots(1, len(result.curves), squeeze=False, sharey=True)[0]
    for axis, (effect, curve) in zip(axes, result.curves.items(), strict=True):
        x = [point.value for point in curve]
        axis.fill_between(x, [p.low for p in curve], [p.high for p in curve], alpha=0.2, linewidth=0)
        axis.plot(x, [point.mean_return for point in curve], "o-", markersize=4)
        for level, name, style in ((result.plain, "as trained", "--"), (result.silent, "silent", ":")):
            axis.axhline(level.mean_return, linestyle=style, color="0.4", linewidth=1, label=name)
        axis.set_xlabel(effect)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("return, sum over agents (95 % CI over episodes)")
    axes[0].legend(fontsize="small")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out
