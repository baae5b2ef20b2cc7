"""Twin delayed DDPG (Fujimoto et al. 2018), for every agent of a team at once; with joint critics it is MATD3."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from marl.compiled import gradient_for
from marl.config import config, setting
from marl.exploration import Exploration, GaussianNoise, GumbelSample
from marl.grid.mixers import Mixing
from marl.learners.actor_q import ActorQ, ActorQLearner
from marl.learners.base import ALL_KINDS
from marl.learners.off_policy import refuse
from marl.memory.replay import Sample
from marl.nets.action_head import ActionHead
from marl.types import ActionKind, Spec, TeamSpec


@config
class TD3(ActorQ):
    """Twin delayed DDPG (https://arxiv.org/abs/1802.09477)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = ALL_KINDS

    action_cost: float = setting(1e-3, "weight of the squared outputs of the actor, which keeps them near 0", least=0)
    delay: int = setting(2, "critic updates per update of the actor and the targets", least=1)
    smoothing: float = setting(0.2, "deviation of the noise on the target policy's actions (boxes)", least=0)
    smoothing_clip: float = setting(0.5, "that noise is clipped here", least=0)

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> TD3Learner:
        """Make the learner of one team."""
        return TD3Learner(self, spec, team, num_envs, seed, device)


class TD3Learner(ActorQLearner):
    """See :class:`TD3`."""

    head: ActionHead

    def __init__(
        self,
        settings: TD3,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Refuses what does not fit the team's spaces or the settings."""
        self.settings = settings
        super().__init__(settings, spec, team, num_envs, seed, device, critics=2)
        refuse(
            isinstance(settings.credit, Mixing),
            f"TD3 on team {team.name!r}: mixers go with single critics; use DDPG with credit="
            f"{type(settings.credit).__name__}()",
        )
        self._begin(self.carry_width, settings.critic, other_actions=self.across)
        gradient_for(self, None)

    @property
    def default_exploration(self) -> Exploration:
        """Gaussian noise on boxes, draws by the logits for choices."""
        return GaussianNoise(0.1) if self.team.action.kind == "box" else GumbelSample()

    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """Both critics on ``y = r + gamma min_c Q'_c(x', mu'(o') + noise)``; every ``delay`` updates the actor."""
        seen, next_seen = self.rows_of(sample)
        with self.fitting(self.critic.online):
            value_loss, error = self.compute_critic_loss(sample, seen, next_seen)
            norm = self.critic_step(value_loss)
        parts = {
            "value_loss": value_loss.detach() / self.owner.num_sets,
            "gradient_norm": norm,
            "td_error": error,
        }
        if self._actor_due():
            with self.fixed_critic(), self.fitting(self.actor):
                policy_loss = self.compute_actor_loss(sample, seen)
                self.actor_step(policy_loss)
            if self.target_due():
                self.move_targets()
            parts["policy_loss"] = policy_loss.detach() / self.owner.num_sets
        self.see(sample)
        parts["non_finite"] = torch.maximum(self.critic.flat.non_finite, self.actor_flat.non_finite)
        return parts

    def _actor_due(self) -> bool:
        return (self.updates + 1) % self.settings.delay == 0

    def flags(self) -> tuple[bool, ...]:
        """Actors move less often than critics."""
        return *super().flags(), self._actor_due()

    def compute_critic_loss(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor]:
        """``sum_c (Q_c(x, a) - y)^2 / 2``, and what priorities are made of."""
        settings = self.settings
        with torch.no_grad():
            later = self.unroll(self.actor_target, seen, next_seen, sample)
            action = self.head.mode(later, sample.next_legal)
            if self.code.box is not None:
                noise = torch.empty_like(action).normal_(0, max(settings.smoothing, 1e-12), generator=self.generator)
                noise = noise.clamp(-settings.smoothing_clip, settings.smoothing_clip)
                action = (action + noise).clamp(-1, 1)
            planned = self.code.features(action) * self.stay(sample)
            beside = self.beside(planned, sample, successor=True)
            next_value = self.judge(self.critic.target, sample, beside, successor=True)[..., 0].amin(0)  # (L, B, N)
            target = self.multi_step(sample, next_value)
        beside = self.beside(self.replayed(sample), sample, successor=False)
        return self.critic_loss(sample, self.judge(self.critic.online, sample, beside)[..., 0], target)

    def compute_actor_loss(self, sample: Sample, seen: Tensor) -> Tensor:
        """``-Q_1(x, mu(o))``, mean over rows, sum over parameter sets."""
        out, _ = self.outputs(self.actor, seen, sample)
        chosen = self.head.relaxed(out, sample.legal, self.generator) * sample.acting.unsqueeze(-1)
        weight = self.weigh(sample)
        value = self.judge(self.critic.online, sample, self.beside_for_actor(chosen, sample))[0, ..., 0]
        cost = self.settings.action_cost * (self.head.cost(out, sample.legal) * weight).sum()
        return cost - (value * weight).sum()
