"""What a curriculum is: settings that build a scheduler, which draws tasks and takes in results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from marl.curriculum.rules import Outcome, Success
from marl.curriculum.tasks import Space, Task
from marl.schedules import Clock
from marl.types import Array


class Scheduler(Protocol):
    """A built curriculum: draws tasks, takes in results."""

    def draw(self, count: int, clock: Clock) -> tuple[Array, dict[str, Array]]:
        """A choice of its own, to be handed back with the result, and the parameters: arrays ``(count,)``."""
        ...

    def learn(self, outcomes: Sequence[Outcome], clock: Clock) -> bool:
        """Take in results. True: draw anew what is chosen for episodes that have not begun."""
        ...

    def metrics(self) -> dict[str, float]:
        """What to log."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All of it, random stream included."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


class Curriculum(Protocol):
    """A frozen dataclass that builds a scheduler."""

    @property
    def target(self) -> Task:
        """The tasks that evaluation plays; parameters left out keep the world's defaults."""
        ...

    @property
    def success(self) -> Success:
        """What a success is, where the world does not report it."""
        ...

    @property
    def parameters(self) -> frozenset[str]:
        """The task parameters it chooses."""
        ...

    def check(self, steps: int | None) -> None:
        """Refuse what cannot be, in a training of so many steps. Raises ConfigError."""
        ...

    def build(self, space: Space, seed: np.random.SeedSequence) -> Scheduler:
        """Make the scheduler. Raises ConfigError for parameters that the world does not have."""
        ...


def stream_state(random: np.random.Generator) -> dict[str, Any]:
    """The state of a random stream, as JSON values."""
    return dict(random.bit_generator.state)
