"""Rewards in units of their returns' standard deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from marl.shaping.hook import Hook, HookContext, TeamTransition, check_number
from marl.shaping.rows import Moments
from marl.types import Array


@dataclass(frozen=True)
class RunningNormalize:
    """``r / std(R)`` with ``R <- gamma R + r`` so far, clipped: rewards whose returns vary by about one.

    Args:
        discount: gamma of ``R``.
        clip: greatest absolute reward.
    """

    discount: float = 0.99
    clip: float = 10.0
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_number("RunningNormalize.discount", self.discount, 0, 1)
        check_number("RunningNormalize.clip", self.clip, 1e-12)

    def build(self, context: HookContext) -> Hook:
        """Returns of every copy and agent, and their variance."""
        return _RunningNormalize(self, context)


class _RunningNormalize:
    def __init__(self, config: RunningNormalize, context: HookContext) -> None:
        self.config = config
        self.returns = np.zeros((context.num_envs, context.team.num_agents))
        self.moments = Moments(1)

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        self.returns = self.returns * self.config.discount + reward  # (E, N)
        self.moments.update(self.returns[transition.acting][:, None])
        self.returns[transition.started] = 0.0
        scaled: Array = (reward / self.moments.std).clip(-self.config.clip, self.config.clip)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        return {"returns": self.returns, "moments": self.moments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.returns = np.array(state["returns"])
        self.moments.load_state_dict(state["moments"])
