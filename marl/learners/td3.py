"""Twin delayed DDPG (Fujimoto et al. 2018), for every agent of a team at once; with joint critics it is MATD3."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl.action_critic import goes_on, td_loss
from marl.compiled import gradient_for
from marl.config import config, setting
from marl.exploration import Exploration, GaussianNoise, GumbelSample
from marl.grid.mixers import Mixing
from marl.learners.base import ALL_KINDS, refuse_noise
from marl.learners.off_policy import OffPolicy, OffPolicyLearner, at_successors, refuse, without_memory
from marl.memory.base import PolicyInput
from marl.memory.sample import Sample, td_target
from marl.nets.action_head import ActionHead
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.networks import Network
from marl.nets.stacked import FlatParameters
from marl.optim import Stepper
from marl.ranks import drawn
from marl.schedules import Schedule
from marl.types import ActionKind, Spec, TeamSpec


@config
class TD3(OffPolicy):
    """Twin delayed DDPG (https://arxiv.org/abs/1802.09477)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = ALL_KINDS

    lr: Schedule = setting(1e-3, "learning rate, a number or a schedule", least=0)
    critic_network: Network | None = setting(None, "the critics'; None: the actor's if it is feed-forward")
    critic_lr: float = setting(1.0, "learning rate of the critics as a multiple of lr", above=0)
    random_start: bool = setting(True, "act uniformly at random until learning starts")
    action_cost: float = setting(1e-3, "weight of the squared outputs of the actor, which keeps them near 0", least=0)
    delay: int = setting(2, "critic updates per update of the actor and the targets", least=1)
    smoothing: float = setting(0.2, "deviation of the noise on the target policy's actions (boxes)", least=0)
    smoothing_clip: float = setting(0.5, "that noise is clipped here", least=0)

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> TD3Learner:
        """Make the learner of one team."""
        return TD3Learner(self, spec, team, num_envs, seed, device)


class TD3Learner(OffPolicyLearner):
    """The learner of :class:`TD3` settings."""

    settings: TD3
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
        refuse_noise("TD3", team, settings.network, settings.critic_network)
        super().__init__(settings, spec, team, num_envs, seed, device)
        refuse(
            isinstance(settings.credit, Mixing),
            f"{self.where}: mixers go with single critics; use DDPG with credit={type(settings.credit).__name__}()",
        )
        self.head = ActionHead(team.action, self.device)
        generators = self.generators()
        self.actor = self.make_net(self.head.size, generators, gain=0.01)
        self.actor_target = copy.deepcopy(self.actor)
        self.actor_flat = FlatParameters([self.actor], self.owner.num_sets)
        self.actor_target_flat = FlatParameters([self.actor_target], self.owner.num_sets)
        self.critic = self.make_critic(settings.critic_network, generators, count=2)
        self.cross_team = self.critic.others
        self.actor_optimizer = Stepper(settings.optimizer, self.actor_flat)
        self.critic_optimizer = Stepper(settings.optimizer, self.critic.flat, scale=settings.critic_lr)
        self.remember(settings.critic, other_actions=self.cross_team is not None)
        gradient_for(self, None)

    # --- the equations ------------------------------------------------------------------------------------------------

    def compute_critic_loss(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor]:
        """``sum_c (Q_c(x, a) - y)^2 / 2`` with ``y = r + gamma min_c Q'_c(x', mu'(o') + noise)``, and the errors.

        The loss is the mean over rows, summed over parameter sets.
        """
        with torch.no_grad():
            next_out = at_successors(self.actor_target, sample, seen, next_seen)
            next_action = self._smoothed(self.head.mode(next_out, sample.next_action_mask))  # mu'(o') + noise
            features = self.head.features(next_action) * goes_on(sample)
            next_value = self.critic.next_value(sample, features)[..., 0].amin(0)  # (L, B, N)
            target = td_target(sample, next_value, self.settings.n_step)  # (L, B, N)
        value = self.critic.value(sample, self.critic.taken(sample))[..., 0]  # (2, L, B, N)
        return td_loss(value, target, self.experience.weigh(sample), sample.complete)

    def compute_actor_loss(self, sample: Sample, seen: Tensor) -> Tensor:
        """``-Q_1(x, mu(o))``, mean over rows, sum over parameter sets."""
        out, _ = self.actor.read(seen, sample.carry, sample.started, sample.acting)
        action = self.head.relaxed(out, sample.action_mask, self.generator) * sample.acting.unsqueeze(-1)  # mu(o)
        value = self.critic.value_of_own(sample, action)[0, ..., 0]  # (L, B, N)
        weight = self.experience.weigh(sample)
        cost = self.settings.action_cost * (self.head.cost(out, sample.action_mask) * weight).sum()
        return cost - (value * weight).sum()

    def _smoothed(self, action: Tensor) -> Tensor:
        """Boxes: the action with clipped noise on it, still within the box."""
        if self.head.box is None:
            return action
        deviation, most = max(self.settings.smoothing, 1e-12), self.settings.smoothing_clip
        noise = drawn(lambda x: x.normal_(0, deviation, generator=self.generator), action, self.generator)
        return (action + noise.clamp(-most, most)).clamp(-1, 1)

    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """One step of both critics; every ``delay`` updates one of the actor, and the targets follow."""
        settings, sets = self.settings, self.owner.num_sets
        seen, next_seen = self.actor.encode(sample.obs), self.actor.encode(sample.next_obs)
        with self.fitting(self.critic.online):
            value_loss, error = self.compute_critic_loss(sample, seen, next_seen)
            self.critic.flat.backward(value_loss)
        norm = self.critic_optimizer.step(settings.max_grad_norm).mean()
        parts = {"value_loss": value_loss.detach() / sets, "gradient_norm": norm, "td_error": error}
        if self._actor_due():
            with self.critic.fixed(), self.fitting(self.actor):
                policy_loss = self.compute_actor_loss(sample, seen)
                self.backward(policy_loss, [self.actor_flat], sample, seen)
            self.actor_optimizer.step(settings.max_grad_norm)
            self.auxiliary.step(settings.max_grad_norm)
            if self.target_due():
                self.actor_target_flat.follow(self.actor_flat, settings.tau)
                self.critic.track(settings.tau)
            parts |= {"policy_loss": policy_loss.detach() / sets} | self.auxiliary_parts()
        self.actor.see(sample.obs, sample.acting, self.reduce)
        self.critic.see(sample, self.reduce)
        parts["non_finite"] = torch.maximum(self.critic.flat.non_finite, self.actor_flat.non_finite)
        return parts

    def _actor_due(self) -> bool:
        return (self.experience.updates + 1) % self.settings.delay == 0

    def flags(self) -> tuple[bool, ...]:
        """Whether this update includes the actor, which is updated less often than the critics."""
        return *super().flags(), self._actor_due()

    # --- acting -------------------------------------------------------------------------------------------------------

    @property
    def default_exploration(self) -> Exploration:
        """Gaussian noise on boxes, draws by the logits for choices."""
        return GaussianNoise(0.1) if self.team.action.kind == "box" else GumbelSample()

    @property
    def policy_net(self) -> AgentNet:
        """The actor."""
        return self.actor

    def policy(self, agent: int | None = None) -> tuple[AgentNet, Distribution]:
        """One agent's own actor, or the team's."""
        if agent is None:
            return self.actor.restrict(None), self.head
        return self.actor.restrict(agent).cpu(), ActionHead(self.team.action.of(agent))

    def choose(self, out: Tensor, inputs: PolicyInput, explore: bool, generator: torch.Generator | None) -> Tensor:
        """The actor's action, or one near it; uniform until learning starts."""
        return self.near_mode(self.head, out, inputs, explore, generator, self.settings.random_start)

    @torch.no_grad()
    def planned(self, obs: Tensor, action_mask: Tensor | None) -> Tensor:
        """Features ``(L, B, M, F)`` of the target policy's actions: what other teams' joint critics ask for."""
        out = without_memory(self.actor_target, self.actor.encode(obs))
        return self.head.features(self.head.mode(out, action_mask))

    # --- saving -------------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """Actor, critics, targets."""
        return {"actor": self.actor, "actor_target": self.actor_target, "critic": self.critic}

    def optimizers(self) -> dict[str, Stepper]:
        """One for each."""
        return {"actor": self.actor_optimizer, "critic": self.critic_optimizer}
