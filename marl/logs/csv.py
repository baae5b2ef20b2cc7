"""Metrics as a table of comma-separated values."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from marl import files
from marl.logs.files import replace_file
from marl.logs.logger import LoggedRun, Sink
from marl.types import ConfigError

LARGEST = 2**30  # bytes of a table that a resumed run goes on with


@dataclass(frozen=True)
class CSV:
    """A table with a column for each metric and a row for each row of metrics; what a row has not is left empty.

    Args:
        file: where to write it; None: ``metrics.csv`` in the run's folder.
    """

    file: str | Path | None = None

    def build(self, run: LoggedRun) -> Sink:
        """Begin the table, or go on with it. Raises ConfigError where there is no folder, or no table may be."""
        file = Path(self.file) if self.file is not None else run.folder and run.folder / "metrics.csv"
        if file is None:
            raise ConfigError("CSV.file: this run has no folder; say where to write: CSV('metrics.csv')")
        return Table(file, run.resumed_at, run.note)


class Table:
    """Writes rows to a file; a disk that refuses loses none, since they wait in memory."""

    def __init__(
        self, file: Path, resumed_at: int | None = None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        """``resumed_at``: earlier rows stay, later ones are dropped. None: a table that is there is replaced."""
        self._file, self._note = Path(file), note
        self._rows = [] if resumed_at is None else _rows_until(self._file, resumed_at)
        self._columns = list(dict.fromkeys(name for row in self._rows for name in row))
        self._whole, self._failed = False, False  # whether the file holds all rows; whether that was said

    def log(self, metrics: Mapping[str, float]) -> None:
        """Append a row; a metric that is new is a new column, and the table is written anew."""
        row = {name: _cell(value) for name, value in metrics.items()}
        new = [name for name in row if name not in self._columns]
        self._rows.append(row)
        self._columns += new
        try:
            if self._whole and not new and self._file.is_file():
                self._append(row)
            else:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                header = {name: name for name in self._columns}
                replace_file(self._file, self._text([header, *self._rows]))
            self._whole, self._failed = True, False
        except OSError as error:
            self._whole = False
            if not self._failed:
                self._note(f"{self._file} could not be written ({error.strerror or error}); training goes on")
            self._failed = True

    def tick(self, steps: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing is open."""

    def _append(self, row: Mapping[str, str]) -> None:
        file = files.opened(self._file, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(file, "wb") as opened:
            opened.write(self._text([row]))

    def _text(self, rows: list[Mapping[str, str]]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([row.get(name, "") for name in self._columns] for row in rows)
        return text.getvalue().encode()


def _cell(value: float) -> str:
    """A number that comes back as it was; nothing for what is none."""
    number = float(value)
    if not math.isfinite(number):
        return ""
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _rows_until(file: Path, steps: int) -> list[Mapping[str, str]]:
    """The rows of a table up to a step; of a damaged one as many as make sense. Raises ConfigError."""
    try:
        text = files.read(file, LARGEST).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    text = text[: text.rfind("\n") + 1]  # the last line may have been cut short
    found: list[Mapping[str, str]] = []
    try:
        for row in csv.DictReader(io.StringIO(text)):
            cells = {name: cell for name, cell in row.items() if isinstance(name, str) and isinstance(cell, str)}
            try:
                late = float(cells["steps"]) > steps
            except (KeyError, ValueError):
                continue
            if not late:
                found.append(cells)
    except csv.Error:
        pass  # what came before it makes sense
    return found
