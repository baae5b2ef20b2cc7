"""A comparison of algorithms over tasks and seeds: every number of a study's tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from marl.config import finite
from marl.studies.statistics import LEVEL, Band, Estimate, Times


@dataclass(frozen=True)
class Entry:
    """One algorithm on one task.

    seeds: of the runs that count, in ascending order.
    scores: of these runs at the step of the comparison, as they were logged.
    mean: over these runs.
    normalized: the same scores, 0 for random play and 1 for the best known; None where there are no references.
    """

    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    mean: Estimate
    normalized: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Lost:
    """A run that is in no number.

    task: of the run.
    algorithm: of the run.
    seed: of the run.
    why: in words.
    """

    task: str
    algorithm: str
    seed: int
    why: str

    def __str__(self) -> str:
        """One line of text."""
        return f"{self.task}, {self.algorithm}, seed {self.seed}: {self.why}"


@dataclass(frozen=True)
class Pair:
    """Two algorithms.

    one: the first.
    other: the second.
    improvement: the probability that a run of the first scores higher, over the tasks that both have.
    difference: the first one's score less the other's over the same seeds; None if they share none.
    p: of that difference, two-sided; None likewise.
    corrected: ``p`` corrected for the number of pairs (Holm).
    seeds: how many differences there are.
    needed: about how many seeds of every task would tell the two apart; None where no number would.
    """

    one: str
    other: str
    improvement: Estimate
    difference: Estimate | None
    p: float | None
    corrected: float | None
    seeds: int
    needed: int | None

    def distinguishable(self, level: float = LEVEL) -> bool:
        """Whether the corrected test tells them apart."""
        return self.corrected is not None and self.corrected <= 1 - level


@dataclass(frozen=True)
class Comparison:
    """Every number of a comparison. ``marl.studies.tables`` prints it, ``marl.studies.figures`` draws it.

    Args:
        metric: what is compared.
        level: of all intervals and tests.
        tasks: all tasks.
        algorithms: all algorithms.
        steps: by task, the step at which runs are compared.
        entries: by task and algorithm; none where an algorithm has no run that counts.
        lost: runs that count nowhere.
        normalized: whether scores of all tasks are normalized by references.
        aggregates: by algorithm: ``iqm``, ``mean``, ``median``, ``optimality_gap`` over all tasks; empty where scores
            of several tasks are not normalized.
        profiles: by algorithm, the share of runs above each score; empty likewise.
        pairs: of algorithms.
        unit: of the pairs' differences.
        over_time: the metric of the curves; empty: there are none.
        curves: by task and algorithm, the IQM over seeds.
        overall: by algorithm, the IQM of normalized scores over all tasks; ``x`` is the share of the steps.
        times: by task and algorithm, how long until the threshold is reached.
        notes: what a reader must know to believe the numbers.
    """

    metric: str
    level: float
    tasks: tuple[str, ...]
    algorithms: tuple[str, ...]
    steps: dict[str, int]
    entries: dict[tuple[str, str], Entry]
    lost: tuple[Lost, ...] = ()
    normalized: bool = False
    aggregates: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    profiles: dict[str, Band] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    unit: str = ""
    over_time: str = ""
    curves: dict[tuple[str, str], Band] = field(default_factory=dict)
    overall: dict[str, Band] = field(default_factory=dict)
    times: dict[tuple[str, str], Times] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def improvement(self, one: str, other: str) -> Estimate | None:
        """The probability that a run of one scores higher than a run of the other; None if they share no task."""
        for pair in self.pairs:
            if (pair.one, pair.other) == (one, other):
                return pair.improvement
            if (pair.other, pair.one) == (one, other):
                found = pair.improvement
                return Estimate(1 - found.value, 1 - found.high, 1 - found.low)
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null."""

        def by_task(table: Mapping[tuple[str, str], Any]) -> list[dict[str, Any]]:
            return [{"task": task, "algorithm": name, **_plain(one)} for (task, name), one in table.items()]

        said = {
            "metric": self.metric,
            "level": self.level,
            "tasks": list(self.tasks),
            "algorithms": list(self.algorithms),
            "steps": self.steps,
            "normalized": self.normalized,
            "entries": by_task(self.entries),
            "lost": [vars(one) for one in self.lost],
            "aggregates": {
                name: {key: _plain(one) for key, one in all_.items()} for name, all_ in self.aggregates.items()
            },
            "profiles": {name: _plain(one) for name, one in self.profiles.items()},
            "pairs": [_plain(one) | {"distinguishable": one.distinguishable(self.level)} for one in self.pairs],
            "unit": self.unit,
            "over_time": self.over_time,
            "curves": by_task(self.curves),
            "overall": {name: _plain(one) for name, one in self.overall.items()},
            "times": by_task(self.times),
            "notes": list(self.notes),
        }
        made: dict[str, Any] = finite(said)
        return made

    def __repr__(self) -> str:
        """What was compared."""
        return f"<Comparison of {self.metric}: {len(self.algorithms)} algorithms on {len(self.tasks)} tasks>"


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as plain values."""
    if isinstance(value, Estimate | Band | Times):
        return dict(value.to_dict())
    made = {}
    for name, one in vars(value).items():
        made[name] = one.to_dict() if isinstance(one, Estimate) else list(one) if isinstance(one, tuple) else one
    return made
