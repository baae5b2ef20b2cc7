"""Uniform over legal actions; learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from marl.config import config
from marl.grid.credit import Independent
from marl.grid.scope import Local
from marl.learners.base import ALL_KINDS, generator_from, restore_generator
from marl.memory.base import Decision, PolicyInput
from marl.memory.rollout import Rollout
from marl.nets.distributions import Distribution, uniform
from marl.schedules import Clock
from marl.types import ActionKind, Spec, TeamSpec


@config
class Random:
    """Uniformly random legal actions: a baseline, a player for unused seats, a first opponent."""

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
    """The learner of :class:`Random` settings."""

    carry_width = 0

    def __init__(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> None:
        """A one-row memory is all it needs."""
        self.team = team
        self.distribution = uniform(team.action, device)
        self.generator = generator_from(seed, device)
        self.memory = Rollout(spec, team, Local(), Independent(), 1, num_envs, 0, device)

    def act(self, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """A uniformly random legal action, greedy or not."""
        shape = *inputs.acting.shape, self.distribution.size
        parameters = torch.zeros(shape, device=inputs.acting.device, dtype=torch.float32)
        action = self.distribution.sample(parameters, inputs.action_mask, generator or self.generator)
        log_prob, _ = self.distribution.evaluate(parameters, inputs.action_mask, action)
        return Decision(action, self.distribution.to_env(action), log_prob, inputs.carry)

    def ready(self, clock: Clock) -> bool:
        """Each step: only to free the memory."""
        return self.memory.full

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """Forget and learn nothing."""
        self.memory.restart()
        return {}

    def skip_update(self) -> None:
        """Free the memory."""
        self.memory.restart()

    def policy(self, agent: int | None = None) -> tuple[None, Distribution]:
        """No network; the uniform distribution."""
        if agent is None:
            return None, self.distribution
        return None, uniform(self.team.action.of(agent))

    def state_dict(self) -> dict[str, Any]:
        """The random stream and the row at hand."""
        return {"generator": self.generator.get_state(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        restore_generator(self.generator, state["generator"])
        self.memory.load_state_dict(state["memory"])
