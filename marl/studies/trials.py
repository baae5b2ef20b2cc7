"""The trials of a search in a journal of Optuna (extra ``tune``): proposed, reported, pruned, told."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marl.studies.halving import goes_on
from marl.studies.search import Search
from marl.studies.spaces import Choice, Dimension, IntUniform, LogUniform
from marl.types import ConfigError

if TYPE_CHECKING:
    import optuna

STUDY_NAME = "marl"
COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"
WHY = "why"  # the attribute of a trial that says why it ended


@dataclass(frozen=True)
class Proposal:
    """Settings to try.

    Args:
        number: of the trial, from 0 on.
        settings: values in words, by name.
    """

    number: int
    settings: Mapping[str, str]

    @property
    def assignments(self) -> tuple[str, ...]:
        """The same as ``marl train --set`` takes them."""
        return tuple(f"{key}={value}" for key, value in self.settings.items())


@dataclass(frozen=True)
class TrialRow:
    """A trial as the journal has it.

    Args:
        number: of the trial.
        status: ``complete``, ``pruned``, ``failed`` or ``running``.
        settings: values in words, by name.
        value: the mean over seeds; of one that was pruned, what it was pruned with; None: there is none.
        steps: environment steps that were trained.
        values: the mean over the seeds so far, by steps.
        why: it ended early.
    """

    number: int
    status: str
    settings: Mapping[str, str]
    value: float | None
    steps: int
    values: Mapping[int, float] = field(default_factory=dict)
    why: str = ""


class Trials:
    """Trials of a search.

    Proposals depend on the journal alone: each draws from a stream of its own, so that a search that was killed goes
    on as it would have.

    Args:
        path: of the journal; it is made, or gone on with.
        search: what is searched.
        first_rung: steps after which a pruner may end a trial for the first time.
        most_steps: steps of a trial, all seeds together.

    Raises:
        ConfigError: if Optuna is not installed, or the journal is damaged.
    """

    def __init__(self, path: Path, search: Search, first_rung: int, most_steps: int) -> None:
        """Open the journal. Nobody else may write there."""
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
        except ImportError:
            raise ConfigError("optuna is not installed: pip install 'marl-system[tune]'") from None

        class Ours(JournalFileOpenLock):
            """Whoever opens trials has locked their folder; a lock beside it would outlive a process that is killed."""

            def acquire(self) -> bool:
                return True

            def release(self) -> None:
                pass

        self._optuna, self.search = optuna, search
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _mend(path)
        try:
            self._storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=Ours(str(path))))
            self._study: optuna.Study = optuna.create_study(
                storage=self._storage,
                study_name=STUDY_NAME,
                direction="maximize",
                load_if_exists=True,
                pruner=_pruner(search, first_rung, most_steps),
                sampler=optuna.samplers.RandomSampler(),
            )
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None
        except Exception as error:
            raise ConfigError(f"{path}: is no journal of a search ({' '.join(str(error).split())})") from None

    def ask(self) -> Proposal | None:
        """The next settings to try; None: there are as many trials as were asked for."""
        number = len(self._study.get_trials(deepcopy=False))
        if number >= self.search.trials:
            return None
        self._study.sampler = self._sampler(number)
        return self._suggest(self._study.ask())

    def begun(self) -> list[Proposal]:
        """Trials that began and have not ended: whoever trained them is gone."""
        running = self._study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,))
        found = []
        for frozen in running:
            self._study.sampler = self._sampler(frozen.number)
            found.append(self._suggest(self._optuna.trial.Trial(self._study, frozen._trial_id)))
        return found

    def report(self, number: int, steps: int, value: float) -> bool:
        """Note the mean over seeds after so many steps; whether that is so bad that the trial is to end.

        The same again, after a trial was interrupted, is not noted again.
        """
        trial = self._trial(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if steps not in trial.storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(value, steps)
            return bool(trial.should_prune())

    def complete(self, number: int, value: float) -> None:
        """A trial is over."""
        self._tell(number, self._optuna.trial.TrialState.COMPLETE, value)

    def prune(self, number: int, why: str) -> None:
        """A trial is over before its end."""
        self._why(number, why)
        self._tell(number, self._optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, why: str) -> None:
        """A trial cannot be trained."""
        self._why(number, why)
        self._tell(number, self._optuna.trial.TrialState.FAIL)

    def rows(self) -> list[TrialRow]:
        """All trials so far."""
        names = {"COMPLETE": COMPLETE, "PRUNED": PRUNED, "FAIL": FAILED}
        found = []
        for one in self._study.get_trials(deepcopy=False):
            values = {step: value for step, value in sorted(one.intermediate_values.items())}
            last = next(reversed(values.values()), None)
            value = one.value if one.state.name == "COMPLETE" else last
            found.append(
                TrialRow(
                    one.number,
                    names.get(one.state.name, RUNNING),
                    {key: _in_words(self.search.space[key], item) for key, item in one.params.items()},
                    None if value is None or not math.isfinite(value) else value,
                    one.last_step or 0,
                    values,
                    str(one.user_attrs.get(WHY, "")),
                )
            )
        return found

    def best(self) -> TrialRow | None:
        """The best trial that was trained to its end; of equal ones the first."""
        whole = [row for row in self.rows() if row.status == COMPLETE and row.value is not None]
        return max(whole, key=lambda row: row.value or 0.0, default=None)

    def importances(self) -> dict[str, float]:
        """How much each setting decides about being among the best (PED-ANOVA, Watanabe et al. 2023), largest first.

        Sums to 1. Empty where too few trials were trained to their end.
        """
        whole = [row for row in self.rows() if row.status == COMPLETE]
        if len(whole) < 4 or len({row.value for row in whole}) < 2:
            return {}
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 2 / len(whole)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = get_param_importances(self._study, evaluator=evaluator)
            except (RuntimeError, ValueError):  # nothing varies
                return {}
        return {key: float(value) for key, value in found.items() if math.isfinite(value)}

    def _trial(self, number: int) -> optuna.Trial:
        return self._optuna.trial.Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    def _tell(self, number: int, state: Any, value: float | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.tell(number, value, state)

    def _why(self, number: int, why: str) -> None:
        self._trial(number).set_user_attr(WHY, why)

    def _suggest(self, trial: optuna.Trial) -> Proposal:
        """The settings of a trial; those that it has already stay."""
        chosen: dict[str, str] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for key, dimension in self.search.ordered().items():
                if self.search.asked_for(key, chosen):
                    chosen[key] = _in_words(dimension, _suggested(trial, key, dimension))
        return Proposal(trial.number, chosen)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """What proposes a trial's settings, from a stream of the trial's own."""
        samplers, name = self._optuna.samplers, self.search.sampler
        stream = int(np.random.SeedSequence([self.search.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: optuna.samplers.BaseSampler
            if name == "qmc":  # points of one sequence, whose number is the trial's
                made = samplers.QMCSampler(seed=self.search.seed, warn_independent_sampling=False)
            else:
                kinds = {"tpe": samplers.TPESampler, "random": samplers.RandomSampler, "gp": samplers.GPSampler}
                made = kinds[name](seed=stream)
        return made


def _pruner(search: Search, first_rung: int, most_steps: int) -> Any:
    """What ends bad trials."""
    from optuna import pruners

    class Halving(pruners.BasePruner):
        """Asynchronous successive halving by the values in the journal alone.

        Optuna's own notes a rung before it decides, so a trial that is killed in between is never decided on.
        """

        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            step, rung = trial.last_step, first_rung
            while step is not None and rung < step:
                rung *= search.reduction
            if step != rung:
                return False
            others = [one.intermediate_values for one in study.get_trials(deepcopy=False) if one.number != trial.number]
            value = trial.intermediate_values[step]
            there = [one[step] for one in others if step in one]
            return not goes_on(value, [*there, value], search.reduction)

    match search.pruner:
        case "halving":
            return Halving()
        case "hyperband":
            return pruners.HyperbandPruner(
                min_resource=first_rung, max_resource=most_steps, reduction_factor=search.reduction
            )
        case "median":
            return pruners.MedianPruner(n_startup_trials=min(5, search.trials), n_warmup_steps=0)
        case _:
            return pruners.NopPruner()


def _suggested(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(key, dimension.ends())
    if isinstance(dimension, IntUniform):
        return trial.suggest_int(key, dimension.low, dimension.high, log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=isinstance(dimension, LogUniform))


def _in_words(dimension: Dimension, value: Any) -> str:
    """A value that Optuna suggests, as ``--set`` takes it."""
    return str(value) if isinstance(dimension, Choice) else repr(value)


def _mend(path: Path) -> None:
    """Take away the half of a line that a process left which was killed while it wrote. Raises ConfigError."""
    try:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2**20))
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
