"""Credit: whose reward an agent learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from marl.types import Array, TeamStep


@dataclass(frozen=True)
class Independent:
    """Every agent learns from its own reward, until its own end."""


@dataclass(frozen=True)
class TeamReward:
    """Every agent learns from the mean of its team's rewards, until the whole team's end.

    A member that dies still shares what the team earns afterwards: its discount lives while any member lives. The team
    terminates if every member terminated, and is truncated otherwise.
    """


@dataclass(frozen=True)
class Counterfactual:
    """The team's reward, and of it what an agent's own action changed (COMA, Foerster et al. 2018).

    ``A_i = Q(s, a) - sum_a' pi_i(a' | o_i) Q(s, (a_-i, a'))`` by a joint critic with a value for every own action. The
    baseline does not depend on the agent's action, so it changes the gradient's variance and not its mean.
    """


Credit = Independent | TeamReward
Advantage = Independent | TeamReward | Counterfactual


class Outcome:
    """Turns a team's step into the reward and ends that its learner sees, in place and without allocating."""

    def __init__(self, credit: object, num_envs: int, num_agents: int) -> None:
        """One per team; keeps track of who has ended in the running episode of each copy."""
        self.shared = not isinstance(credit, Independent)
        shape = (num_envs, num_agents)
        self.over = np.zeros(shape, dtype=bool)
        self.cut = np.zeros(shape, dtype=bool)
        self._reward = np.zeros(shape, dtype=np.float32)
        self._terminated = np.zeros(shape, dtype=bool)
        self._truncated = np.zeros(shape, dtype=bool)

    def __call__(self, step: TeamStep, started: Array, reward: Array | None = None) -> tuple[Array, Array, Array]:
        """Reward, terminated, truncated ``(E, N)`` for learning; ``reward`` replaces the raw one (shaping)."""
        raw = step.reward if reward is None else reward
        if not self.shared:
            return raw, step.terminated, step.truncated
        self._reward[:] = raw.mean(axis=1, keepdims=True)
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
