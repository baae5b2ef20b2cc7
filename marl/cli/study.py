"""``marl study run`` and ``marl study status``."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from marl.cli.cell_process import CellWorker
    from marl.cli.cells import PlannedCell
    from marl.studies.study import FoundStudy, Study
    from marl.studies.study_folder import CellState
from marl.cli.options import NUMBER, RAY_CLUSTER
from marl.cli.output import note, print_json, quiet
from marl.cli.status import UsageError, config_error

NOT_ALL_FINISHED = 7
STUDY_OR_FOLDER = arg(metavar="STUDY")


@dataclass(frozen=True)
class StudyRun:
    """Train every cell of a study that is not finished yet, several at once."""

    study: Annotated[Positional[str], STUDY_OR_FOLDER]
    """A file with one marl.Study, FILE.py:NAME, or a shipped study (marl list)."""
    jobs: Annotated[int | None, NUMBER] = None
    """Processes that train side by side; as many as there are cores for their threads unless given."""
    ray: Annotated[str | None, RAY_CLUSTER] = None
    """Train on a Ray cluster, and not on this machine alone; auto: the one that runs here, or one for this command."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The study's folder; studies/NAME unless given. Run again with the same one, it goes on."""
    retries: Annotated[int, NUMBER] = 1
    """How often a cell that crashed, was killed or failed is tried again, from its newest checkpoint.

    A cell that diverged is left out: with the same seed it would again."""
    stacked: bool = False
    """Train cells that differ in seeds and in a few settings of PPO only as one, in this process, before the others.

    Their run folders are those of separate runs."""
    leave_failed: bool = False
    """Leave out cells that failed or diverged in an earlier run, instead of trying them again."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return run_study(self)


@dataclass(frozen=True)
class StudyStatus:
    """How far a study has come: finished, training, interrupted, failed."""

    study: Annotated[Positional[str], STUDY_OR_FOLDER]
    """The study's folder; or its file, then the folder is studies/NAME, or --out."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """The study's folder, where its file is named."""
    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    def run(self) -> int:
        """Run the command; return its exit status."""
        return status_of_study(self)


def run_study(asked: StudyRun) -> int:
    """``marl study run``."""
    from marl.cli.board import Board, text_table
    from marl.cli.cell_actor import cell_workers
    from marl.cli.cells import planned_cells, sources_of
    from marl.cli.schedule import Schedule
    from marl.cli.stacked import stacked_first
    from marl.config import check_whole
    from marl.studies.study import find

    if asked.jobs is not None:
        check_whole("--jobs", asked.jobs, 1)
    check_whole("--retries", asked.retries, 0)
    with quiet():
        found = find(asked.study)
    files = sources_of(found)
    out = folder_of(found, asked.out)
    cells = planned_cells(found, out)
    room = cell_workers(asked.ray, asked.jobs, found.study.threads, found.study.device)
    with room as workers, _taken(out, found.study.name):
        todo, states = _triage(cells, out, asked.leave_failed, (lambda text: None) if asked.quiet else note)
        write_study(found.study, found.source, cells, out)
        start, began = workers.of(out), time.monotonic()
        jobs = min(workers.jobs, len(cells))
        with Board(f"study {found.study.name}", cells, states, jobs, asked.quiet) as board:
            try:
                left, errors = stacked_first(todo, out, board) if asked.stacked else (todo, {})
                jobs = min(jobs, max(1, len(left)))
                schedule = Schedule(left, out, jobs, asked.retries, files, board, start=start)
                schedule.errors |= errors
                schedule.run()
            except KeyboardInterrupt:
                board.__exit__()
                note(f"what was trained is saved; to go on: {_command(asked, out)}")
                raise
        rows, seconds = board.rows(), time.monotonic() - began
    finished, count = sum(row.finished for row in rows), sum(row.count for row in rows)
    if asked.json:
        print_json(
            {"study": found.study.name, "folder": str(out), "cells": count, "finished": finished}
            | {"trained": len(todo) - len(schedule.errors), "failed": schedule.errors, "seconds": round(seconds, 3)}
        )
    else:
        print(text_table(rows))
        print(f"study folder: {out}; {finished} of {count} cells are finished")
        for name, error in schedule.errors.items():
            print(f"left out: {name}: {error}")
    return 0 if finished == count else NOT_ALL_FINISHED


def train_cells(
    study: Study,
    source: str,
    cells: Sequence[PlannedCell],
    out: Path,
    jobs: int,
    retries: int,
    hush: bool,
    start: Callable[[], CellWorker | None] | None = None,
) -> dict[str, str]:
    """Train those cells of a study made by a command that are not finished; returns errors of those left out."""
    from marl.cli.board import Board
    from marl.cli.schedule import Schedule

    with _taken(out, study.name):
        todo, states = _triage(cells, out, False, (lambda text: None) if hush else note)
        write_study(study, source, cells, out)
        with Board(study.name, cells, states, min(jobs, len(cells)), hush) as board:
            schedule = Schedule(todo, out, min(jobs, max(1, len(todo))), retries, {}, board, start=start)
            schedule.run()
    return schedule.errors


def _command(asked: StudyRun, out: Path) -> str:
    place = "" if asked.out is None else f" --out {out}"
    cluster = "" if asked.ray is None else f" --ray {asked.ray}"
    return f"marl study run {asked.study}{place}{cluster}"


def folder_of(found: FoundStudy, out: Path | None) -> Path:
    """Where a study is."""
    from marl.logs.files import safe_name

    return (Path("studies") / safe_name(found.study.name) if out is None else out).absolute()


@contextlib.contextmanager
def _taken(out: Path, name: str) -> Iterator[None]:
    """The study's folder, for this process alone. Raises ConfigError."""
    from marl.logs.files import read_json
    from marl.studies.study_folder import STUDY

    with locked(out, "study"):
        if (out / STUDY).exists():
            there = read_json(out / STUDY).get("study")
            if there != name:
                raise config_error(f"--out {out}: holds the study {there!r}, not {name!r}; choose another --out")
        yield


@contextlib.contextmanager
def locked(out: Path, what: str) -> Iterator[None]:
    """A folder of many runs, for this process alone; it is made. Raises ConfigError."""
    from marl.run.lock import Lock
    from marl.studies.study_folder import STUDY_LOCK

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = Lock(out / STUDY_LOCK, note, what, "--out")
    except OSError as error:
        raise config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def _triage(
    cells: Sequence[PlannedCell], out: Path, leave_failed: bool, say: Any
) -> tuple[list[PlannedCell], dict[str, CellState]]:
    """What is to be trained, and how far every cell has come; runs that the study asks otherwise for are set aside."""
    from marl.cli.cells import is_there
    from marl.studies.study_folder import CellState, last_attempts

    attempts = last_attempts(out)
    states: dict[str, CellState] = {}
    changed: dict[str, list[str]] = {}
    for cell in cells:
        state, differs = is_there(cell, attempts.get(cell.name))
        if differs and state.status == "running":
            raise config_error(f"{cell.folder}: another process trains there, with other settings; stop it")
        if differs:
            changed[cell.name] = differs
            _set_aside(cell.folder, out)
            state = CellState("waiting")
        states[cell.name] = state
    left = ("finished", "failed", "diverged") if leave_failed else ("finished",)
    first = [cell for cell in cells if states[cell.name].status not in (*left, "waiting")]
    todo = first + [cell for cell in cells if states[cell.name].status == "waiting"]
    _say_what_is_there(cells, states, changed, todo, out, say)
    return todo, states


def _set_aside(folder: Path, out: Path) -> None:
    """Move a run out of the way; nothing is lost."""
    from marl.studies.study_folder import CELLS, REPLACED

    place = out / REPLACED / folder.relative_to(out / CELLS)
    number, target = 1, place
    while target.exists():
        number += 1
        target = place.with_name(f"{place.name}-{number}")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(folder, target)


def _say_what_is_there(
    cells: Sequence[PlannedCell],
    states: Mapping[str, CellState],
    changed: Mapping[str, Sequence[str]],
    todo: Sequence[PlannedCell],
    out: Path,
    say: Any,
) -> None:
    """What is finished, what goes on, what changed and how, what the study no longer asks for."""
    from marl.studies.study_folder import CELLS, REPLACED

    if changed:
        ways = Counter("; ".join(said[:3]) for said in changed.values())
        for way, count in ways.items():
            one = next(name for name, said in changed.items() if "; ".join(said[:3]) == way)
            which = one if count == 1 else f"{count} cells, {one} and others"
            say(f"{which}: changed since trained ({way}); trained anew, what was there is in {out / REPLACED}")
    names = {cell.name for cell in cells}
    others = [
        name
        for file in sorted((out / CELLS).rglob("config.json"))
        if (name := file.parent.relative_to(out / CELLS).as_posix()) not in names
    ]
    if others:
        say(f"{len(others)} runs that the study does not ask for any more are kept, such as {others[0]}")
    tally = Counter(state.status for state in states.values())
    if tally["finished"] or len(todo) < len(cells) or any(states[cell.name].steps for cell in todo):
        parts = [
            f"{tally[one]} {one}"
            for one in ("finished", "interrupted", "running", "failed", "diverged", "waiting")
            if tally[one]
        ]
        say(f"{len(cells)} cells: {', '.join(parts)}; {len(todo)} to train")


def write_study(study: Study, source: str, cells: Sequence[PlannedCell], out: Path) -> None:
    """study.json, for whoever reads the folder. Raises ConfigError."""
    from dataclasses import asdict

    from marl.logs.files import write_json
    from marl.studies.study_folder import CELLS, STUDY

    said = {
        "study": study.name,
        "about": study.about,
        "source": source,
        "tasks": list(study.task_sources()),
        "algorithms": list(dict.fromkeys(cell.cell.label for cell in cells)),
        "seeds": study.seed_list(),
        "references": {task: asdict(one) for task, one in study.references.items()},
        "cells": [
            {
                "task": cell.cell.task,
                "algorithm": cell.cell.label,
                "seed": cell.cell.seed,
                "settings": dict(cell.cell.settings),
                "steps": cell.steps,
                "folder": cell.folder.relative_to(out / CELLS).as_posix(),
                "words": list(cell.words),
            }
            for cell in cells
        ],
    }
    try:
        write_json(out / STUDY, said)
    except OSError as error:
        raise config_error(f"--out {out}: cannot be written ({error.strerror or error})") from None


def status_of_study(asked: StudyStatus) -> int:
    """``marl study status``."""
    from marl.cli.board import Member, groups, text_table
    from marl.run.lock import writer_of
    from marl.studies.study import find
    from marl.studies.study_folder import STUDY_LOCK, StudyFolder

    if asked.study.endswith(".py") or ".py:" in asked.study or not Path(asked.study).is_dir():
        with quiet():
            path = folder_of(find(asked.study), asked.out)
        if not path.is_dir():
            raise config_error(f"{path} is not there: nothing was trained yet; marl study run {asked.study}")
    elif asked.out is not None:
        raise UsageError("--out goes with a study's file; the folder is named already")
    else:
        path = Path(asked.study).absolute()
    folder = StudyFolder.read(path)
    states = folder.states()
    rows = groups(
        [Member(one.task, one.algorithm, one.steps, state) for one, state in zip(folder.cells, states, strict=True)]
    )
    writer = writer_of(path / STUDY_LOCK)
    failed = {
        one.folder.relative_to(path).as_posix(): f"{state.status}: {state.error}"
        for one, state in zip(folder.cells, states, strict=True)
        if state.status in ("failed", "diverged")
    }
    count = Counter(state.status for state in states)
    if asked.json:
        cells = [
            {"folder": str(one.folder), "task": one.task, "algorithm": one.algorithm, "seed": one.seed}
            | {
                "status": state.status,
                "steps": state.steps,
                "of": one.steps,
                "return": state.value,
                "error": state.error,
            }
            for one, state in zip(folder.cells, states, strict=True)
        ]
        print_json({"study": folder.name, "folder": str(path), "process": writer, "count": dict(count), "cells": cells})
        return 0
    print(text_table(rows))
    who = "nobody trains it now" if writer is None else f"process {writer} trains it"
    print(f"study {folder.name}: {', '.join(f'{number} {name}' for name, number in sorted(count.items()))}; {who}")
    for name, error in failed.items():
        print(f"{name}: {error}")
    return 0
