"""Metrics of a run read as they are written: what is new since the last look, in columns."""

from __future__ import annotations

import math
import os
from array import array
from pathlib import Path

import numpy as np

from marl import files
from marl.logs.metrics import row_of
from marl.run.folder import METRICS
from marl.types import Array

CHUNK = 2**22  # bytes that are read at once
MOST_METRICS = 300
LONGEST_NAME = 200
Column = tuple["array[float]", "array[float]"]  # steps and values, where the value is finite


class MetricsReader:
    """The columns of one run's metrics file. The file may grow, be cut or be replaced between two looks.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing has been read yet."""
        self.path = folder / METRICS
        self._forget()
        self.trouble = ""  # why it cannot be read; empty while all is well

    def _forget(self) -> None:
        self.columns: dict[str, Column] = {}
        self.rows, self.torn, self.unplaced, self.left_out = 0, 0, 0, 0
        self._offset, self._file = 0, -1

    def read(self) -> bool:
        """Take in what is new; whether there was anything."""
        try:
            descriptor = files.opened(self.path, os.O_RDONLY)
        except FileNotFoundError:
            changed = self._offset > 0 or bool(self.trouble)
            self._forget()
            self.trouble = ""
            return changed
        except OSError as error:
            changed, self.trouble = not self.trouble, f"{METRICS} cannot be read ({error.strerror})"
            return changed
        with os.fdopen(descriptor, "rb") as file:
            there = os.fstat(file.fileno())
            if there.st_ino != self._file or there.st_size < self._offset:
                self._forget()
                self._file = there.st_ino
            before, self.trouble = self._offset, ""
            file.seek(self._offset)
            left = there.st_size - self._offset
            rest = b""
            while left > 0 and (part := file.read(min(CHUNK, left))):
                left -= len(part)
                *lines, rest = (rest + part).split(b"\n")
                self._offset += sum(len(line) + 1 for line in lines)
                for line in lines:
                    self._take(line)
            return self._offset != before

    def _take(self, line: bytes) -> None:
        row = row_of(line)
        if row is None:
            self.torn += bool(line.strip())
            return
        self.rows += 1
        steps = row.pop("steps", math.nan)
        if not math.isfinite(steps):
            self.unplaced += 1
            return
        for name, value in row.items():
            if not math.isfinite(value):
                continue
            column = self.columns.get(name[:LONGEST_NAME])
            if column is None:
                if len(self.columns) >= MOST_METRICS:
                    self.left_out += 1
                    continue
                column = self.columns[name[:LONGEST_NAME]] = array("d"), array("d")
            column[0].append(float(steps))
            column[1].append(float(value))

    @property
    def missing(self) -> list[str]:
        """What could not be read, in words."""
        said = [self.trouble] if self.trouble else []
        if not self.rows and not self.trouble:
            said.append(f"{METRICS} has no rows yet")
        if self.torn:
            said.append(f"{self.torn:,} lines of {METRICS} are damaged and were passed over")
        if self.unplaced:
            said.append(f"{self.unplaced:,} rows of {METRICS} have no steps and are not drawn")
        if self.left_out:
            said.append(f"metrics beyond the first {MOST_METRICS} are not shown")
        return said


def thinned(column: Column, points: int) -> tuple[Array, Array]:
    """At most so many points, each the mean of equally many neighbors; few points stay as they are."""
    x, y = (np.array(part, dtype=np.float64) for part in column)
    if len(x) <= points:
        return x, y
    cuts = np.linspace(0, len(x), points + 1).astype(np.int64)
    counts = np.diff(cuts)
    return np.add.reduceat(x, cuts[:-1]) / counts, np.add.reduceat(y, cuts[:-1]) / counts
