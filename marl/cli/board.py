"""How far a study has come, on the screen: a live table on a terminal, else a line for each cell that ends."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from marl.cli.cells import PlannedCell
    from marl.studies.study_folder import CellState

LOOK_SECONDS = 1.0  # between two looks at the metrics of what trains
MOST_ROWS = 40  # of the live table
HEAD = ("task", "algorithm", "finished", "steps", "return", "time left")


@dataclass(frozen=True)
class Member:
    """A cell for the table: where it belongs, its steps, and how far it has come."""

    task: str
    algorithm: str
    steps: int
    state: CellState


@dataclass(frozen=True)
class Group:
    """The cells of an algorithm on a task.

    Args:
        task: which.
        algorithm: with what varies.
        finished: how many of them are.
        count: how many there are.
        done: environment steps so far, of all of them.
        steps: environment steps in all.
        value: the mean of their latest returns; NaN: there is none yet.
        running: how many train now.
        failed: how many failed or diverged.
        left: seconds of one process that are still to come; infinite: nobody can know.
    """

    task: str
    algorithm: str
    finished: int
    count: int
    done: int
    steps: int
    value: float
    running: int
    failed: int
    left: float

    def cells(self) -> tuple[str, ...]:
        """The row of the table, a text each."""
        from marl.logs.progress import duration

        marks = [f"{self.running} training"] * bool(self.running) + [f"{self.failed} failed"] * bool(self.failed)
        share = min(1.0, self.done / self.steps) if self.steps else 0.0
        return (
            self.task,
            self.algorithm,
            ", ".join([f"{self.finished}/{self.count}", *marks]),
            f"{self.done:,} of {self.steps:,} ({share:.0%})",
            "" if math.isnan(self.value) else f"{self.value:.2f}",
            "" if self.finished == self.count else duration(self.left),
        )


def groups(members: Sequence[Member]) -> list[Group]:
    """The rows of the table. What an algorithm has not yet shown of its speed is taken from the others' mean."""
    kinds: dict[tuple[str, str], list[Member]] = {}
    for one in members:
        kinds.setdefault((one.task, one.algorithm), []).append(one)
    common = _pace(members)
    found = []
    for (task, algorithm), own in kinds.items():
        states = [one.state for one in own]
        values = [state.value for state in states if state.value is not None and math.isfinite(state.value)]
        pace = _pace(own) or common
        to_do = sum(
            max(0, one.steps - one.state.steps)
            for one in own
            if one.state.status in ("waiting", "running", "interrupted")
        )
        found.append(
            Group(
                task,
                algorithm,
                sum(state.status == "finished" for state in states),
                len(own),
                sum(min(one.steps, one.state.steps) for one in own),
                sum(one.steps for one in own),
                sum(values) / len(values) if values else math.nan,
                sum(state.status == "running" for state in states),
                sum(state.status in ("failed", "diverged") for state in states),
                0.0 if not to_do else math.inf if pace is None else to_do * pace,
            )
        )
    return found


def _pace(members: Sequence[Member]) -> float | None:
    """Seconds for an environment step; None: nobody has taken one."""
    steps = sum(one.state.steps for one in members)
    return sum(one.state.seconds for one in members) / steps if steps else None


def text_table(rows: Sequence[Group]) -> str:
    """The table in plain text."""
    cells = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(HEAD))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


class Board:
    """Watches a :class:`~marl.cli.schedule.Schedule`.

    Args:
        title: of the table.
        states: how far every cell has come, by name.
        cells: all of them.
        jobs: processes that train side by side.
        quiet: show nothing.
    """

    def __init__(
        self, title: str, cells: Sequence[PlannedCell], states: Mapping[str, CellState], jobs: int, quiet: bool
    ) -> None:
        """Nothing is drawn before the first tick."""
        from rich.console import Console

        self._title, self._cells, self._states, self._jobs, self._quiet = title, cells, dict(states), jobs, quiet
        self._running: dict[str, PlannedCell] = {}
        self._looked = -math.inf
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None

    def __enter__(self) -> Board:
        """Begin to draw, where there is a terminal."""
        from rich.live import Live

        if not self._quiet and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Draw once more, and leave the screen as it is."""
        if self._live is not None:
            self._draw()
            with contextlib.suppress(OSError):
                self._live.stop()

    def began(self, cell: PlannedCell) -> None:
        """It trains now."""
        self._running[cell.name] = cell
        self._see(cell)

    def finished(self, cell: PlannedCell, seconds: float) -> None:
        """It is finished."""
        from marl.logs.progress import duration

        del self._running[cell.name]
        state = self._see(cell)
        value = "" if state.value is None else f"return {state.value:.2f} "
        self._say(f"{self._count()} {cell.name} finished: {value}in {duration(seconds)}{self._left()}")

    def failed(self, cell: PlannedCell, error: str, again: bool) -> None:
        """It ended badly."""
        from dataclasses import replace

        del self._running[cell.name]
        state = self._see(cell)
        if not again and state.status not in ("failed", "diverged"):
            self._states[cell.name] = replace(state, status="failed", error=error)
        then = "tried again from what it saved" if again else "left out"
        self._say(f"{self._count()} {cell.name}: {error}; {then}", important=True)

    def tick(self) -> None:
        """Look at what trains, and redraw."""
        if time.monotonic() - self._looked < LOOK_SECONDS or self._live is None:
            return
        self._looked = time.monotonic()
        for cell in list(self._running.values()):
            self._see(cell)
        self._draw()

    def rows(self) -> list[Group]:
        """The table as it is now."""
        return groups([Member(one.cell.task, one.cell.label, one.steps, self._states[one.name]) for one in self._cells])

    def _see(self, cell: PlannedCell) -> CellState:
        from marl.studies.study_folder import state_of

        self._states[cell.name] = state_of(cell.folder)
        return self._states[cell.name]

    def _count(self) -> str:
        done = sum(state.status == "finished" for state in self._states.values())
        return f"{done}/{len(self._cells)}"

    def _left(self) -> str:
        from marl.logs.progress import duration

        if all(state.status in ("finished", "failed", "diverged") for state in self._states.values()):
            return ""
        return f" (time left {duration(self._seconds_left())})"

    def _seconds_left(self) -> float:
        return sum(row.left for row in self.rows()) / self._jobs

    def _say(self, text: str, important: bool = False) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._console.print(text, markup=False)
        elif important or not self._quiet:
            with contextlib.suppress(OSError):
                print(text, file=sys.stderr, flush=True)

    def _draw(self) -> None:
        assert self._live is not None
        with contextlib.suppress(OSError):
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        rows = self.rows()
        title = f"{self._title}: {self._count()} finished, {len(self._running)} training{self._left()}"
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in HEAD:
            table.add_column(name, no_wrap=True)
        shown = sorted(rows, key=lambda row: (not row.running, row.finished == row.count))[:MOST_ROWS]
        for row in rows:
            if row in shown:
                table.add_row(*map(Text, row.cells()))
        if len(rows) > len(shown):
            table.add_row(f"and {len(rows) - len(shown)} more")
        return table
