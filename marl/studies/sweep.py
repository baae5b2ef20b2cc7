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
from marl.playing.report import Report
from marl.system import MultiAgentSystem
from marl.types import ConfigError

WHOLE = ("floats", "bits", "budget", "delay")
MOST_POINTS = 1000


@dataclass(frozen=True)
class Point:
    """The return under one link; ``low`` to ``high`` is its 95 % bootstrap interval."""

    value: float
    mean_return: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, report: Report) -> Point:
        """From an evaluation."""
        return cls(value, report.mean_return, *report.confidence_interval)


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

    def rows(self) -> list[tuple[str, str, float, float, float]]:
        """Effect, value, return, and the bounds of its interval."""
        found = [("as trained", "", self.plain), ("silent", "", self.silent)]
        found += [(effect, f"{point.value:g}", point) for effect, curve in self.curves.items() for point in curve]
        return [(effect, value, point.mean_return, point.low, point.high) for effect, value, point in found]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("effect", "value", "mean_return", "low", "high")
        return {"episodes": self.episodes, "points": [dict(zip(names, row, strict=True)) for row in self.rows()]}

    def __repr__(self) -> str:
        """What was swept; ``print`` shows the table."""
        return f"<Sweep: {', '.join(self.curves)}; {self.episodes} episodes each>"

    def _repr_html_(self) -> str:
        """The return under every link."""
        head = ("link", "value", "return", "low", "high")
        return html_table(f"95 % CI, {self.episodes} episodes each", self.rows(), head)

    def __str__(self) -> str:
        """A table."""
        lines = [f"{'link':<12} {'value':>8} {'return':>10}   95 % CI ({self.episodes} episodes each)"]
        for effect, value, mean, low, high in self.rows():
            lines.append(f"{effect:<12} {value:>8} {mean:>10.2f}   {low:.2f} to {high:.2f}")
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

    def point(value: float, link: str | None = None, silence: Sequence[str] = ()) -> Point:
        return Point.of(value, system.evaluate(episodes, seed=seed, greedy=greedy, link=link, silence=silence))

    plain = point(np.nan, "")
    talking = [
        name
        for team, channel in zip(system.spec.teams, system.setup.channels, strict=True)
        if channel is not None or system.spoken is not None
        for name in team.agents
    ]
    silent = point(np.nan, silence=talking)
    curves = {name: tuple(point(value, links[name, value]) for value in values) for name, values in wanted.items()}
    return Sweep(episodes, plain, silent, curves)


def write_csv(result: Sweep, out: Path) -> Path:
    """One row for each point."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("effect", "value", "mean_return", "low", "high"))
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
    axes[0].set_ylabel("return, sum over agents")
    axes[0].legend(fontsize="small")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return out
