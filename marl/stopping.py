"""Rules that end a training run early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from marl.config import config, setting

__all__ = [
    "MeanReturn",
]


class Stop(Protocol):
    """Decides after each step in which an episode ended."""

    def __call__(self, episode_rewards: Sequence[float]) -> bool:
        """True ends the run; ``episode_rewards`` are the sums over agents of all episodes so far."""
        ...


@config
class MeanReturn:
    """Stop when the mean return of the last ``over`` episodes (sum over agents) is at least ``at_least``."""

    at_least: float = setting(0.0, "the mean return to reach")
    over: int = setting(100, "how many episodes the mean is over", least=1)
    measures: ClassVar[str] = "return"  # what a curriculum's stage that ends by this rule looks at

    def __call__(self, episode_rewards: Sequence[float]) -> bool:
        """Whether the rule is met."""
        recent = episode_rewards[-self.over :]
        return len(recent) == self.over and sum(recent) / self.over >= self.at_least
