"""Trials of a search over processes: watches a :class:`~marl.cli.schedule.Schedule`, and adds what to train next."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.cli.asked import Asked
    from marl.studies.search import Search
    from marl.studies.trials import Proposal, Trials
from marl.cli.cell_process import GO_ON, STOP, CellWorker, Evaluated
from marl.cli.cells import PlannedCell, is_there, of_seed, planned
from marl.cli.schedule import Schedule
from marl.cli.status import config_error

TRIALS = "trials"  # of a search's folder
MOST_FAILURES = 5  # at the beginning, before the search is given up


@dataclass
class Active:
    """A trial that is being trained.

    proposal: its settings.
    asked: the command that trains it.
    config: what its runs' config.json will say.
    values: of the seeds that are finished.
    """

    proposal: Proposal
    asked: Asked
    config: Mapping[str, Any]
    values: list[float] = field(default_factory=list)


class Tuning:
    """Trains the trials of a search.

    Args:
        search: what is searched.
        trials: in their journal.
        base: the command of all trials, without their settings.
        every: steps between two evaluations.
        steps: of each run.
        out: the search's folder.
        say: tells what happens.
    """

    def __init__(
        self,
        search: Search,
        trials: Trials,
        base: Asked,
        every: int,
        steps: int,
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        """Nothing is trained yet."""
        self._search, self._trials, self._base, self._out, self._say = search, trials, base, out, say
        self._every, self._whole = every, steps // every * every
        self._active: dict[int, Active] = {}
        self._schedule: Schedule[PlannedCell] | None = None

    def run(
        self,
        jobs: int,
        retries: int,
        files: Mapping[Path, str],
        start: Callable[[], CellWorker | None] | None = None,
    ) -> None:
        """Train until there are as many trials as were asked for.

        Raises:
            ConfigError: if a file of the search changes meanwhile, or all trials at the beginning fail.
            KeyboardInterrupt: on Ctrl-C, once all that train have saved.
        """
        self._schedule = Schedule([], self._out, jobs, retries, files, self, self._decide, start)
        begun = self._trials.begun()
        if begun:
            self._say(f"going on with {', '.join(f'trial {one.number}' for one in begun)}")
        for proposal in begun:
            self._begin(proposal)
        while len(self._active) < jobs and self._next():
            pass
        self._schedule.run()

    def began(self, cell: PlannedCell) -> None:
        """A seed of a trial trains."""

    def tick(self) -> None:
        """Time has passed."""

    def finished(self, cell: PlannedCell, seconds: float) -> None:
        """A seed is trained, to its end or to where its trial was pruned."""
        from marl.studies.study_folder import state_of

        active = self._active.get(_number(cell))
        if active is None:
            self._next()
            return
        value = state_of(cell.folder).value
        active.values.append(math.nan if value is None else value)
        self._go_on(active)

    def failed(self, cell: PlannedCell, error: str, again: bool) -> None:
        """A seed ended badly."""
        from marl.studies.study_folder import DIVERGED, state_of

        number = _number(cell)
        if again:
            self._say(f"trial {number}, seed {cell.cell.seed}: {error}; tried again from what it saved")
            return
        active = self._active.pop(number, None)
        if active is not None and state_of(cell.folder).status == DIVERGED:
            self._trials.prune(number, f"seed {cell.cell.seed} diverged")
            self._say(f"trial {number}: seed {cell.cell.seed} diverged; {_words(active.proposal)}")
        elif active is not None:
            self._fail(active.proposal, error)
        self._next()

    def _decide(self, cell: PlannedCell, evaluated: Evaluated) -> str:
        """Whether a run that was evaluated goes on."""
        number = _number(cell)
        active = self._active.get(number)
        if active is None:  # another of its moments has ended it
            return f"{STOP} the trial is over"
        here = evaluated.steps // self._every * self._every
        steps = len(active.values) * self._whole + here
        value = sum((*active.values, evaluated.value)) / (len(active.values) + 1)
        worse = self._trials.report(number, steps, value)
        lost = not math.isfinite(value)
        if not lost and (not worse or steps >= self._search.seeds * self._whole):
            return GO_ON
        why = "its return is not finite" if lost else f"worse than others after {steps:,} steps"
        self._trials.prune(number, why)
        del self._active[number]
        self._say(f"trial {number} pruned after {steps:,} steps with {value:.2f}: {_words(active.proposal)}")
        return f"{STOP} {why}"

    def _next(self) -> bool:
        """Begin another trial; whether there is one."""
        while (proposal := self._trials.ask()) is not None:
            if self._begin(proposal):
                return True
        return False

    def _begin(self, proposal: Proposal) -> bool:
        """Train a trial, where ``marl train`` takes its settings."""
        from marl.studies.search import EVALUATIONS
        from marl.types import ConfigError

        try:
            settings = (*self._base.set, *proposal.assignments)
            asked, config = planned(dataclasses.replace(self._base, set=settings), EVALUATIONS)
        except ConfigError as error:
            self._fail(proposal, str(error))
            return False
        active = self._active[proposal.number] = Active(proposal, asked, config)
        return self._go_on(active)

    def _go_on(self, active: Active) -> bool:
        """Train the next seed that is not trained yet; without one the trial is over. Whether anything is to train."""
        assert self._schedule is not None
        number = active.proposal.number
        for seed in range(len(active.values), self._search.seeds):
            cell = self._cell(active, seed)
            state, changed = is_there(cell, None)
            if changed:
                raise config_error(f"{cell.folder}: was trained with other settings ({changed[0]}); use another --out")
            # A run that had nobody left to ask ended before its end, and goes on.
            if state.status != "finished" or state.value is None or state.steps < self._whole:
                self._schedule.add(cell)
                return True
            active.values.append(state.value)
        value = sum(active.values) / len(active.values)
        self._trials.complete(number, value)
        del self._active[number]
        best = self._trials.best()
        said = "the best so far" if best is None or best.number == number else f"best: trial {best.number}"
        self._say(f"trial {number} finished with {value:.2f} ({said}): {_words(active.proposal)}")
        return self._next()

    def _fail(self, proposal: Proposal, error: str) -> None:
        self._trials.fail(proposal.number, error)
        self._say(f"trial {proposal.number} failed: {error}; {_words(proposal)}")
        rows = [row for row in self._trials.rows() if row.status != "running"]
        if len(rows) >= MOST_FAILURES and all(row.status == "failed" for row in rows):
            raise config_error(f"the first {len(rows)} trials failed, the last one so: {error}")

    def _cell(self, active: Active, seed: int) -> PlannedCell:
        from marl.studies.study import Cell

        cell = Cell(TRIALS, f"{active.proposal.number:04d}", (), seed)
        return of_seed(cell, self._out / cell.name, active.asked, active.config)


def _number(cell: PlannedCell) -> int:
    """Of a cell's trial."""
    return int(cell.cell.algorithm)


def _words(proposal: Proposal) -> str:
    return " ".join(proposal.assignments)
