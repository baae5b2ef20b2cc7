"""Callbacks: objects that look on while a system trains; those that are shipped, and what your own ones extend."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from marl.checkpoint import MANIFEST
from marl.config import check_whole, unknown
from marl.playing.evaluate import Metrics
from marl.training.callback import Callback, RowFunction, Rows, Training
from marl.types import ConfigError

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "Evaluation",
    "ReduceLROnPlateau",
    "Training",
]


class _Best:
    """The best value of a metric so far, and how many values came since that were not better."""

    def __init__(self, where: str, mode: str, least_change: float) -> None:
        if mode not in ("max", "min"):
            raise ConfigError(f"{where}: mode: expected 'max' or 'min', got {mode!r}")
        if not 0 <= least_change < math.inf:
            raise ConfigError(f"{where}: least_change: expected a number of at least 0, got {least_change!r}")
        self.sign, self.least_change = 1.0 if mode == "max" else -1.0, least_change
        self.value: float | None = None
        self.waited = 0

    def take(self, value: float) -> bool:
        """Whether it is better than all before, by ``least_change`` at least."""
        better = self.value is None or self.sign * (value - self.value) > self.least_change
        if better:
            self.value = value
        self.waited = 0 if better else self.waited + 1
        return better

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.waited = state["value"], int(state["waited"])


class _Plateau:
    """Rows of metrics, one of which has not become better for a while."""

    def __init__(self, where: str, metric: str, patience: int, mode: str, least_change: float) -> None:
        self.where, self.metric, self.patience = where, metric, check_whole(f"{where}.patience", patience, 1)
        self.best = _Best(where, mode, least_change)

    def reached(self, row: Mapping[str, float]) -> bool:
        """Whether a row has the metric, and it was not better for as many rows as the patience says."""
        value = row.get(self.metric)
        if value is None or not math.isfinite(value):
            return False
        self.best.take(value)
        if self.best.waited < self.patience:
            return False
        self.best.waited = 0  # whoever goes on after this wants to wait as long again
        return True

    def tell_missing(self, history: Mapping[str, Any]) -> None:
        """Say so if the metric was in no row."""
        if self.best.value is None and history.get("steps"):
            known = [name for name in history if not name.startswith("episode_")]
            text = unknown(self.where, self.metric, sorted(known), "metric")
            logging.getLogger("marl.training").warning("%s: no row had it, so nothing was done", text)


class EarlyStopping(Callback):
    """Ends the training once a metric has not become better for some rows.

    Args:
        metric: of rows of metrics; only rows that have it count. ``evaluation_return`` is in those of evaluations.
        patience: so many such rows in a row that are not better.
        mode: ``"max"`` or ``"min"``: what is better.
        least_change: a change of at most so much is none.
    """

    def __init__(
        self,
        metric: str = "evaluation_return",
        patience: int = 5,
        *,
        mode: Literal["max", "min"] = "max",
        least_change: float = 0.0,
    ) -> None:
        """The class documents the arguments."""
        self.plateau = _Plateau("EarlyStopping", metric, patience, mode, least_change)

    def on_log(self, training: Training, row: Mapping[str, float]) -> None:
        """Look at the metric."""
        plateau = self.plateau
        if plateau.reached(row):
            rows = f"{plateau.patience} rows"
            training.stop(f"{plateau.metric} was not better than {plateau.best.value:g} in {rows}")

    def on_end(self, training: Training) -> None:
        """Say so if the metric was in no row."""
        self.plateau.tell_missing(training.system.history)

    def state_dict(self) -> dict[str, Any]:
        """The best value, and how long it is since."""
        return self.plateau.best.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.plateau.best.load_state_dict(state)


class ReduceLROnPlateau(Callback):
    """Lowers the learning rate of every team each time that a metric has not become better for some rows.

    Args:
        metric: of rows of metrics; only rows that have it count.
        patience: so many such rows in a row that are not better.
        factor: what the learning rate is multiplied by. A schedule becomes a number: its value of now, times this.
        least: the learning rate is never made lower than this.
        mode: ``"max"`` or ``"min"``: what is better.
        least_change: a change of at most so much is none.
        setting: what is lowered, such as ``TEAM.lr`` for one team alone.
    """

    def __init__(
        self,
        metric: str = "mean_return",
        patience: int = 10,
        *,
        factor: float = 0.5,
        least: float = 0.0,
        mode: Literal["max", "min"] = "max",
        least_change: float = 0.0,
        setting: str = "learner.lr",
    ) -> None:
        """The class documents the arguments."""
        self.plateau = _Plateau("ReduceLROnPlateau", metric, patience, mode, least_change)
        if not 0 < factor < 1:
            raise ConfigError(f"ReduceLROnPlateau.factor: expected a number above 0 and below 1, got {factor!r}")
        self.factor, self.least, self.setting = factor, least, setting

    def on_start(self, training: Training) -> None:
        """Refuse a setting that may not change, before anything is trained."""
        training.value(self.setting)

    def on_log(self, training: Training, row: Mapping[str, float]) -> None:
        """Look at the metric."""
        if self.plateau.reached(row):
            now = training.value(self.setting)
            if now > self.least:
                training.change(self.setting, max(now * self.factor, self.least))

    def on_end(self, training: Training) -> None:
        """Say so if the metric was in no row."""
        self.plateau.tell_missing(training.system.history)

    def state_dict(self) -> dict[str, Any]:
        """The best value, and how long it is since."""
        return self.plateau.best.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.plateau.best.load_state_dict(state)


class Checkpoint(Callback):
    """Saves the system every so many steps, to ``FOLDER/step-N``.

    Args:
        folder: of the checkpoints.
        every: environment steps, all copies counted.
        keep: of the checkpoints in the folder so many of the newest are kept; None: all.
    """

    def __init__(self, folder: str | Path, every: int, *, keep: int | None = None) -> None:
        """The class documents the arguments."""
        self.folder, self.every = Path(folder), check_whole("Checkpoint.every", every, 1)
        self.keep = None if keep is None else check_whole("Checkpoint.keep", keep, 1)

    def on_step(self, training: Training) -> None:
        """Save if it is time."""
        if training.every(self.every):
            training.save(self.folder / f"step-{training.steps:012d}")

    def on_save(self, training: Training, path: Path) -> None:
        """Remove old ones, now that a newer one is whole."""
        if self.keep is not None and path.parent == Path(os.path.abspath(self.folder)):
            there = sorted(one for one in path.parent.glob("step-" + "[0-9]" * 12) if (one / MANIFEST).is_file())
            for old in there[: -self.keep]:
                if old != path and not old.is_symlink():
                    shutil.rmtree(old, ignore_errors=True)


class Evaluation(Callback):
    """Evaluates the system every so many steps; the best state may be kept.

    Rows of these steps have ``evaluation_return`` and ``evaluation/NAME`` for each metric.

    Args:
        every: environment steps, all copies counted.
        episodes: of each evaluation.
        metrics: functions of an episode's record, as for ``system.evaluate``.
        best: a checkpoint that the best state so far is written to; None: none.
        by: what decides which is the best: ``"return"``, or one of the metrics.
        mode: ``"max"`` or ``"min"``: what is better.
        seed: of the evaluations; None: as for ``system.evaluate``, the same for all of them.
    """

    def __init__(
        self,
        every: int,
        episodes: int = 20,
        *,
        metrics: Metrics | None = None,
        best: str | Path | None = None,
        by: str = "return",
        mode: Literal["max", "min"] = "max",
        seed: int | None = None,
    ) -> None:
        """The class documents the arguments."""
        self.every = check_whole("Evaluation.every", every, 1)
        self.episodes = check_whole("Evaluation.episodes", episodes, 1)
        self.metrics, self.seed, self.folder = metrics, seed, None if best is None else Path(best)
        if by not in ("return", *(metrics or ())):
            raise ConfigError(unknown("Evaluation.by", by, ("return", *(metrics or ())), "metric"))
        self.by, self.best = by, _Best("Evaluation", mode, 0.0)

    def on_start(self, training: Training) -> None:
        """Refuse an environment of which there is one only, before anything is trained."""
        training.system.environments.refuse_single(self.name or "Evaluation")

    def on_step(self, training: Training) -> None:
        """Evaluate if it is time."""
        if not training.every(self.every):
            return
        report = training.evaluate(self.episodes, metrics=self.metrics, seed=self.seed)
        value = report.mean_return if self.by == "return" else report.metrics[self.by].mean
        if math.isfinite(value) and self.best.take(value) and self.folder is not None:
            training.save(self.folder)

    def state_dict(self) -> dict[str, Any]:
        """The best value, where the best state is kept."""
        return {} if self.folder is None else self.best.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.best.load_state_dict(state)


def as_callbacks(
    callbacks: Sequence[Callback],
    function: RowFunction | None,
    evaluate_every: int | None,
    episodes: int,
    seed: int | None = None,
) -> list[Callback]:
    """All that ``train`` was given as callbacks. Raises ConfigError for what has no meaning."""
    found = list(callbacks)
    if evaluate_every is not None:
        every = check_whole("evaluate_every", evaluate_every, 1)
        seed = None if seed is None else check_whole("evaluate_seed", seed, 0)
        evaluation = Evaluation(every, check_whole("evaluate_episodes", episodes, 1), seed=seed)
        evaluation.name = "evaluate_every"
        found.insert(0, evaluation)
    if function is not None:
        if not callable(function):
            raise ConfigError(f"train: callback: expected None or something to call, got {function!r}")
        found.append(Rows(function))
    return found
