"""Cells of a study that are trained as one: ``marl study run --stacked``."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from marl.cli.board import Board
from marl.cli.cells import PlannedCell, is_there
from marl.cli.output import note


def groups_of(cells: Sequence[PlannedCell]) -> list[list[PlannedCell]]:
    """Those that differ in the seed and in settings of each member only, and have not begun."""
    from marl.training.stacked import OWN

    found: dict[tuple[object, ...], list[PlannedCell]] = {}
    for cell in cells:
        if (cell.folder / "config.json").exists():
            continue  # it goes on from its checkpoint, at a step of its own
        shared = tuple(one for one in cell.cell.settings if one[0].rpartition(".")[2] not in OWN)
        found.setdefault((cell.cell.task, cell.cell.algorithm, shared, cell.steps), []).append(cell)
    return [group for group in found.values() if len(group) > 1]


def stacked_first(cells: Sequence[PlannedCell], out: Path, board: Board) -> list[PlannedCell]:
    """Train as one what can be; returns the cells that are left, in their order.

    Raises:
        KeyboardInterrupt: on Ctrl-C; what was trained since the newest checkpoints is trained again.
    """
    groups = groups_of(cells)
    trained = {cell.name for group in groups for cell in _train(group, out, board)}
    return [cell for cell in cells if cell.name not in trained]


def _train(cells: Sequence[PlannedCell], out: Path, board: Board) -> list[PlannedCell]:
    """Train these as one; returns those that are finished. Where they cannot be stacked, each trains in its turn."""
    from marl.studies.study_folder import LOGS
    from marl.training.meeting import Meeting

    name = f"{cells[0].cell.task}/{cells[0].cell.label}"
    note(f"stacked: {len(cells)} cells, {cells[0].name} and others, train as one")
    log = out / LOGS / f"{cells[0].name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    meeting = Meeting(lambda why: note(f"not stacked: {name}: {why}; its cells train one after the other"))
    began = time.monotonic()
    for cell in cells:
        board.began(cell)
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        found = meeting.run([_task(cell) for cell in cells])
    done = []
    for cell, code in zip(cells, found, strict=True):
        if code == 0 and not is_there(cell, None)[1]:
            board.finished(cell, time.monotonic() - began)
            done.append(cell)
        else:
            board.failed(cell, str(code), True)
    return done


def _task(cell: PlannedCell) -> Callable[[], int]:
    """The command of a cell."""
    from marl.cli.train import train

    return lambda: train(dataclasses.replace(cell.asked, run_dir=cell.folder, quiet=True))
