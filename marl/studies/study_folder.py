"""What a study has left on disk: its cells, and how far each has come. `Scores` reads its numbers.

STUDY/study.json      what was asked, and every cell with the command that trains it
STUDY/journal.jsonl   how each attempt at a cell ended
STUDY/cells/NAME/     run folders of ``marl train``
STUDY/logs/NAME.log   what was said while a cell trained
STUDY/replaced/       earlier runs of cells that the study's file says otherwise now
STUDY/study.lock      who trains it now
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marl import files
from marl.logs import read_metrics
from marl.logs.files import read_json
from marl.run import CONFIG, SUMMARY
from marl.run.folder import LOCK, holds_run
from marl.run.lock import writer_of
from marl.types import ConfigError, NonFiniteError

STUDY, JOURNAL, CELLS, LOGS, REPLACED, STUDY_LOCK = (
    "study.json", "journal.jsonl", "cells", "logs", "replaced", "study.lock",
)  # fmt: skip
WAITING, RUNNING, INTERRUPTED, FINISHED, FAILED, DIVERGED = (
    "waiting", "running", "interrupted", "finished", "failed", "diverged",
)  # fmt: skip
STATUSES = (FINISHED, RUNNING, INTERRUPTED, WAITING, FAILED, DIVERGED)
LARGEST_JOURNAL = 2**28  # bytes; an attempt has a line of some hundred


@dataclass(frozen=True)
class CellState:
    """How far a cell has come.

    Args:
        status: ``waiting``, ``running``, ``interrupted``, ``finished``, ``failed`` or ``diverged``.
        steps: environment steps so far.
        seconds: of training so far.
        value: the return of its last evaluation, else of its last training episodes; None: there is none yet.
        error: why it failed; else empty.
    """

    status: str
    steps: int = 0
    seconds: float = 0.0
    value: float | None = None
    error: str = ""


@dataclass(frozen=True)
class StudyCell:
    """A cell as ``study.json`` has it.

    Args:
        task: by its name in the study.
        algorithm: with what varies.
        seed: of the run.
        settings: what varies: values in words by key.
        steps: environment steps of the whole run.
        folder: its run folder.
        words: the command that trains it, without the folder.
    """

    task: str
    algorithm: str
    seed: int
    settings: Mapping[str, str]
    steps: int
    folder: Path
    words: tuple[str, ...]


@dataclass(frozen=True)
class StudyFolder:
    """A study's folder, read.

    Args:
        path: the folder.
        name: of the study.
        cells: all runs that its file asks for.
        references: what scores of each task are normalized by: ``random`` and ``best``, None where nobody said.
    """

    path: Path
    name: str
    cells: tuple[StudyCell, ...]
    references: Mapping[str, Mapping[str, float | None]]

    @classmethod
    def read(cls, path: str | Path) -> StudyFolder:
        """The study in a folder.

        Raises:
            ConfigError: if there is none, or its ``study.json`` is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise ConfigError(f"study {path}: there is no such folder; marl study run FILE makes one")
        if not (path / STUDY).exists():
            raise ConfigError(f"study {path}: there is no {STUDY} in it; expected a folder that marl study run wrote")
        said = read_json(path / STUDY)
        try:
            cells = tuple(
                StudyCell(
                    str(one["task"]), str(one["algorithm"]), int(one["seed"]), dict(one["settings"]), int(one["steps"]),
                    _inside(path, one["folder"]), tuple(map(str, one["words"])),
                )
                for one in said["cells"]
            )  # fmt: skip
            return cls(path, str(said["study"]), cells, dict(said.get("references", {})))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path / STUDY}: is no study's ({error}); was it edited?") from None

    def states(self) -> list[CellState]:
        """How far each cell has come, in the order of ``cells``."""
        said = last_attempts(self.path)
        return [
            state_of(cell.folder, said.get(cell.folder.relative_to(self.path / CELLS).as_posix()))
            for cell in self.cells
        ]


def state_of(folder: Path, attempt: Mapping[str, Any] | None = None) -> CellState:
    """How far a run folder has come.

    Args:
        folder: of the run.
        attempt: how the last attempt ended, as the journal has it; None: nobody lived to say.
    """
    if not holds_run(folder):
        failed = attempt is not None and attempt.get("error")
        return CellState(FAILED, error=str(attempt["error"])) if failed and attempt else CellState(WAITING)
    last, value = {}, None
    for row in read_metrics(folder / "metrics.jsonl"):
        last = row
        value = row.get("evaluation_return", value)
    value = last.get("mean_return") if value is None else value
    so_far = (int(last.get("steps", 0)), float(last.get("seconds", 0.0)), value)
    if writer_of(folder / LOCK) is not None:
        return CellState(RUNNING, *so_far)
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    match summary.get("status"):
        case "finished":
            return CellState(FINISHED, int(summary.get("steps", so_far[0])), *so_far[1:])
        case "failed":
            diverged = summary.get("exit_code") == NonFiniteError.exit_code
            return CellState(DIVERGED if diverged else FAILED, *so_far, error=str(summary.get("error", "")))
        case _:
            error = str((attempt or {}).get("error") or "")
            return CellState(FAILED if error else INTERRUPTED, *so_far, error=error)


def last_attempts(path: Path) -> dict[str, dict[str, Any]]:
    """How the last attempt at each cell ended, by its name; torn lines are passed over."""
    try:
        lines = files.read(path / JOURNAL, LARGEST_JOURNAL).splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path / JOURNAL}: cannot be read ({error.strerror})") from None
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(said, dict) and isinstance(said.get("cell"), str):
            found[said["cell"]] = said
    return found


def config_of(folder: Path) -> dict[str, Any] | None:
    """What a cell's run was asked; None if it has not begun."""
    return read_json(folder / CONFIG) if (folder / CONFIG).exists() else None


def _inside(path: Path, name: Any) -> Path:
    """A folder within the study's. Raises ConfigError for one outside."""
    folder = path / CELLS / str(name)
    if ".." in Path(str(name)).parts or Path(str(name)).is_absolute():
        raise ConfigError(f"{path / STUDY}: folder: expected one within {CELLS}, got {name!r:.80}")
    return folder
