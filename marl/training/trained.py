"""What a system tells of its training, and which of its settings change meanwhile."""

from __future__ import annotations

from typing import Any

from marl.training.history import History
from marl.training.state import TrainingState


class Trained:
    """How far a training is, and settings that may change between its steps."""

    training: TrainingState

    @property
    def history(self) -> History:
        """Everything logged so far."""
        return self.training.log.history

    @property
    def steps(self) -> int:
        """Environment steps of training so far, all copies counted."""
        return self.training.steps

    @property
    def episodes(self) -> int:
        """Episodes that ended in training so far."""
        return self.training.log.episodes

    def value(self, setting: str) -> Any:
        """A setting that may change, as it is now; of a schedule its value of now. Names as for :meth:`change`.

        Raises:
            ConfigError: if it is none of these, or if teams that the name means differ in it.
        """
        return self.training.value(setting)

    def change(self, setting: str, value: Any) -> None:
        """Give a setting another value, from the next step on. Checkpoints keep it, and a resumed run goes on with it.

        Args:
            setting: ``learner.lr`` (every team's), ``TEAM.lr``, ``shaping.0.weight``, ``curriculum.FIELD``, or a field
                of one of these: ``learner.exploration.epsilon``. What may change are fields of the type ``Schedule``,
                the exploration of off-policy learners, SAC's temperature, PPO's target_kl, and curricula.
            value: a number or schedule, or what else the setting may be.

        Raises:
            ConfigError: for a setting that may not change, naming those that may, and for a value that it cannot have.
        """
        self.training.change(setting, value)

    @property
    def changes(self) -> list[dict[str, Any]]:
        """When settings were changed, the newest at the end: ``step``, ``setting``, ``from`` and ``to``."""
        return list(self.training.changes)
