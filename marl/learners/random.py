"""Uniform over legal actions; learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from marl.config import config
from marl.credit import Independent
from marl.learners.base import ALL_KINDS, generator_from
from marl.memory.rollout import Decision, Look, Rollout
from marl.nets.distributions import Box, Distribution, make_distribution
from marl.schedules import Clock
from marl.scope import Local
from marl.types import ActionKind, ActionSpec, Spec, TeamSpec


@config
class Random:
    """Uniformly random legal actions: the baseline, the filler, the first opponent."""

    action_kinds: ClassVar[frozenset[ActionKind]] = ALL_KINDS

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return False

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> RandomLearner:
        """Make the learner of one team."""
        return RandomLearner(spec, team, num_envs, seed, device)


class RandomLearner:
    """See :class:`Random`."""

    carry_width = 0

    def __init__(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> None:
        """A one-row memory is all it needs."""
        self.team = team
        self.distribution = _uniform(team.action, device)
        self.generator = generator_from(seed, device)
        self.memory = Rollout(spec, team, Local(), Independent(), 1, num_envs, 0, device)

    def act(self, look: Look, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """Uniform over what is legal, greedy or not."""
        parameters = torch.zeros(*look.alive.shape, self.distribution.size, device=look.alive.device)
        action = self.distribution.sample(parameters, look.legal, generator or self.generator)
        log_prob, _ = self.distribution.evaluate(parameters, look.legal, action)
        return Decision(action, self.distribution.to_env(action), log_prob, look.carry)

    def ready(self, clock: Clock) -> bool:
        """Each step: only to free the memory."""
        return self.memory.full

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """Forget and learn nothing."""
        self.memory.restart()
        return {}

    def rest(self) -> None:
        """Free the memory."""
        self.memory.restart()

    def policy(self, agent: int | None = None) -> tuple[None, Distribution]:
        """No network; the uniform distribution."""
        if agent is None:
            return None, self.distribution
        return None, _uniform(self.team.action.of(agent), "cpu")

    def state_dict(self) -> dict[str, Any]:
        """The random stream and the row at hand."""
        return {"generator": self.generator.get_state(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.generator.set_state(state["generator"])
        self.memory.load_state_dict(state["memory"])


def _uniform(action: ActionSpec, device: torch.device | str) -> Distribution:
    return _Uniform(action, device) if action.kind == "box" else make_distribution(action, device=device)


class _Uniform:
    """Uniform over a box; standard normal where it has no bounds."""

    learns_scale = False

    def __init__(self, action: ActionSpec, device: torch.device | str) -> None:
        self.box = Box(action, device)
        self.size = self.box.low.shape[1]

    def sample(self, parameters: Tensor, legal: Tensor | None, generator: torch.Generator | None) -> Tensor:
        uniform = torch.empty_like(parameters).uniform_(-1, 1, generator=generator)
        normal = torch.empty_like(parameters).normal_(generator=generator)
        return torch.where(self.box.bounded, uniform, normal)

    def draw(
        self, parameters: Tensor, legal: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        action = self.sample(parameters, legal, generator)
        return action, self.evaluate(parameters, legal, action)[0]

    def mode(self, parameters: Tensor, legal: Tensor | None) -> Tensor:
        return self.sample(parameters, legal, None)

    def evaluate(self, parameters: Tensor, legal: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(action.shape[:-1], device=action.device)
        return zeros, zeros

    def to_env(self, action: Tensor) -> Tensor:
        return self.box.place(action)
