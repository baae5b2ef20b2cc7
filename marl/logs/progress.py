"""Training on the screen: a live display on a terminal, a line that rewrites itself in a notebook, else plain lines."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from marl.compiling import telling
from marl.logs.logger import LoggedRun
from marl.training.history import Rate

BLOCKS = "▁▂▃▄▅▆▇█"
REDRAW_SECONDS = 0.25
LINE_SECONDS = 5.0  # between two plain lines
# Metrics of curricula and leagues that are shown, by how their names end (a team's may stand before): label, format.
SHOWN = {
    "curriculum/stage": ("stage", "{:.0f}"),
    "league/rating": ("rating", "{:.4g}"),
    "league/win_rate": ("win rate", "{:.0%}"),
    "league/iteration": ("iteration", "{:.0f}"),
    "league/gain": ("gain of responses", "{:.3g}"),
}


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The course of some numbers in one row of characters, each the mean of its share; the last ones at the right."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [len(finite) * place // count for place in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    span = high - low
    return "".join(BLOCKS[int((mean - low) / span * 7.999)] if span > 0 else BLOCKS[3] for mean in means)


def duration(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def in_notebook(stream: object) -> bool:
    """Whether what is written there appears below a notebook's cell."""
    return type(stream).__module__.startswith("ipykernel")


@dataclass(frozen=True)
class Screen:
    """Progress on the screen, as a logger.

    Args:
        total: steps of the whole run, or None.
        teams: team names.
    """

    total: int | None
    teams: tuple[str, ...]

    def build(self, run: LoggedRun) -> Progress:
        """Begin to show it."""
        return Progress(self.total, self.teams, run.resumed_at or 0)


class Progress:
    """Steps, speed, time left, the return of every team with its course so far, stages of curricula, leagues' ratings.

    Speed and time left are those of the last half minute. Compilation is told in a line and does not count.

    Args:
        total: steps of the whole run, or None.
        teams: team names; with more than one, each has a line of its own.
        start: steps already taken when this process began.
        stream: where to draw; a live display if it is a terminal. None: stderr, but below the cell of a notebook.
    """

    def __init__(self, total: int | None, teams: Sequence[str], start: int = 0, stream: TextIO | None = None) -> None:
        """Nothing is drawn before the first tick."""
        stream = stream if stream is not None else sys.stdout if in_notebook(sys.stdout) else sys.stderr
        self._console = Console(file=stream, highlight=False, force_jupyter=False)
        self._rewrites, self._width = in_notebook(stream), 0
        self._unicode = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "") == "utf8"
        self._stream = stream
        self._total, self._steps = total, start
        names = list(teams)
        self._keys = [("return", "mean_return")]
        if len(names) > 1:
            self._keys = [(name, f"{name}/mean_return") for name in names]
        self._courses: dict[str, list[float]] = {key: [] for _, key in self._keys}
        self._evaluation: float | None = None
        self._shown: dict[str, str] = {}
        self._rate: Rate | None = None  # from the first step on: environments may take long to open
        self._drawn = -math.inf
        self._live: Live | None = None
        if self._console.is_terminal and not self._rewrites and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        self._open = contextlib.ExitStack()
        self._open.enter_context(telling(self.note))

    def log(self, metrics: Mapping[str, float]) -> None:
        """Take in a row."""
        self._at(int(metrics.get("steps", self._steps)))
        for key, course in self._courses.items():
            if key in metrics:
                course.append(metrics[key])
        self._evaluation = metrics.get("evaluation_return", self._evaluation)
        for name, value in metrics.items():
            team, ending = (parts := name.split("/"))[:-2], "/".join(parts[-2:])
            if ending in SHOWN:
                label, form = SHOWN[ending]
                self._shown[" ".join([label, *team])] = form.format(value)
        now = time.monotonic()
        if self._rewrites:
            self._rewrite()
        elif self._live is None and (now - self._drawn >= LINE_SECONDS or self._done):
            self._drawn = now
            self._print(self.line())

    def tick(self, steps: int) -> None:
        """Redraw if it is time."""
        self._at(steps)
        if (self._live is not None or self._rewrites) and time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def _at(self, steps: int) -> None:
        """Training has come so far."""
        if self._rate is None:
            self._rate = Rate(steps)
        self._steps = steps

    def note(self, text: str) -> None:
        """Say something without disturbing the display."""
        if self._live is None:
            self._print(f"\r{text:<{self._width}}" if self._rewrites else text)
            return
        with contextlib.suppress(OSError):
            self._console.print(Text(text))

    def _rewrite(self) -> None:
        """The line again, over the last one."""
        self._drawn = time.monotonic()
        line = self.line()
        with contextlib.suppress(OSError):
            print(f"\r{line:<{self._width}}", end="", file=self._stream, flush=True)
        self._width = len(line)

    def _print(self, text: str) -> None:
        """A line, if it can be written: a full disk under a log file, or a closed terminal, ends no training."""
        with contextlib.suppress(OSError):
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Draw once more, and leave the screen as it is."""
        if self._rewrites:
            self._rewrite()
            self._print("")
            self._rewrites = False
        if self._live is not None:
            self._draw()
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None
        self._open.close()

    @property
    def _done(self) -> bool:
        return self._total is not None and self._steps >= self._total

    @property
    def rate(self) -> float:
        """Environment steps per second lately; 0 while nobody can know."""
        return 0.0 if self._rate is None else self._rate(self._steps)

    @property
    def left(self) -> float:
        """Seconds to go, at this rate."""
        rate = self.rate
        return math.inf if self._total is None or rate <= 0 else max(0, self._total - self._steps) / rate

    def line(self) -> str:
        """Everything in one plain line."""
        of = "" if self._total is None else f"/{self._total:,} ({min(1.0, self._steps / self._total):.0%})"
        parts = [f"steps {self._steps:,}{of}", *([_speed(rate)] if (rate := self.rate) > 0 else [])]
        parts += [f"{label} {course[-1]:.2f}" for (label, _), course in self._labeled() if course]
        if self._evaluation is not None:
            parts.append(f"evaluation {self._evaluation:.2f}")
        parts += [f"{label} {value}" for label, value in self._shown.items()]
        if self._total is not None:
            parts.append(f"time left {duration(self.left)}")
        return "  ".join(parts)

    def _labeled(self) -> list[tuple[tuple[str, str], list[float]]]:
        return [((label, key), self._courses[key]) for label, key in self._keys]

    def _draw(self) -> None:
        if self._rewrites:
            self._rewrite()
            return
        self._drawn = time.monotonic()
        table = Table.grid(padding=(0, 2))
        of = "" if self._total is None else f" / {self._total:,}"
        speed = _speed(rate) if (rate := self.rate) > 0 else ""
        left = "" if self._total is None else f"{duration(self.left)} left"
        bar = ProgressBar(total=self._total, completed=min(self._steps, self._total or self._steps), width=24)
        table.add_row(
            Text("steps"), Text(f"{self._steps:,}{of}", justify="right"), bar if self._total else "", f"{speed}  {left}"
        )
        for (label, _), course in self._labeled():
            now = f"{course[-1]:.2f}" if course else "-"
            best = f"best {max(course):.2f}" if course else ""
            table.add_row(Text(label), Text(now, justify="right"), sparkline(course) if self._unicode else "", best)
        if self._evaluation is not None:
            table.add_row("evaluation", Text(f"{self._evaluation:.2f}", justify="right"), "", "")
        for label, value in self._shown.items():
            table.add_row(label, Text(value, justify="right"), "", "")
        assert self._live is not None
        with contextlib.suppress(OSError):
            self._live.update(table, refresh=True)


def _speed(rate: float) -> str:
    return f"{rate:,.0f} steps/s" if rate >= 10 else f"{rate:.2g} steps/s"
