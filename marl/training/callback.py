"""Callbacks: objects that look on while a system trains, stop it, save it, and change what may be changed."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from marl.schedules import Clock
from marl.training.part import Part
from marl.types import ConfigError, Episode

RowFunction = Callable[[dict[str, float]], bool | None]


class Training:
    """The training that a callback looks on.

    Args:
        system: the :class:`~marl.MultiAgentSystem` that trains.
        callbacks: everybody who looks on, by name.
    """

    def __init__(self, system: Any, callbacks: Mapping[str, Callback]) -> None:
        """Nothing is asked for yet."""
        self.system, self.callbacks = system, callbacks
        self.stopped: str | None = None
        self.numbers: dict[str, float] = {}  # for the next row of metrics
        self.measured: dict[str, float] = {}  # for a row at once
        self.wanted: list[Path] = []  # checkpoints to write once the step is over

    @property
    def steps(self) -> int:
        """Environment steps so far, all copies counted."""
        steps: int = self.system.steps
        return steps

    @property
    def total(self) -> int | None:
        """The step at which the training ends; None where episodes or a rule end it."""
        total: int | None = self.system.training.total
        return total

    def every(self, steps: int) -> bool:
        """Whether the count of environment steps has just reached a multiple of ``steps``, or passed one."""
        before: int = self.steps - self.system.num_envs
        return self.steps // steps > before // steps

    def stop(self, reason: str = "") -> None:
        """End the training after this step; its last row is logged. The reason is logged too.

        A run that ended for a reason is over: it resumes only with another number of steps. Without a reason it resumes
        as one that was interrupted.
        """
        if not self.stopped and reason:
            logging.getLogger("marl.training").info("step %s: stopped: %s", f"{self.steps:,}", reason)
        self.stopped = self.stopped or reason

    def log(self, numbers: Mapping[str, float]) -> None:
        """Put numbers into the next row of metrics; of one that is given twice the later value counts."""
        self.numbers |= {name: float(value) for name, value in numbers.items()}

    def value(self, setting: str) -> Any:
        """A setting that may change, as it is now: see :meth:`marl.MultiAgentSystem.change`."""
        return self.system.value(setting)

    def change(self, setting: str, value: Any) -> None:
        """Give a setting another value, from the next step on: see :meth:`marl.MultiAgentSystem.change`."""
        self.system.change(setting, value)

    def save(self, path: str | Path) -> None:
        """Write a checkpoint as soon as this step is over and everybody has looked on."""
        self.wanted.append(Path(path))

    def evaluate(self, episodes: int = 20, **options: Any) -> Any:
        """Evaluate as ``system.evaluate`` does, log it, and tell every callback.

        It is in a row of this step, or in the next row once this step's is logged.
        """
        report = self.system.evaluate(episodes, **options)
        self.measured["evaluation_return"] = report.mean_return
        self.measured |= {f"evaluation/{name}": found.mean for name, found in report.metrics.items()}
        for callback in self.callbacks.values():
            callback.on_evaluation(self, report)
        return report


class Callback:
    """Looks on while a system trains. Extend it, override the moments that you need, pass it to ``train(callbacks=)``.

    Every moment gets the :class:`Training`, and comes after everything of a step has been remembered and learnt from.
    What ``state_dict`` returns is in checkpoints, and comes back where the callback is given to ``train`` again.

    Attributes:
        name: under which its state is kept; empty: the class's name, numbered where there are several.
    """

    name: str = ""

    def on_start(self, training: Training) -> None:
        """``train`` was called; after that the first step is taken."""

    def on_step(self, training: Training) -> None:
        """A step of all copies is over."""

    def on_episode_end(self, training: Training, episode: Episode) -> None:
        """An episode of one copy ended in this step: its ``returns`` by agent, ``length``, and numbers in ``info``."""

    def on_update_end(self, training: Training, team: str, metrics: Mapping[str, float]) -> None:
        """A team's learner has learnt in this step; ``metrics`` are what it says of that."""

    def on_evaluation(self, training: Training, report: Any) -> None:
        """The system was evaluated (:class:`marl.Report`)."""

    def on_log(self, training: Training, row: Mapping[str, float]) -> None:
        """A row of metrics was logged."""

    def on_save(self, training: Training, path: Path) -> None:
        """A checkpoint was written; what is changed now is in the next one."""

    def on_end(self, training: Training) -> None:
        """The training is over. Not called if an error ended it."""

    def state_dict(self) -> Any:
        """Everything that an exact resume needs: a tree of tensors, arrays and JSON values."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Go back to a saved state."""


class Rows(Callback):
    """``train(callback=f)``: a function of each row of metrics, whose True stops."""

    def __init__(self, function: RowFunction) -> None:
        """``function``: of a row."""
        self.function = function

    def on_log(self, training: Training, row: Mapping[str, float]) -> None:
        """Call it with a row of its own."""
        if self.function(dict(row)):
            training.stop()


class CallbacksPart(Part):
    """The part of the training loop that tells callbacks. Between two trainings it holds those of the last one."""

    name = "callbacks"

    def __init__(self) -> None:
        """There are none."""
        self.training: Training | None = None
        self.callbacks: dict[str, Callback] = {}
        self.own: list[Callback] | None = None  # copies of the scenario's
        self.stopped: str | None = None  # why one of them ended the last training
        self.kept: dict[str, Any] = {}  # states of a checkpoint whose callbacks were not given again so far
        self.numbers: dict[str, float] = {}
        self.updates: list[tuple[int, Mapping[str, Tensor]]] = []  # of this step

    def begin_training(self, system: Any, callbacks: Sequence[Callback]) -> None:
        """Tell these from now on, and those of the system's scenario. Raises ConfigError for what is no callback."""
        if self.own is None:
            self.own = _copied(system.scenario)
        self.callbacks = _named([*self.own, *callbacks])
        for name in [name for name in self.kept if name in self.callbacks]:
            self.callbacks[name].load_state_dict(self.kept.pop(name))
        if self.kept:
            logging.getLogger("marl.training").warning(
                "callbacks that were there when this was saved are not given again, so the run goes on without them: "
                "%s; pass them to train(callbacks=[...])",
                ", ".join(self.kept),
            )
        self.training, self.stopped = Training(system, self.callbacks), None
        self.training.numbers, self.numbers = self.numbers, {}

    def tell_end(self) -> None:
        """The training has come to its end."""
        for callback in self._all:
            callback.on_end(self._now)
        self._keep_measured()  # before checkpoints are written
        self.settled()

    def end_training(self) -> None:
        """Tell nobody any more; their states stay in checkpoints."""
        if self.training is not None:
            self.numbers, self.training = self.training.numbers, None

    def uses(self, hook: str) -> bool:
        """The loop calls what a callback overrides, and nothing between two trainings."""
        if self.training is None:
            return False
        wanted = {
            "learned": ("on_update_end",),
            "updated": ("on_step", "on_episode_end", "on_update_end"),
        }.get(hook)
        if wanted is None or not self.callbacks:
            return bool(self.callbacks)
        return any(getattr(type(one), name) is not getattr(Callback, name) for one in self._all for name in wanted)

    def start(self) -> None:
        """Before the first step."""
        for callback in self._all:
            callback.on_start(self._now)

    def learned(self, place: int, metrics: Mapping[str, Tensor]) -> None:
        """Remember it until the step is over."""
        self.updates.append((place, metrics))

    def updated(self, clock: Clock) -> Sequence[int]:
        """The step is over: tell of it, of the episodes that ended in it, and of the updates."""
        training, system = self._now, self._now.system
        for callback in self._all:
            callback.on_step(training)
        if system.training.finished and self._overrides("on_episode_end"):
            for episode in system.training.newest:
                for callback in self._all:
                    callback.on_episode_end(training, episode)
        updates, self.updates = self.updates, []
        for place, metrics in updates:
            told = {name: float(value) for name, value in metrics.items()}
            for callback in self._all:
                callback.on_update_end(training, system.spec.teams[place].name, told)
        return ()

    def measured(self) -> dict[str, float]:
        """What was measured in this step."""
        training = self._now
        found, training.measured = training.measured, {}
        return found

    def ended(self) -> bool:
        """Whether somebody has asked for the end."""
        self.stopped = self._now.stopped
        return self.stopped is not None

    def metrics(self) -> dict[str, float]:
        """What callbacks log."""
        training = self._now
        found, training.numbers = training.numbers, {}
        return found

    def logged(self, row: Mapping[str, float]) -> None:
        """Tell of a row."""
        for callback in self._all:
            callback.on_log(self._now, row)
        self._keep_measured()

    def settled(self) -> None:
        """Write the checkpoints that were asked for, now that they hold all of the step."""
        training = self._now
        wanted, training.wanted = training.wanted, []
        for path in wanted:
            training.system.save(path)
        self._keep_measured()

    def _keep_measured(self) -> None:
        """What was measured after this step's row is in the next one."""
        training = self._now
        training.numbers, training.measured = training.numbers | training.measured, {}

    def saved(self, path: Path) -> Path:
        """Tell of a checkpoint, and return it."""
        if self.training is not None:
            for callback in self._all:
                callback.on_save(self.training, path)
        return path

    def state_dict(self) -> Any:
        """The states of those that have one, and what waits for the next row; None if there is nothing."""
        found = {name: state for name, one in self.callbacks.items() if (state := one.state_dict())}
        numbers = self.numbers if self.training is None else self.training.numbers
        states = self.kept | found
        said = {"states": states, "numbers": dict(numbers)} if states or numbers else {}
        return said | ({"stopped": self.stopped} if self.stopped else {}) or None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the states for the callbacks of these names."""
        self.kept, self.numbers = dict(state.get("states", {})), dict(state.get("numbers", {}))
        self.stopped = state.get("stopped")

    @property
    def _now(self) -> Training:
        assert self.training is not None
        return self.training

    @property
    def _all(self) -> list[Callback]:
        return list(self.callbacks.values())

    def _overrides(self, moment: str) -> bool:
        return any(getattr(type(one), moment) is not getattr(Callback, moment) for one in self._all)


def _copied(scenario: Any) -> list[Callback]:
    """Copies of a scenario's callbacks: what they remember is of one training. Raises ConfigError."""
    try:
        return [] if scenario is None else copy.deepcopy(list(scenario.callbacks))
    except Exception as error:
        raise ConfigError(
            f"scenario {scenario.name!r}: callbacks: cannot be copied ({error}); let them open files in on_start"
        ) from error


def _named(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Callbacks by name, numbered where several have the same. Raises ConfigError for what is no callback."""
    found: dict[str, Callback] = {}
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks: expected instances of marl.callbacks.Callback, got {callback!r:.80}; a function of rows "
                "is callback="
            )
        name = own = callback.name or type(callback).__name__
        number = 1
        while name in found:
            number += 1
            name = f"{own}-{number}"
        found[name] = callback
    return found
