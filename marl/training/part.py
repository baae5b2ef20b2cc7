"""Parts: what an optional feature is to the training loop, which knows none of them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from marl.learners import Learner
from marl.memory.base import Decision, PolicyInput
from marl.schedules import Clock
from marl.types import Array, BatchEnv, Step


@dataclass
class Choice:
    """The joint action of one step, before the environment steps; parts may replace ``actions``.

    step: as the environment shows it; arrays are only lent, the next step overwrites them.
    seen: the same as learners see it.
    inputs, decisions: what each team's learner acted on and answered.
    actions: of each team, ``(E, N)`` or ``(E, N, A)``, as the environment will get them.
    """

    step: Step
    seen: Step
    inputs: Sequence[PolicyInput]
    decisions: Sequence[Decision]
    actions: list[Array]


@dataclass
class Transition:
    """One step of all copies after the environment has stepped; parts may replace ``seen`` and ``rewards``.

    env: the copies that train.
    actions: as the environment got them.
    step: the step after; ``step.teams[k].reward`` are the raw rewards.
    seen: the same as learners shall see it.
    rewards: what each team learns from instead of the raw rewards, ``(E, N)`` float32; None: those.
    before, now: the clock before and after.
    """

    env: BatchEnv
    actions: list[Array]
    step: Step
    seen: Step
    rewards: list[Array | None]
    before: Clock
    now: Clock


class Part:
    """A feature of the training loop. Extend it and override what the feature needs; the loop skips the rest.

    Every part has a ``name`` of its own, under which checkpoints keep what :meth:`state_dict` returns.
    """

    name: ClassVar[str]

    def uses(self, hook: str) -> bool:
        """Whether an overridden method has anything to do in this run: False spares the loop its call in every step."""
        return True

    def connect(self, learners: Sequence[Learner]) -> None:
        """Get the learners: once at first, and again when some of them were restarted."""

    def start(self) -> None:
        """Before the first step of every call of ``train``."""

    def options(self) -> Mapping[str, Any]:
        """Options of the environment's first reset."""
        return {}

    def begin(self, env: BatchEnv, step: Step, clock: Clock) -> None:
        """After the first reset of a new training."""

    def show(self, step: Step) -> Step:
        """The step as learners shall see it; changes nothing."""
        return step

    def acted(self, choice: Choice) -> None:
        """After the learners have chosen, before the environment steps."""

    def stepped(self, transition: Transition) -> None:
        """After the environment has stepped, before the learners remember."""

    def learns(self, place: int) -> bool:
        """Whether a team's learner may update now; else its updates are skipped."""
        return True

    def updated(self, clock: Clock) -> Sequence[int]:
        """After the updates of a step: the places of the learners to build anew before the next step."""
        return ()

    def learned(self, place: int, metrics: Mapping[str, Tensor]) -> None:
        """After an update of the learner in that place, with its metrics; perhaps while the environment steps."""

    def measured(self) -> dict[str, float]:
        """After every step: numbers for which a row of metrics is logged at once; usually none."""
        return {}

    def ended(self) -> bool:
        """After every step, and after a row was logged: whether training ends here, as by a limit of the user's."""
        return False

    def metrics(self) -> dict[str, float]:
        """What to log."""
        return {}

    def logged(self, row: Mapping[str, float]) -> None:
        """After a row of metrics was logged."""

    def settled(self) -> None:
        """At the very end of every step, where a checkpoint holds all of it and none of the next one."""

    def state_dict(self) -> Any:
        """Everything that an exact resume needs: a tree of tensors, arrays and JSON values."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Go back to a saved state."""


class PartHooks:
    """The methods that parts override and use, bound once, in the order of the parts."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Methods that no part overrides become empty lists."""
        self.parts = parts
        self.start = self._of("start")
        self.options = self._of("options")
        self.begin = self._of("begin")
        self.show = self._of("show")
        self.acted = self._of("acted")
        self.stepped = self._of("stepped")
        self.learns = self._of("learns")
        self.updated = self._of("updated")
        self.learned = self._of("learned")
        self.measured = self._of("measured")
        self.ended = self._of("ended")
        self.metrics = self._of("metrics")
        self.logged = self._of("logged")
        self.settled = self._of("settled")

    def _of(self, name: str) -> list[Callable[..., Any]]:
        plain = getattr(Part, name)
        parts = [part for part in self.parts if getattr(type(part), name) is not plain]
        return [getattr(part, name) for part in parts if part.uses(name)]
