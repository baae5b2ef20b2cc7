"""Advantage actor-critic (Mnih et al. 2016, synchronous), for every agent of a team at once.

IA2C is A2C with :class:`~marl.grid.scope.Local` critics, MAA2C is A2C with :class:`~marl.grid.scope.Joint` ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from marl.actor_critic import Batch, explained_variance
from marl.compiled import gradient_for
from marl.config import config, setting
from marl.graphs import Recorded
from marl.learners.on_policy import OnPolicy, OnPolicyLearner
from marl.nets.owner import weights_of
from marl.reduce import weighted_mean
from marl.schedules import Clock, Schedule, value_at
from marl.types import Spec, TeamSpec

PARTS = ("policy_loss", "value_loss", "entropy", "gradient_norm")


@config
class A2C(OnPolicy):
    """Advantage actor-critic: one gradient step on each short rollout (https://arxiv.org/abs/1602.01783)."""

    rollout: int = setting(8, "environment steps per copy between updates", least=1)
    lr: Schedule = setting(7e-4, "learning rate, a number or Linear(start, end)", least=0)
    gae_lambda: float = setting(
        1.0, "lambda of the advantage estimate; 1: n-step returns", least=0, most=1, changeable=True
    )
    normalize_advantages: bool = setting(False, "zero mean and unit deviation per parameter set and rollout")

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> A2CLearner:
        """Make the learner of one team."""
        return A2CLearner(self, spec, team, num_envs, seed, device)


class A2CLearner(OnPolicyLearner):
    """The learner of :class:`A2C` settings."""

    settings: A2C

    def __init__(
        self,
        settings: A2C,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Raises ConfigError for spaces or numbers of copies that do not fit the settings."""
        super().__init__(settings, spec, team, num_envs, seed, device)
        self._step = Recorded(self._one_step, device) if self.recordable else self._one_step
        self._batch: Batch | None = None
        gradient_for(self, None)

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """One gradient step on the whole rollout, then start the next one."""
        batch = self.begin_update(clock)
        self._batch = self.to_static_buffer(batch)
        self.tell_rows(batch.complete)
        with self.fitting():
            row = self._step(value_at(self.settings.entropy, clock))
        weighted_mean(self.reduce, batch.complete.sum(), row)  # what is told is of all rows
        parts = dict(zip(self.parts, row.clone().unbind(), strict=True))
        self._batch = None
        self.end_update()
        return parts | {
            "explained_variance": explained_variance(batch, self.reduce),
            "non_finite": self.flat.non_finite.clone(),
        }

    @property
    def parts(self) -> tuple[str, ...]:
        """What a step reports, in this order."""
        return (*PARTS, "auxiliary_loss") if self.auxiliary else PARTS

    def _one_step(self, entropy_weight: float | Tensor) -> Tensor:
        """The gradient step; the loss's parts and the gradient's norm."""
        assert self._batch is not None
        loss, parts = self.compute_loss(self._batch, entropy_weight)
        parts["auxiliary_loss"] = self.backward(loss, self._batch) / self.model.owner.num_sets
        parts["gradient_norm"] = self.step().mean()
        return torch.stack([parts[name] for name in self.parts])

    def compute_loss(self, batch: Batch, entropy_weight: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (mean over rows, sum over parameter sets) and its parts.

        ``L = -rho log pi(a) A + w_v (V - target)^2 / 2 - w_e H``; ``rho = min(rho_max, pi(a) / mu(a))`` of V-trace,
        without a correction 1.
        """
        weight = weights_of(batch.complete, self.model.owner)  # (L, C, N)
        log_prob, entropy, value = self.model.evaluate(batch)  # (L, C, N)
        advantage = batch.advantage
        if self.settings.correction is not None:
            change = torch.where(batch.complete, log_prob.detach() - batch.log_prob, 0.0)
            advantage = advantage * change.exp().clamp(max=self.settings.correction.rho)
        policy_loss = -(torch.where(batch.complete, log_prob, 0.0) * advantage * weight).sum()
        value_loss = 0.5 * ((value - batch.target).square() * weight).sum()
        entropy_sum = (entropy * weight).sum()
        loss = policy_loss + self.settings.value_weight * value_loss - entropy_weight * entropy_sum
        sets = self.model.owner.num_sets
        parts = {
            "policy_loss": policy_loss.detach() / sets,
            "value_loss": value_loss.detach() / sets,
            "entropy": entropy_sum.detach() / sets,
        }
        return loss, parts
