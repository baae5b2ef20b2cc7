"""Soft actor-critic (Haarnoja et al. 2018; discrete: Christodoulou 2019), for every agent of a team at once.

ISAC is SAC with local critics, MASAC is SAC with :class:`~marl.grid.scope.Joint` ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl.action_critic import goes_on, td_loss
from marl.compiled import gradient_for
from marl.config import config, setting
from marl.exploration import Exploration, GaussianNoise, GumbelSample
from marl.grid.mixers import Mixing
from marl.learners.base import refuse_noise
from marl.learners.off_policy import OffPolicy, OffPolicyLearner, at_successors, refuse, without_memory
from marl.memory.base import PolicyInput
from marl.memory.sample import Sample, td_target
from marl.nets.action_head import ActionHead, SquashedHead, masked_policy
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Categorical, Distribution
from marl.nets.networks import Network
from marl.nets.stacked import FlatParameters
from marl.optim import Stepper
from marl.types import ActionKind, ActionSpec, Spec, TeamSpec


@config
class SAC(OffPolicy):
    """Soft actor-critic with an automatic temperature per parameter set (https://arxiv.org/abs/1812.05905)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = frozenset(("box", "discrete"))

    critic_network: Network | None = setting(None, "the critics'; None: the actor's if it is feed-forward")
    critic_lr: float = setting(1.0, "learning rate of the critics as a multiple of lr", above=0)
    random_start: bool = setting(True, "act uniformly at random until learning starts")
    temperature: float | None = setting(
        None, "fixed weight of the entropy; None: found automatically", least=0, changeable=True
    )
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


class SACLearner(OffPolicyLearner):
    """The learner of :class:`SAC` settings.

    Boxes: critics ``Q(x, a)`` and reparameterized draws. Choices: critics ``Q(x, a_-i, .)`` with a value for every own
    action, so that expectations over it are exact.
    """

    settings: SAC
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
        refuse_noise("SAC", team, settings.network, settings.critic_network)
        super().__init__(settings, spec, team, num_envs, seed, device)
        refuse(
            isinstance(settings.credit, Mixing),
            f"{self.where}: mixers go with DQN and DDPG; use credit=TeamReward()",
        )
        self.choices = team.action.sizes[0] if team.action.kind == "discrete" else 0
        self.code = ActionHead(team.action, self.device)  # actions as critics read them
        refuse(
            self.code.box is not None and not bool((self.code.box.bounded | (self.code.box.real == 0)).all()),
            f"{self.where}: needs an action space with finite bounds (the largest float is none); give the "
            "environment's actions bounds, or use PPO",
        )
        self.head = self._head(team.action, self.device)
        generators = self.generators()
        self.actor = self.make_net(self.head.size, generators, gain=0.01)
        self.actor_target = copy.deepcopy(self.actor)
        self.actor_flat = FlatParameters([self.actor], self.owner.num_sets)
        self.actor_target_flat = FlatParameters([self.actor_target], self.owner.num_sets)
        self.critic = self.make_critic(settings.critic_network, generators, count=2, outputs=max(self.choices, 1))
        self.cross_team = self.critic.others
        self.actor_optimizer = Stepper(settings.optimizer, self.actor_flat)
        self.critic_optimizer = Stepper(settings.optimizer, self.critic.flat, scale=settings.critic_lr)
        start = settings.first_temperature if settings.temperature is None else max(settings.temperature, 1e-8)
        log = torch.full((self.owner.num_sets,), math.log(start), device=self.device, dtype=torch.float32)
        kept = nn.ParameterList([nn.Parameter(log.unsqueeze(1))])
        self.log_temperature = FlatParameters([kept], self.owner.num_sets)  # (P, 1)
        self.temperature_optimizer = Stepper(settings.optimizer, self.log_temperature)
        widths = torch.tensor(team.action.widths, dtype=torch.float32, device=self.device)
        default = settings.entropy_share * widths.log() if self.choices else -widths
        self.goal = default if settings.target_entropy is None else torch.full_like(widths, settings.target_entropy)
        self.remember(settings.critic, other_actions=self.cross_team is not None)
        self._autograd = ActorCriticAutograd(self)
        gradient_for(self, self._autograd)

    def _head(self, action: ActionSpec, device: torch.device | str) -> SquashedHead | Categorical:
        """A squashed Gaussian, or choices by their logits."""
        return Categorical(self.choices) if self.choices else SquashedHead(action, device)

    def change(self, settings: OffPolicy) -> Callable[[], None]:
        """As of every off-policy learner; a temperature that is found automatically begins where the fixed one was."""
        plainly = super().change(settings)

        def go_on() -> None:
            plainly()
            if self.settings.temperature is not None:
                self.log_temperature.values.fill_(math.log(max(self.settings.temperature, 1e-8)))

        return go_on

    # --- the equations ------------------------------------------------------------------------------------------------

    def compute_critic_loss(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``sum_c (Q_c(x, a) - y)^2 / 2`` with ``y = r + gamma E[min_c Q'_c(x', a') - alpha log pi(a'|o')]``.

        The loss is the mean over rows, summed over parameter sets; with it ``|y - Q|`` for priorities.
        """
        with torch.no_grad():
            next_out = at_successors(self.actor, sample, seen, next_seen)
            if self.choices:
                policy, log_policy = masked_policy(next_out, sample.next_action_mask)  # (L, B, N, A)
                drawn = self.code.features(self.head.sample(next_out, sample.next_action_mask, self.generator))
                next_q = self.critic.next_value(sample, drawn * goes_on(sample)).amin(0)  # (L, B, N, A)
                next_value = (policy * (next_q - alpha.unsqueeze(-1) * log_policy)).sum(-1)
            else:
                assert isinstance(self.head, SquashedHead)
                next_action, log_prob = self.head.reparameterized(next_out, self.generator)
                next_q = self.critic.next_value(sample, next_action * goes_on(sample))[..., 0].amin(0)  # (L, B, N)
                next_value = next_q - alpha * log_prob
            target = td_target(sample, next_value, self.settings.n_step)  # (L, B, N)
        value = self.critic.value(sample, self.critic.taken(sample))  # (2, L, B, N, 1 or A)
        if self.choices:
            value = value.gather(-1, sample.action.unsqueeze(-1).expand(*value.shape[:-1], 1))
        return td_loss(value[..., 0], target, self.experience.weigh(sample), sample.complete)

    def compute_actor_loss(self, sample: Sample, seen: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """``E[alpha log pi(a|o) - min_c Q_c(x, a)]``, and the policy's entropy ``(L, B, N)``."""
        out, _ = self.actor.read(seen, sample.carry, sample.started, sample.acting)
        if self.choices:
            policy, log_policy = masked_policy(out, sample.action_mask)  # (L, B, N, A)
            with torch.no_grad():
                value = self.critic.value(sample, self.critic.taken(sample)).amin(0)  # (L, B, N, A)
            cost = (policy * (alpha.unsqueeze(-1) * log_policy - value)).sum(-1)
            entropy = -(policy * log_policy).sum(-1).detach()
        else:
            assert isinstance(self.head, SquashedHead)
            action, log_prob = self.head.reparameterized(out, self.generator)
            value = self.critic.value_of_own(sample, action * sample.acting.unsqueeze(-1))[..., 0].amin(0)  # (L, B, N)
            cost = alpha * log_prob - value
            entropy = -log_prob.detach()
        return (cost * self.experience.weigh(sample)).sum(), entropy

    def temperature(self) -> Tensor:
        """``alpha`` of every agent, ``(N,)``."""
        return self.owner.to_agents(self.log_temperature.values[:, 0].exp())

    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """One step of the critics, of the actor, and of the temperatures, then the targets follow."""
        settings, sets = self.settings, self.owner.num_sets
        seen, next_seen = self.actor.encode(sample.obs), self.actor.encode(sample.next_obs)
        alpha, weight = self.temperature(), self.experience.weigh(sample)
        gradient = gradient_for(self, self._autograd)
        value_loss, error = gradient.fill_critic(sample, seen, next_seen, weight, alpha)
        norm = self.critic_optimizer.step(settings.max_grad_norm).mean()
        policy_loss, entropy = gradient.fill_actor(sample, seen, weight, alpha)
        self.actor_optimizer.step(settings.max_grad_norm)
        self.auxiliary.step(settings.max_grad_norm)
        if settings.temperature is None:
            # alpha falls while the entropy is above its goal: d/d log(alpha) of alpha (H - goal).
            excess = self.owner.sum_sets(((entropy - self.goal) * weight).sum((0, 1)))  # (P,)
            self.log_temperature.gradients.copy_(excess.unsqueeze(1))
            self.log_temperature.loss = policy_loss.detach()
            self.temperature_optimizer.step()
        if self.target_due():
            self.actor_target_flat.follow(self.actor_flat, settings.tau)
            self.critic.track(settings.tau)
        self.actor.see(sample.obs, sample.acting, self.reduce)
        self.critic.see(sample, self.reduce)
        return {
            "value_loss": value_loss / sets,
            "policy_loss": policy_loss / sets,
            **self.auxiliary_parts(),
            "entropy": (entropy * weight).sum() / sets,
            "temperature": alpha.mean(),
            "gradient_norm": norm,
            "td_error": error,
            "non_finite": torch.maximum(self.critic.flat.non_finite, self.actor_flat.non_finite),
        }

    # --- acting -------------------------------------------------------------------------------------------------------

    @property
    def default_exploration(self) -> Exploration:
        """The policy draws its own actions; this is only asked where settings name another, or noise on top."""
        return GumbelSample() if self.team.action.kind == "discrete" else GaussianNoise(0.0)

    @property
    def policy_net(self) -> AgentNet:
        """The actor."""
        return self.actor

    def policy(self, agent: int | None = None) -> tuple[AgentNet, Distribution]:
        """One agent's own actor, or the team's."""
        if agent is None:
            return self.actor.restrict(None), self.head
        return self.actor.restrict(agent).cpu(), self._head(self.team.action.of(agent), "cpu")

    def choose(self, out: Tensor, inputs: PolicyInput, explore: bool, generator: torch.Generator | None) -> Tensor:
        """A draw from the policy, with noise on top where settings ask for it; uniform until learning starts."""
        settings = self.settings
        if not explore:
            action = self.head.mode(out, inputs.action_mask)
        elif settings.random_start and generator is None and self.experience.warming_up:
            action = self.code.uniform(out, inputs.action_mask, self.generator)
        elif settings.exploration is not None and self.choices:
            action = self.explore(out, inputs, generator)
        else:
            action = self.head.sample(out, inputs.action_mask, generator or self.generator)
            if settings.exploration is not None:
                action = self.explore(action, inputs, generator)
        return self.code.own_action(action)  # whatever explores knows nothing of padding

    @torch.no_grad()
    def planned(self, obs: Tensor, action_mask: Tensor | None) -> Tensor:
        """Features ``(L, B, M, F)`` of the target policy's actions: what other teams' joint critics ask for."""
        out = without_memory(self.actor_target, self.actor.encode(obs))
        return self.code.features(self.head.mode(out, action_mask))

    # --- saving -------------------------------------------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        """Actor, critics, targets."""
        return {"actor": self.actor, "actor_target": self.actor_target, "critic": self.critic}

    def optimizers(self) -> dict[str, Stepper]:
        """The optimizers of actor, critics and temperatures."""
        return {
            "actor": self.actor_optimizer,
            "critic": self.critic_optimizer,
            "temperature": self.temperature_optimizer,
        }

    def state_dict(self) -> dict[str, Any]:
        """As of every off-policy learner, with the temperatures."""
        return super().state_dict() | {"log_temperature": self.log_temperature.values[:, 0]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        super().load_state_dict(state)
        self.log_temperature.values[:, 0].copy_(state["log_temperature"])


class ActorCriticAutograd:
    """The gradients of the losses of :class:`SACLearner`; :func:`marl.compiled.gradient_for` may replace them."""

    def __init__(self, learner: SACLearner) -> None:
        """The losses are looked up when they are computed: whatever stands there is what is learnt by."""
        self.learner = learner

    def fill_critic(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, weight: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fill the critics' gradients; the loss, and what priorities are made of."""
        learner = self.learner
        with learner.fitting(learner.critic.online):
            loss, error = learner.compute_critic_loss(sample, seen, next_seen, alpha)
            learner.critic.flat.backward(loss)
        return loss.detach(), error

    def fill_actor(self, sample: Sample, seen: Tensor, weight: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the actor's gradients; the loss, and the policy's entropy ``(L, B, N)``."""
        learner = self.learner
        with learner.critic.fixed(), learner.fitting(learner.actor):
            loss, entropy = learner.compute_actor_loss(sample, seen, alpha)
            learner.backward(loss, [learner.actor_flat], sample, seen)
        return loss.detach(), entropy
