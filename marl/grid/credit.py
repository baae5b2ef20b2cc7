"""Credit: whose reward an agent learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from marl.types import Array, TeamStep


class StepOutcome(Protocol):
    """Turns a team's step into the reward and ends that its learner sees."""

    def __call__(self, step: TeamStep, started: Array, reward: Array | None = None) -> tuple[Array, Array, Array]:
        """Reward, terminated, truncated ``(E, N)`` for learning; ``reward`` replaces the raw one (shaping).

        The arrays are read before the next step and may be overwritten then.
        """
        ...

    def state_dict(self) -> dict[str, Array]:
        """What it remembers of the running episodes."""
        ...

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Go back to a saved state."""
        ...


@runtime_checkable
class Credit(Protocol):
    """A choice of whose reward an agent learns from: a frozen dataclass.

    A credit of your own extends this class: it says how rewards are shared, and whatever else is not as here.
    """

    @property
    def shared(self) -> bool:
        """Whether agents learn from each other's rewards, and so until the whole team's end."""
        return True

    @property
    def by_team(self) -> bool:
        """Whether turns are the team's: a transition runs from a row in which any agent acts to the next such row."""
        return False

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return False

    def share_rewards(self, reward: Array) -> Array:
        """What agents learn from, ``(..., N)``, of the rewards ``(..., N)`` of their team, NumPy arrays both.

        ``(..., 1)`` will do where it is the same for each and the credit is :attr:`shared`.
        """
        ...

    def outcome(self, num_envs: int, num_agents: int) -> StepOutcome:
        """What a memory of ``(E, N)`` asks for rewards and ends."""
        return TeamOutcome(self.share_rewards, num_envs, num_agents) if self.shared else OwnOutcome(self.share_rewards)


@dataclass(frozen=True)
class Independent(Credit):
    """Every agent learns from its own reward, until its own end."""

    @property
    def shared(self) -> bool:
        """No."""
        return False

    def share_rewards(self, reward: Array) -> Array:
        """Each agent's own."""
        return reward


@dataclass(frozen=True)
class TeamReward(Credit):
    """Every agent learns from the mean of its team's rewards, until every agent of the team has ended.

    A member that dies still shares what the team earns afterwards: its discount lives while any member lives. The team
    terminates if every member terminated, and is truncated otherwise.
    """

    def share_rewards(self, reward: Array) -> Array:
        """The mean, for each agent."""
        return team_mean(reward)


def team_mean(reward: Array) -> Array:
    """The mean ``(..., 1)`` of rewards ``(..., N)``, the same for each agent."""
    total: Array = np.add.reduce(reward, axis=-1, keepdims=True)  # in half of the time of mean()
    return total / np.float32(reward.shape[-1])


class OwnOutcome:
    """Every agent has its own end."""

    def __init__(self, share: Callable[[Array], Array]) -> None:
        """``share`` is :meth:`Credit.share_rewards`."""
        self.share = share

    def __call__(self, step: TeamStep, started: Array, reward: Array | None = None) -> tuple[Array, Array, Array]:
        """See :class:`StepOutcome`."""
        return self.share(step.reward if reward is None else reward), step.terminated, step.truncated

    def state_dict(self) -> dict[str, Array]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Nothing to go back to."""


class TeamOutcome:
    """The team ends when its last member does: it keeps who has ended in the running episode of each copy."""

    def __init__(self, share: Callable[[Array], Array], num_envs: int, num_agents: int) -> None:
        """``share`` is :meth:`Credit.share_rewards`; everything is written in place."""
        shape = (num_envs, num_agents)
        self.share = share
        self.over = np.zeros(shape, dtype=bool)
        self.cut = np.zeros(shape, dtype=bool)
        self._reward = np.zeros(shape, dtype=np.float32)
        self._terminated = np.zeros(shape, dtype=bool)
        self._truncated = np.zeros(shape, dtype=bool)

    def __call__(self, step: TeamStep, started: Array, reward: Array | None = None) -> tuple[Array, Array, Array]:
        """See :class:`StepOutcome`."""
        self._reward[:] = self.share(step.reward if reward is None else reward)
        if not any(map(np.count_nonzero, (step.terminated, step.truncated, self.over))):  # most steps end nothing
            self._terminated.fill(False)
            self._truncated.fill(False)
            return self._reward, self._terminated, self._truncated
        self.cut |= step.truncated
        self.over |= step.terminated | step.truncated
        ended: Array = np.all(self.over, axis=1)
        cut: Array = ended & np.any(self.cut, axis=1)
        self._truncated[:] = cut[:, None]
        self._terminated[:] = (ended & ~cut)[:, None]
        self.over[started] = False
        self.cut[started] = False
        return self._reward, self._terminated, self._truncated

    def state_dict(self) -> dict[str, Array]:
        """Who has ended so far."""
        return {"over": self.over, "cut": self.cut}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Go back to a saved state."""
        self.over[:] = state["over"]
        self.cut[:] = state["cut"]
