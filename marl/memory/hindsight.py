"""Hindsight relabeling (Andrychowicz et al. 2017): what was reached instead of the goal becomes the goal."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.grid.credit import Credit
from marl.spaces import flat_width, without_mask
from marl.types import Array, ConfigError, TeamSpec

STRATEGIES = ("future", "final", "episode")
GOALS = ("achieved_goal", "desired_goal", "observation")


@dataclass(frozen=True)
class Hindsight:
    """Relabel a share of every draw with goals that were reached in the same episode.

    Observations follow Gymnasium's goal convention: a ``Dict`` with ``achieved_goal``, ``desired_goal`` and
    ``observation``.

    Args:
        reward: ``"module:function"``; the function maps achieved and desired goals ``(K, G)`` to rewards ``(K,)``, as
            ``GoalEnv.compute_reward(achieved, desired, info)`` does (``info`` is None).
        strategy: goals come from later in the episode (``"future"``), its last step (``"final"``) or any of its steps
            (``"episode"``).
        share: of the draw that is relabeled; 0.8 is four to one.
    """

    reward: str
    strategy: str = "future"
    share: float = 0.8

    def __post_init__(self) -> None:
        """Check the values."""
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"Hindsight.strategy: expected one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"Hindsight.share: expected a number from 0 to 1, got {self.share!r}")
        if not isinstance(self.reward, str) or ":" not in self.reward:
            raise ConfigError(f"Hindsight.reward: expected 'module:function', got {self.reward!r}")

    def function(self) -> Callable[[Array, Array, Any], Array]:
        """The reward function. Raises ConfigError if it is not there."""
        module_name, _, name = self.reward.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"Hindsight.reward: cannot find {self.reward!r} ({error})") from None
        if not callable(found):
            raise ConfigError(f"Hindsight.reward: {self.reward!r} is no function")
        return found  # type: ignore[no-any-return]


class Relabel:
    """Where goals stand in a team's observation, and how a draw gets new ones."""

    def __init__(self, choice: Hindsight, team: TeamSpec, credit: Credit) -> None:
        """Refuses teams without goals. ``credit`` shares the rewards of new goals as those of the old ones."""
        self.choice, self.reward, self.credit = choice, choice.function(), credit
        self.achieved, self.desired = goal_places(team)

    def __call__(self, obs: Tensor, next_obs: Tensor, reward: Tensor, reached: Tensor, chosen: Tensor) -> None:
        """Put goals ``reached (B, N, G)`` where ``chosen (B, N)``, in place; rewards ``(B, N)`` follow from them.

        ``obs`` and ``next_obs`` are ``(B, N, O)``.
        """
        if not bool(chosen.any()):
            return
        goal = reached[chosen]  # (K, G)
        for rows in (obs, next_obs):
            part = rows[chosen]
            part[..., self.desired] = goal
            rows[chosen] = part
        paid = np.asarray(self.reward(next_obs[chosen][:, self.achieved].numpy(), goal.numpy(), None))
        earned = torch.zeros_like(reward)
        earned[chosen] = torch.from_numpy(paid.astype(np.float32))
        earned = torch.from_numpy(self.credit.share_rewards(earned.numpy())).to(reward).expand(reward.shape)
        if self.credit.shared:
            chosen = chosen.any(-1, keepdim=True).expand(reward.shape)
        torch.where(chosen, earned, reward, out=reward)


def goal_places(team: TeamSpec) -> tuple[slice, slice]:
    """Places of the achieved and the desired goal in the flattened observation. Raises ConfigError without goals."""
    found = []
    for agent, raw in zip(team.agents, team.observation_spaces, strict=True):
        space = without_mask(raw)
        if not isinstance(space, spaces.Dict) or not set(GOALS) <= set(space.spaces):
            raise ConfigError(
                f"hindsight: agent {agent!r} of team {team.name!r} has no goals; expected a Dict observation with "
                f"{', '.join(GOALS)}, got {space}"
            )
        places, start = {}, 0
        for key, part in space.spaces.items():
            width = flat_width(part)
            places[key] = slice(start, start + width)
            start += width
        found.append((places["achieved_goal"], places["desired_goal"]))
    if any(pair != found[0] for pair in found):
        raise ConfigError(
            f"hindsight: the agents of team {team.name!r} have goals in different places; use one team each"
        )
    return found[0]
