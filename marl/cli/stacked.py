"""Runs that are trained as one: ``marl study run --stacked`` and ``marl population run --stacked``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from marl.cli.board import Board
from marl.cli.cells import PlannedCell, is_there
from marl.cli.output import note
from marl.cli.schedule import HOPELESS, Watch


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


def stacked_first(cells: Sequence[PlannedCell], out: Path, board: Board) -> tuple[list[PlannedCell], dict[str, str]]:
    """Train as one what can be; returns the cells that are left, in their order, and errors of those left out.

    Raises:
        KeyboardInterrupt: on Ctrl-C; what was trained since the newest checkpoints is trained again.
    """
    trained: set[str] = set()
    errors: dict[str, str] = {}
    for group in groups_of(cells):
        name = f"{group[0].cell.task}/{group[0].cell.label}"
        note(f"stacked: {len(group)} cells, {group[0].name} and others, train as one")

        def say(who: Sequence[PlannedCell], why: str, name: str = name) -> None:
            note(f"not stacked: {name}: {why}; its cells train one after the other")

        found = train_as_one(group, out, board, say)
        trained |= found.done
        errors |= found.hopeless
    return [cell for cell in cells if cell.name not in {*trained, *errors}], errors


class StackedTurns:
    """Turns of a population's members that are trained as one, for as long as that finds any two of one shape.

    Args:
        out: the population's folder.
        watch: told what happens.
        say: told who is not stacked, and why.
    """

    def __init__(self, out: Path, watch: Watch[PlannedCell], say: Callable[[str], None]) -> None:
        """Nothing is trained yet."""
        self._out, self._watch, self._say = out, watch, say
        self._told: set[str] = set()
        self._useful = True

    def train(self, turns: Sequence[PlannedCell]) -> None:
        """Train these; those that cannot be stacked one after the other.

        Raises:
            KeyboardInterrupt: on Ctrl-C; what was trained since the newest checkpoints is trained again.
        """
        if self._useful and len(turns) > 1:
            self._useful = train_as_one(turns, self._out, self._watch, self._explain).stacked

    def _explain(self, who: Sequence[PlannedCell], why: str) -> None:
        """Say once why members train alone."""
        text = f"not stacked: {', '.join(turn.name for turn in who)}: {why}; trained one after the other"
        if text not in self._told:
            self._told.add(text)
            self._say(text)


@dataclass(frozen=True)
class TrainedAsOne:
    """What came of runs that were trained as one.

    Args:
        done: names of those that ended well.
        hopeless: errors by name, of those that would end so again.
        stacked: whether any two were of one shape.
    """

    done: set[str]
    hopeless: dict[str, str]
    stacked: bool


def train_as_one(
    cells: Sequence[PlannedCell],
    out: Path,
    watch: Watch[PlannedCell],
    say: Callable[[Sequence[PlannedCell], str], None],
) -> TrainedAsOne:
    """Train these as one, each by its own command.

    Where some cannot be stacked, these train in their turn, and ``say`` is told why. What commands say goes to the log
    of the first.
    """
    from marl.studies.study_folder import LOGS
    from marl.training.meeting import Meeting
    from marl.types import exit_status

    log, screen = out / LOGS / f"{cells[0].name}.log", sys.stderr
    log.parent.mkdir(parents=True, exist_ok=True)

    def explain(places: list[int], why: str) -> None:
        with contextlib.redirect_stderr(screen):
            say([cells[place] for place in places], why)

    meeting = Meeting(explain)
    began = time.monotonic()
    for cell in cells:
        watch.began(cell)
    with (
        open(log, "a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        found = meeting.run([_task(cell) for cell in cells])
    done, hopeless = set(), {}
    for cell, code in zip(cells, found, strict=True):
        if code == 0 and not is_there(cell, None)[1]:
            watch.finished(cell, time.monotonic() - began)
            done.add(cell.name)
            continue
        error = " ".join(str(code).split())
        if isinstance(code, BaseException) and exit_status(code) in HOPELESS:
            hopeless[cell.name] = error
        watch.failed(cell, error, cell.name not in hopeless)
    return TrainedAsOne(done, hopeless, bool(meeting.groups))


def _task(cell: PlannedCell) -> Callable[[], int]:
    """The command of a cell."""
    from marl.cli.train import train

    asked = cell.options((cell.folder / "config.json").exists())
    return lambda: train(asked)
