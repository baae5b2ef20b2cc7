"""Deep deterministic policy gradient (Lillicrap et al. 2016), for every agent of a team at once.

IDDPG is DDPG with local critics, MADDPG (Lowe et al. 2017) is DDPG with :class:`~marl.grid.scope.Joint` ones, FACMAC
(Peng et al. 2021) is DDPG with a mixer.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.compiled import gradient_for
from marl.config import config, setting
from marl.exploration import Exploration, GaussianNoise, GumbelSample
from marl.grid.mixers import MixerContext, Mixing, TeamMixer, TeamValues, team_mixer
from marl.learners.actor_q import ActorQ, ActorQLearner
from marl.learners.base import ALL_KINDS
from marl.learners.off_policy import refuse
from marl.memory.replay import Sample
from marl.nets.action_head import ActionHead
from marl.nets.stacked import backward_through
from marl.optim import Stepper
from marl.types import ActionKind, Spec, TeamSpec


@config
class DDPG(ActorQ):
    """Deep deterministic policy gradient (https://arxiv.org/abs/1509.02971)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = ALL_KINDS

    action_cost: float = setting(1e-3, "weight of the squared outputs of the actor, which keeps them near 0", least=0)

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> DDPGLearner:
        """Make the learner of one team."""
        return DDPGLearner(self, spec, team, num_envs, seed, device)


class DDPGLearner(ActorQLearner):
    """See :class:`DDPG`."""

    head: ActionHead

    def __init__(
        self,
        settings: DDPG,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Refuses what does not fit the team's spaces or the settings."""
        self.settings = settings
        super().__init__(settings, spec, team, num_envs, seed, device, critics=1)
        credit = settings.credit
        refuse(
            isinstance(credit, Mixing) and credit.compares_actions,
            f"DDPG on team {team.name!r}: {type(credit).__name__} compares an agent's actions, which critics of "
            "single actions cannot; use credit=QMix() (FACMAC) or VDN()",
        )
        self.mixer: TeamMixer | None = None
        self.flats = [self.critic.flat]
        scope = settings.critic
        if isinstance(credit, Mixing):
            scope = credit.scope(spec)
            context = MixerContext(spec, team, scope, self.owner, self.code.size, self._init_seed, self.device)
            self.mixer = team_mixer(credit, context)
            self.flats += self.mixer.flats
        self.mixer_optimizers = [Stepper(settings.optimizer, flat, scale=settings.critic_lr) for flat in self.flats[1:]]
        self._begin(self.carry_width, scope, other_actions=self.across)
        gradient_for(self, None)

    @property
    def default_exploration(self) -> Exploration:
        """Gaussian noise on boxes, draws by the logits for choices."""
        return GaussianNoise(0.1) if self.team.action.kind == "box" else GumbelSample()

    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """One step of the critic on ``y = r + gamma Q'(x', mu'(o'))``, one of the actor on ``-Q(x, mu(o))``."""
        seen, next_seen = self.rows_of(sample)
        with self.fitting(self.critic.online):
            value_loss, error = self.compute_critic_loss(sample, seen, next_seen)
            backward_through(value_loss, self.flats)
        norm = self.critic_optimizer.step(self.settings.max_grad_norm).mean()
        for optimizer in self.mixer_optimizers:
            optimizer.step(self.settings.max_grad_norm)
        with self.fixed_critic(), self.fitting(self.actor):
            policy_loss = self.compute_actor_loss(sample, seen)
            self.actor_step(policy_loss)
        if self.target_due():
            self.move_targets()
            if self.mixer is not None:
                self.mixer.track(self.settings.tau)
        self.see(sample)
        return {
            "value_loss": value_loss.detach() / self.owner.num_sets,
            "policy_loss": policy_loss.detach() / self.owner.num_sets,
            "gradient_norm": norm,
            "td_error": error,
            "non_finite": torch.maximum(self.critic.flat.non_finite, self.actor_flat.non_finite),
        }

    def compute_critic_loss(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor]:
        """``(Q(x, a) - y)^2 / 2``, and what priorities are made of."""
        with torch.no_grad():
            later = self.unroll(self.actor_target, seen, next_seen, sample)
            planned = self.code.features(self.head.mode(later, sample.next_legal)) * self.stay(sample)
            beside = self.beside(planned, sample, successor=True)
            next_value = self.judge(self.critic.target, sample, beside, successor=True)[..., 0]  # (1, L, B, N)
            if self.mixer is not None:
                team = TeamValues(next_value[0], next_value[0], sample.next_acting, sample.next_joint, planned)
                total = self.mixer.later(team)  # (L, B)
                next_value = total[None, ..., None].expand(next_value.shape)
            target = self.multi_step(sample, next_value[0])  # (L, B, N)
        taken = self.replayed(sample)
        value = self.judge(self.critic.online, sample, self.beside(taken, sample, successor=False))[..., 0]
        if self.mixer is None:
            return self.critic_loss(sample, value, target)
        counts = self.counts(sample)[..., 0]
        weight = counts / counts.sum().clamp(min=1) * sample.weight[:, 0]
        team = TeamValues(value[0], value[0], sample.acting, sample.joint, taken)
        total = self.mixer.now(team)  # (L, B): Q_tot(s, a)
        error = target[..., 0] - total
        cost = self.mixer.loss(0.5 * error.square(), team, total, target[..., 0])
        return (cost * weight).sum(), torch.where(counts, error.detach().abs(), 0).mean(0).unsqueeze(-1)

    def compute_actor_loss(self, sample: Sample, seen: Tensor) -> Tensor:
        """``-Q(x, mu(o))``, mean over rows, sum over parameter sets; with a mixer ``-Q_tot`` of everybody's actions."""
        out, _ = self.outputs(self.actor, seen, sample)
        chosen = self.head.relaxed(out, sample.legal, self.generator) * sample.acting.unsqueeze(-1)
        weight = self.weigh(sample)
        cost = self.settings.action_cost * (self.head.cost(out, sample.legal) * weight).sum()
        value = self.judge(self.critic.online, sample, self.beside_for_actor(chosen, sample))[0, ..., 0]  # (L, B, N)
        if self.mixer is None:
            return cost - (value * weight).sum()
        total = self.mixer.now(TeamValues(value, value, sample.acting, sample.joint, chosen))
        return cost - ops.masked_mean(total, self.counts(sample)[..., 0])

    def optimizers(self) -> dict[str, Stepper]:
        """One for each."""
        own = {"mixer" if k == 0 else f"mixer.{k}": optimizer for k, optimizer in enumerate(self.mixer_optimizers)}
        return super().optimizers() | own

    def modules(self) -> dict[str, nn.Module]:
        """Actor, critic, mixer, targets."""
        return super().modules() | ({} if self.mixer is None else self.mixer.parts())
