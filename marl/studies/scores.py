"""Scores of many runs as one tidy table: what every statistic, table and plot of a study is made of."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marl.logs.files import write_json
from marl.studies.marl_eval import read as read_marl_eval
from marl.studies.marl_eval import tree
from marl.studies.run_folders import read_runs
from marl.types import Array, ConfigError

if TYPE_CHECKING:
    import pandas

Curve = tuple[Array, Array]  # steps and values of one run, (K,) each
LONGEST_NAME = 200


@dataclass(frozen=True)
class ScoreRow:
    """One number of one run at one time.

    task: what was learnt.
    algorithm: by what.
    seed: of the run.
    step: environment steps before, all copies counted.
    metric: what the number is, such as ``evaluation_return``.
    value: the number; NaN where the run diverged.
    episodes: the same of every episode of the evaluation, where they are known; ``value`` is their mean.
    """

    task: str
    algorithm: str
    seed: int
    step: int
    metric: str
    value: float
    episodes: tuple[float, ...] = ()


COLUMNS = tuple(field.name for field in fields(ScoreRow))


@dataclass(frozen=True)
class Scores:
    """A tidy table of scores: a row for each task, algorithm, seed, step and metric.

    Args:
        rows: as they came; tasks and algorithms keep the order in which they appear first.
    """

    rows: tuple[ScoreRow, ...]

    @classmethod
    def from_rows(cls, rows: Iterable[ScoreRow | Mapping[str, Any] | Sequence[Any]]) -> Scores:
        """From rows, or mappings with their fields, or sequences in their order.

        Raises:
            ConfigError: for a row with other fields or values, and for two rows of the same thing.
        """
        made = tuple(_row(number, row) for number, row in enumerate(rows))
        seen: dict[tuple[str, str, int, int, str], float] = {}
        for row in made:
            key = (row.task, row.algorithm, row.seed, row.step, row.metric)
            if key in seen:
                raise ConfigError(
                    f"scores: {_said(row)} is there twice, as {seen[key]:g} and {row.value:g}; "
                    "leave one out, or give the runs different names or seeds"
                )
            seen[key] = row.value
        return cls(made)

    @classmethod
    def from_runs(cls, paths: str | Path | Iterable[str | Path], metrics: Sequence[str] = ()) -> Scores:
        """From run folders, or folders that hold such at any depth.

        Tasks and algorithms are called as their runs' ``config.json`` says. Runs of one name with other settings are
        told apart by what differs, as in ``ippo (learner.lr=0.001)``.

        Args:
            paths: the folders.
            metrics: of rows of metrics, beside returns and evaluations. ``final/evaluation_return`` is the evaluation
                at the end of ``marl train``, ``random_return`` that of random play beside it.

        Raises:
            ConfigError: if there is no run, two are of the same settings and seed, or one cannot be read.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        return cls.from_rows(read_runs([Path(path) for path in given], metrics))

    @classmethod
    def from_marl_eval(cls, source: str | Path | Mapping[str, Any]) -> Scores:
        """From JSON as marl-eval (Gorsane et al. 2022) defines it, which other frameworks write.

        Tasks are called ``environment/task``. Values of ``absolute_metrics`` are those of ``final/METRIC``.

        Raises:
            ConfigError: if it cannot be read, or has another structure.
        """
        return cls.from_rows(read_marl_eval(source))

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks."""
        return tuple(dict.fromkeys(row.task for row in self.rows))

    @property
    def algorithms(self) -> tuple[str, ...]:
        """All algorithms."""
        return tuple(dict.fromkeys(row.algorithm for row in self.rows))

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics."""
        return tuple(dict.fromkeys(row.metric for row in self.rows))

    def curves(self, metric: str) -> dict[tuple[str, str], dict[int, Curve]]:
        """Steps and values of one metric, in the order of steps: by task and algorithm, then by seed.

        Raises:
            ConfigError: if there is no such metric.
        """
        if metric not in self.metrics:
            raise ConfigError(f"scores: there is no metric {metric!r}; known: {', '.join(self.metrics) or 'none'}")
        runs: dict[tuple[str, str], dict[int, list[ScoreRow]]] = {}
        for row in self.rows:
            if row.metric == metric:
                runs.setdefault((row.task, row.algorithm), {}).setdefault(row.seed, []).append(row)
        made: dict[tuple[str, str], dict[int, Curve]] = {}
        for key, seeds in runs.items():
            for seed in sorted(seeds):
                found = sorted(seeds[seed], key=lambda row: row.step)
                steps = np.array([row.step for row in found], dtype=np.float64)
                made.setdefault(key, {})[seed] = steps, np.array([row.value for row in found], dtype=np.float64)
        return made

    def of(self, *metrics: str) -> Scores:
        """The rows of some metrics, for :meth:`to_marl_eval`, whose readers expect every metric in every step."""
        return Scores(tuple(row for row in self.rows if row.metric in metrics))

    def renamed(self, names: Mapping[str, str]) -> Scores:
        """With other names of tasks, algorithms and metrics, so that the runs of two frameworks can be compared."""
        return Scores.from_rows(
            replace(
                row,
                task=names.get(row.task, row.task),
                algorithm=names.get(row.algorithm, row.algorithm),
                metric=names.get(row.metric, row.metric),
            )
            for row in self.rows
        )

    def __add__(self, other: Scores) -> Scores:
        """Those of both. Raises ConfigError if they share a row."""
        return Scores.from_rows((*self.rows, *other.rows))

    def to_marl_eval(self, file: str | Path | None = None) -> dict[str, Any]:
        """As marl-eval's JSON, which is written to a file where one is named. Numbers that are not finite are null.

        marl-eval expects ``absolute_metrics`` of every run, and leaves out a step where it does not find it. Where
        there is no ``final/METRIC``, the last evaluation stands there.
        """
        made = tree(map(astuple, self.rows))
        if file is not None:
            write_json(Path(file), made)
        return made

    def to_csv(self, file: str | Path | None = None) -> str:
        """As comma-separated values with a header; episodes are separated by blanks. Written to a file if one is named.

        Numbers come back as they were.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            episodes = " ".join(map(repr, row.episodes))
            writer.writerow((*astuple(row)[:5], "" if math.isnan(row.value) else repr(row.value), episodes))
        if file is not None:
            Path(file).write_text(text.getvalue(), encoding="utf-8", newline="")
        return text.getvalue()

    def to_pandas(self) -> pandas.DataFrame:
        """As a table of pandas (extra ``notebook``), a column for each field.

        Raises:
            ConfigError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("pandas is not installed: pip install 'marl-system[notebook]'") from None
        return pandas.DataFrame([astuple(row) for row in self.rows], columns=list(COLUMNS))

    def __repr__(self) -> str:
        """How much there is."""
        runs = {(row.task, row.algorithm, row.seed) for row in self.rows}
        return (
            f"<Scores: {len(runs):,} runs, {len(self.tasks):,} tasks, {len(self.algorithms):,} algorithms; "
            f"{', '.join(self.metrics)}>"
        )


def _row(number: int, row: ScoreRow | Mapping[str, Any] | Sequence[Any]) -> ScoreRow:
    if isinstance(row, Mapping):
        if unknown := sorted(map(str, row.keys() - set(COLUMNS))):
            raise ConfigError(f"scores: row {number}: unknown fields {', '.join(unknown)}; known: {', '.join(COLUMNS)}")
        values = {name: row[name] for name in COLUMNS if name in row}
    elif isinstance(row, ScoreRow):
        values = vars(row)
    else:
        values = dict(zip(COLUMNS, row, strict=False))
    if missing := [name for name in COLUMNS[:-1] if name not in values]:
        raise ConfigError(f"scores: row {number}: {', '.join(missing)} missing; expected {', '.join(COLUMNS)}")
    where = f"scores: row {number}"
    return ScoreRow(
        _name(f"{where}: task", values["task"]),
        _name(f"{where}: algorithm", values["algorithm"]),
        _whole(f"{where}: seed", values["seed"]),
        _whole(f"{where}: step", values["step"]),
        _name(f"{where}: metric", values["metric"]),
        _number(f"{where}: value", values["value"]),
        tuple(_number(f"{where}: episodes", one) for one in values.get("episodes", ())),
    )


def _name(where: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise ConfigError(
            f"{where}: expected a name of at most {LONGEST_NAME} characters in one line, got {value!r:.80}"
        )
    return value


def _whole(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
        raise ConfigError(f"{where}: expected a whole number of at least 0, got {value!r:.80}")
    return int(value)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ConfigError(f"{where}: expected a number, got {value!r:.80}")
    try:
        number = float(value)
    except OverflowError:
        number = math.nan
    return number if math.isfinite(number) else math.nan


def _said(row: ScoreRow) -> str:
    return f"{row.metric} of {row.task}, {row.algorithm}, seed {row.seed} at step {row.step:,}"
