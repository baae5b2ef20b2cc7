"""Entrants trained side by side by successive halving: watches a :class:`~marl.cli.schedule.Schedule`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.cli.asked import Asked
from marl.cli.cell_process import GO_ON, PAUSE, CellWorker, Evaluated
from marl.cli.cells import PlannedCell, is_there, of_seed
from marl.cli.schedule import Schedule
from marl.cli.status import config_error

RACE = "race"  # where the runs of a race's folder are


@dataclass(frozen=True)
class Place:
    """How far an entrant has come.

    Args:
        name: of the entrant.
        rounds: how many it was trained for.
        steps: of each of its seeds.
        value: the mean of its seeds' returns in the last evaluation; NaN: there is none.
        why: it is out.
    """

    name: str
    rounds: int
    steps: int
    value: float
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


class Race:
    """Trains all entrants for a while, then the better ones, down to the one that is left.

    A run that waits for the others of its round is saved, and is gone on with as ``--resume`` does. What was trained
    already, by an earlier command, counts.

    Args:
        entrants: commands by name, with what their config.json will say.
        seeds: how many of each.
        ends: steps at which the rounds end.
        counts: how many entrants train in each round.
        out: the race's folder.
        say: tells what happens.
    """

    def __init__(
        self,
        entrants: Mapping[str, tuple[Asked, Mapping[str, Any]]],
        seeds: int,
        ends: Sequence[int],
        counts: Sequence[int],
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        """Nothing is trained yet."""
        self._entrants, self._seeds, self._out, self._say = entrants, seeds, out, say
        self._ends, self._counts = ends, counts
        self._every = ends[0]
        self._round = 0
        self._racing = list(entrants)
        self._waits: set[str] = set()  # cells of this round that are not there yet
        self._failed: dict[str, str] = {}
        self._schedule: Schedule[PlannedCell] | None = None
        self.places: dict[str, Place] = {name: Place(name, 0, 0, math.nan) for name in entrants}

    def run(
        self,
        jobs: int,
        retries: int,
        files: Mapping[Path, str],
        start: Callable[[], CellWorker | None] | None = None,
    ) -> list[Place]:
        """Race; returns all entrants, the best first.

        Raises:
            ConfigError: if nobody is left, or a file changes meanwhile.
            KeyboardInterrupt: on Ctrl-C, once all that train have saved.
        """
        self._schedule = Schedule([], self._out, jobs, retries, files, self, self._decide, start)
        self._begin()
        self._schedule.run()
        return sorted(self.places.values(), key=lambda one: (-one.rounds, bool(one.why), -_or_lowest(one.value)))

    def cells(self, name: str) -> list[PlannedCell]:
        """The runs of an entrant."""
        from marl.studies.study import Cell

        cells = [Cell(RACE, name, (), seed) for seed in range(self._seeds)]
        return [of_seed(cell, self._out / cell.name, *self._entrants[name]) for cell in cells]

    def began(self, cell: PlannedCell) -> None:
        """It trains now."""

    def tick(self) -> None:
        """Time has passed."""

    def finished(self, cell: PlannedCell, seconds: float) -> None:
        """A run has come to the end of the round."""
        self._waits.discard(cell.name)
        self._end_round()

    def failed(self, cell: PlannedCell, error: str, again: bool) -> None:
        """A run ended badly; without it its entrant is out."""
        self._say(f"{cell.name.partition('/')[2]}: {error}" + ("; tried again from what it saved" if again else ""))
        if not again:
            self._failed[cell.cell.algorithm] = error
            self._waits.discard(cell.name)
            self._end_round()

    def _decide(self, cell: PlannedCell, evaluated: Evaluated) -> str:
        """A run waits for the others at the end of a round."""
        here = evaluated.steps // self._every * self._every
        over = self._round == len(self._ends) - 1
        return GO_ON if over or here < self._ends[self._round] else PAUSE

    def _begin(self) -> None:
        """Train all that are still in the race for one more round."""
        assert self._schedule is not None
        for name in reversed(self._racing):
            for cell in reversed(self.cells(name)):
                state, changed = is_there(cell, None)
                if changed:
                    raise config_error(f"{cell.folder}: was trained otherwise ({changed[0]}); use another --out")
                if math.isnan(self._value(cell)) or (self._last and state.steps < cell.steps):
                    self._waits.add(cell.name)
                    self._schedule.add(cell)
        self._end_round()

    @property
    def _last(self) -> bool:
        return self._round == len(self._ends) - 1

    def _value(self, cell: PlannedCell) -> float:
        """The return of a run's evaluation at the end of the round; NaN: there is none yet."""
        from marl.logs import read_metrics

        end = self._ends[self._round] // self._every * self._every
        rows = [row for row in read_metrics(cell.folder) if "evaluation_return" in row and row["steps"] >= end]
        return rows[0]["evaluation_return"] if rows else math.nan

    def _end_round(self) -> None:
        """Once all are there: the better ones go on."""
        if self._waits:
            return
        from marl.studies.halving import promoted

        values = {}
        for name in self._racing:
            own = [self._value(cell) for cell in self.cells(name)]
            values[name] = sum(own) / len(own)
            why = self._failed.get(name, "")
            self.places[name] = Place(name, self._round + 1, self._ends[self._round], values[name], why)
        alive = {name: value for name, value in values.items() if name not in self._failed and not math.isnan(value)}
        if not alive:
            raise config_error(f"race: nobody is left: {'; '.join(self._failed.values()) or 'no return is finite'}")
        order = promoted(alive, len(alive))
        told = ", ".join(f"{name} {alive[name]:.2f}" for name in order)
        self._say(f"round {self._round + 1} of {len(self._ends)}, {self._ends[self._round]:,} steps: {told}")
        if self._last:
            return
        self._round += 1
        self._racing = order[: self._counts[self._round]]
        self._begin()


def _or_lowest(value: float) -> float:
    return -math.inf if math.isnan(value) else value
