"""Soft actor-critic (Haarnoja et al. 2018; discrete: Christodoulou 2019), for every agent of a team at once.

ISAC is SAC with local critics, MASAC is SAC with :class:`~marl.grid.scope.Joint` ones.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl.compiled import gradient_for
from marl.config import config, setting
from marl.exploration import Exploration, GaussianNoise, GumbelSample
from marl.grid.mixers import Mixing
from marl.learners.actor_q import ActorQ, ActorQLearner
from marl.learners.gradients import ActorCriticAutograd, ActorCriticGradient
from marl.learners.off_policy import refuse
from marl.memory.replay import Sample
from marl.memory.rollout import Look
from marl.nets.action_head import SquashedHead, masked_policy
from marl.nets.distributions import Categorical
from marl.nets.stacked import FlatParameters
from marl.optim import Stepper
from marl.types import ActionKind, Spec, TeamSpec


@config
class SAC(ActorQ):
    """Soft actor-critic with an automatic temperature per parameter set (https://arxiv.org/abs/1812.05905)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = frozenset(("box", "discrete"))

    temperature: float | None = setting(None, "fixed weight of the entropy; None: found automatically", least=0)
    first_temperature: float = setting(1.0, "where the automatic temperature begins", above=0)
    target_entropy: float | None = setting(
        None, "entropy to keep; None: minus the number of action components, or a share of log(actions)"
    )
    entropy_share: float = setting(0.3, "that share, for choices", least=0, most=1)

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> SACLearner:
        """Make the learner of one team."""
        return SACLearner(self, spec, team, num_envs, seed, device)


class SACLearner(ActorQLearner):
    """See :class:`SAC`.

    Boxes: critics ``Q(x, a)`` and reparameterised draws. Choices: critics ``Q(x, a_-i, .)`` with a value for every own
    action, so that expectations over it are exact.
    """

    head: SquashedHead | Categorical

    def __init__(
        self,
        settings: SAC,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
    ) -> None:
        """Refuses what does not fit the team's spaces or the settings."""
        self.settings = settings
        self.choices = team.action.sizes[0] if team.action.kind == "discrete" else 0
        super().__init__(settings, spec, team, num_envs, seed, device, critics=2, values=max(self.choices, 1))
        refuse(
            isinstance(settings.credit, Mixing),
            f"SAC on team {team.name!r}: mixers go with DQN and DDPG; use credit=TeamReward()",
        )
        start = settings.first_temperature if settings.temperature is None else max(settings.temperature, 1e-8)
        log = torch.full((self.owner.num_sets,), math.log(start), device=self.device, dtype=torch.float32)
        kept = nn.ParameterList([nn.Parameter(log.unsqueeze(1))])
        self.log_temperature = FlatParameters([kept], self.owner.num_sets)  # (P, 1)
        self.temperature_optimizer = Stepper(settings.optimizer, self.log_temperature)
        widths = torch.tensor(team.action.widths, dtype=torch.float32, device=self.device)
        default = settings.entropy_share * widths.log() if self.choices else -widths
        self.goal = default if settings.target_entropy is None else torch.full_like(widths, settings.target_entropy)
        agents = range(team.num_agents)
        rows = [[other for other in agents if other != agent] for agent in agents]
        self._but_oneself = torch.tensor(rows, dtype=torch.int64, device=self.device)  # (N, N - 1)
        self._begin(self.carry_width, settings.critic, other_actions=self.across)
        self._autograd: ActorCriticGradient = ActorCriticAutograd(self)
        gradient_for(self, self._autograd)

    def make_head(self) -> SquashedHead | Categorical:
        """A squashed Gaussian, or choices by their logits."""
        if self.choices:
            return Categorical(self.choices)
        refuse(
            not bool((self.code.box.bounded | (self.code.box.real == 0)).all()) if self.code.box is not None else False,
            f"SAC on team {self.team.name!r}: needs an action space with finite bounds (the largest float is none); "
            "give the environment's actions bounds, or use PPO",
        )
        return SquashedHead(self.team.action, self.device)

    @property
    def default_exploration(self) -> Exploration:
        """The policy draws its own actions; this is only asked where settings name another, or noise on top."""
        return GumbelSample() if self.team.action.kind == "discrete" else GaussianNoise(0.0)

    def try_out(self, parameters: Tensor, look: Look, generator: torch.Generator | None) -> Tensor:
        """A draw from the policy, with noise on top where settings ask for it; uniform until learning starts."""
        settings = self.settings
        if settings.exploration is not None and self.choices:
            return super().try_out(parameters, look, generator)
        if generator is None and settings.random_start and self.memory.seen_steps < settings.learning_starts:
            return self._random(parameters, look)
        drawn = self.head.sample(parameters, look.legal, generator or self.generator)
        return drawn if settings.exploration is None else self.explore(drawn, look, generator)

    def temperature(self) -> Tensor:
        """``alpha`` of every agent, ``(N,)``."""
        return self.owner.to_agents(self.log_temperature.values[:, 0].exp())

    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """One step of the critics, of the actor, and of the temperatures."""
        seen, next_seen = self.rows_of(sample)
        alpha, weight = self.temperature(), self.weigh(sample)
        gradient, most = gradient_for(self, self._autograd), self._settings.max_grad_norm
        value_loss, error = gradient.fill_critic(sample, seen, next_seen, weight, alpha)
        norm = self.critic_optimizer.step(most).mean()
        policy_loss, entropy = gradient.fill_actor(sample, seen, weight, alpha)
        self.actor_optimizer.step(most)
        if self.settings.temperature is None:
            # alpha falls while the entropy is above its goal: d/d log(alpha) of alpha (H - goal).
            excess = self.owner.sum_sets(((entropy - self.goal) * weight).sum((0, 1)))  # (P,)
            self.log_temperature.gradients.copy_(excess.unsqueeze(1))
            self.log_temperature.loss = policy_loss.detach()
            self.temperature_optimizer.step()
        if self.target_due():
            self.move_targets()
        self.see(sample)
        sets = self.owner.num_sets
        return {
            "value_loss": value_loss / sets,
            "policy_loss": policy_loss / sets,
            "entropy": (entropy * weight).sum() / sets,
            "temperature": alpha.mean(),
            "gradient_norm": norm,
            "td_error": error,
            "non_finite": torch.maximum(self.critic.flat.non_finite, self.actor_flat.non_finite),
        }

    def compute_critic_loss(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``sum_c (Q_c(x, a) - y)^2 / 2`` with ``y = r + gamma E[min_c Q'_c(x', a') - alpha log pi(a'|o')]``."""
        with torch.no_grad():
            later = self.unroll(self.actor, seen, next_seen, sample)
            if self.choices:
                policy, log_policy = masked_policy(later, sample.next_legal)
                others = self._others_draw(later, sample)
                value = self._judge_choices(self.critic.target, sample, others, successor=True).amin(0)  # (L, B, N, A)
                next_value = (policy * (value - alpha.unsqueeze(-1) * log_policy)).sum(-1)
            else:
                assert isinstance(self.head, SquashedHead)
                action, log_prob = self.head.reparameterised(later, self.generator)
                beside = self.beside(action * self.stay(sample), sample, successor=True)
                value = self.judge(self.critic.target, sample, beside, successor=True)[..., 0].amin(0)
                next_value = value - alpha * log_prob
            target = self.multi_step(sample, next_value)  # (L, B, N)
        done = self.replayed(sample)
        if self.choices:
            values = self._judge_choices(self.critic.online, sample, done, successor=False)
            index = sample.action.unsqueeze(-1).expand(*values.shape[:-1], 1)
            value = values.gather(-1, index).squeeze(-1)
        else:
            value = self.judge(self.critic.online, sample, self.beside(done, sample, successor=False))[..., 0]
        return self.critic_loss(sample, value, target)

    def compute_actor_loss(self, sample: Sample, seen: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """``E[alpha log pi(a|o) - min_c Q_c(x, a)]``, and the policy's entropy ``(L, B, N)``."""
        out, _ = self.outputs(self.actor, seen, sample)
        weight = self.weigh(sample)
        if self.choices:
            policy, log_policy = masked_policy(out, sample.legal)
            with torch.no_grad():
                values = self._judge_choices(self.critic.online, sample, self.replayed(sample), successor=False)
            cost = (policy * (alpha.unsqueeze(-1) * log_policy - values.amin(0))).sum(-1)
            entropy = -(policy * log_policy).sum(-1).detach()
        else:
            assert isinstance(self.head, SquashedHead)
            action, log_prob = self.head.reparameterised(out, self.generator)
            beside = self.beside_for_actor(action * sample.acting.unsqueeze(-1), sample)
            value = self.judge(self.critic.online, sample, beside)[..., 0].amin(0)
            cost = alpha * log_prob - value
            entropy = -log_prob.detach()
        return (cost * weight).sum(), entropy

    def _others_draw(self, parameters: Tensor, sample: Sample) -> Tensor:
        """Features of drawn next actions, ``(L, B, N, A)``."""
        action = self.head.sample(parameters, sample.next_legal, self.generator)
        return self.code.features(action) * self.stay(sample)

    def _judge_choices(self, net: Any, sample: Sample, features: Tensor, successor: bool) -> Tensor:
        """``Q(x, a_-i, .)``, ``(2, L, B, N, A)``: a joint critic reads everybody's action but the judged one's own."""
        if not self.joint:
            return self.judge(net, sample, None, successor)
        everybody = features[:, :, self._but_oneself].flatten(-2)  # (L, B, N, (N - 1) * F)
        beside = torch.cat((everybody, *self._theirs(sample, successor)), dim=-1)
        return self.judge(net, sample, beside, successor)

    def optimizers(self) -> dict[str, Stepper]:
        """One for each."""
        return super().optimizers() | {"temperature": self.temperature_optimizer}

    def state_dict(self) -> dict[str, Any]:
        """With the temperatures."""
        return super().state_dict() | {"log_temperature": self.log_temperature.values[:, 0]}

    def load_state_dict(self, state: Any) -> None:
        """Go back to a saved state."""
        super().load_state_dict(state)
        self.log_temperature.values[:, 0].copy_(state["log_temperature"])
