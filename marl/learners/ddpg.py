"""Deep deterministic policy gradient (Lillicrap et al. 2016), for every agent of a team at once.

IDDPG is DDPG with local critics, MADDPG (Lowe et al. 2017) is DDPG with :class:`~marl.grid.scope.Joint` ones, FACMAC
(Peng et al. 2021) is DDPG with a mixer.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.action_critic import goes_on, td_loss
from marl.compiled import gradient_for
from marl.config import config, setting
from marl.exploration import Exploration, GaussianNoise, GumbelSample
from marl.grid.mixers import MixerContext, Mixing, TeamMixer, TeamValues, team_mixer
from marl.learners.base import ALL_KINDS, refuse_noise
from marl.learners.off_policy import OffPolicy, OffPolicyLearner, at_successors, refuse, without_memory
from marl.memory.base import PolicyInput
from marl.memory.sample import Sample, td_target
from marl.nets.action_head import ActionHead
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.networks import Network
from marl.nets.stacked import FlatParameters, backward_through
from marl.optim import Stepper
from marl.schedules import Schedule
from marl.types import ActionKind, Spec, TeamSpec


@config
class DDPG(OffPolicy):
    """Deep deterministic policy gradient (https://arxiv.org/abs/1509.02971)."""

    action_kinds: ClassVar[frozenset[ActionKind]] = ALL_KINDS

    lr: Schedule = setting(1e-3, "learning rate, a number or a schedule", least=0)
    critic_network: Network | None = setting(None, "the critics'; None: the actor's if it is feed-forward")
    critic_lr: float = setting(1.0, "learning rate of the critics as a multiple of lr", above=0)
    random_start: bool = setting(True, "act uniformly at random until learning starts")
    action_cost: float = setting(1e-3, "weight of the squared outputs of the actor, which keeps them near 0", least=0)

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> DDPGLearner:
        """Make the learner of one team."""
        return DDPGLearner(self, spec, team, num_envs, seed, device)


class DDPGLearner(OffPolicyLearner):
    """The learner of :class:`DDPG` settings."""

    settings: DDPG
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
        refuse_noise("DDPG", team, settings.network, settings.critic_network)
        super().__init__(settings, spec, team, num_envs, seed, device)
        self.head = ActionHead(team.action, self.device)
        generators = self.generators()
        self.actor = self.make_net(self.head.size, generators, gain=0.01)
        self.actor_target = copy.deepcopy(self.actor)
        self.actor_flat = FlatParameters([self.actor], self.owner.num_sets)
        self.actor_target_flat = FlatParameters([self.actor_target], self.owner.num_sets)
        self.critic = self.make_critic(settings.critic_network, generators)
        self.cross_team = self.critic.others
        self.actor_optimizer = Stepper(settings.optimizer, self.actor_flat)
        self.critic_optimizer = Stepper(settings.optimizer, self.critic.flat, scale=settings.critic_lr)
        credit = settings.credit
        refuse(
            isinstance(credit, Mixing) and credit.compares_actions,
            f"{self.where}: {type(credit).__name__} compares an agent's actions, which critics of single actions "
            "cannot; use credit=QMix() (FACMAC) or VDN()",
        )
        self.mixer: TeamMixer | None = None
        self.flats = [self.critic.flat]
        scope = settings.critic
        if isinstance(credit, Mixing):
            scope = credit.scope(spec)
            context = MixerContext(spec, team, scope, self.owner, self.head.size, self._init_seed, self.device)
            self.mixer = team_mixer(credit, context)
            self.flats += self.mixer.flats
        self.mixer_optimizers = [Stepper(settings.optimizer, flat, scale=settings.critic_lr) for flat in self.flats[1:]]
        self.remember(scope, other_actions=self.cross_team is not None)
        gradient_for(self, None)

    # --- the equations ------------------------------------------------------------------------------------------------

    def compute_critic_loss(self, sample: Sample, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor]:
        """``(Q(x, a) - y)^2 / 2`` with ``y = r + gamma Q'(x', mu'(o'))``, and ``|y - Q|`` for priorities.

        The loss is the mean over rows, summed over parameter sets; with a mixer ``Q`` is ``Q_tot``.
        """
        with torch.no_grad():
            next_out = at_successors(self.actor_target, sample, seen, next_seen)
            next_action = self.head.mode(next_out, sample.next_action_mask)  # mu'(o')
            next_action = self.head.features(next_action) * goes_on(sample)
            next_value = self.critic.next_value(sample, next_action)[0, ..., 0]  # (L, B, N)
            if self.mixer is not None:
                team = TeamValues(next_value, next_value, sample.next_acting, sample.next_joint, next_action)
                total = self.mixer.later(team)  # (L, B): Q_tot'(s', mu'(o'))
                next_value = total.unsqueeze(-1).expand(next_value.shape)
            target = td_target(sample, next_value, self.settings.n_step)  # (L, B, N)
        taken = self.critic.taken(sample)
        value = self.critic.value(sample, taken)[..., 0]  # (1, L, B, N)
        if self.mixer is None:
            return td_loss(value, target, self.experience.weigh(sample), sample.complete)
        team = TeamValues(value[0], value[0], sample.acting, sample.joint, taken)
        total = self.mixer.now(team)  # (L, B): Q_tot(s, a)
        error = target[..., 0] - total
        cost = self.mixer.loss(0.5 * error.square(), team, total, target[..., 0])
        counts = self.experience.counts(sample)[..., 0]
        weight = counts / counts.sum().clamp(min=1) * sample.weight[:, 0]
        return (cost * weight).sum(), torch.where(counts, error.detach().abs(), 0).mean(0).unsqueeze(-1)

    def compute_actor_loss(self, sample: Sample, seen: Tensor) -> Tensor:
        """``-Q(x, mu(o))``, mean over rows, sum over parameter sets; with a mixer ``-Q_tot`` of all actions.

        A joint critic reads each agent's own action from the policy and the others' as they were taken.
        """
        out, _ = self.actor.read(seen, sample.carry, sample.started, sample.acting)
        action = self.head.relaxed(out, sample.action_mask, self.generator) * sample.acting.unsqueeze(-1)  # mu(o)
        value = self.critic.value_of_own(sample, action)[0, ..., 0]  # (L, B, N)
        weight = self.experience.weigh(sample)
        cost = self.settings.action_cost * (self.head.cost(out, sample.action_mask) * weight).sum()
        if self.mixer is None:
            return cost - (value * weight).sum()
        total = self.mixer.now(TeamValues(value, value, sample.acting, sample.joint, action))
        return cost - ops.masked_mean(total, self.experience.counts(sample)[..., 0])

    def learn(self, sample: Sample) -> dict[str, Tensor]:
        """One step of the critic, one of the actor, then the targets follow."""
        settings, sets = self.settings, self.owner.num_sets
        seen, next_seen = self.actor.encode(sample.obs), self.actor.encode(sample.next_obs)
        with self.fitting(self.critic.online):
            value_loss, error = self.compute_critic_loss(sample, seen, next_seen)
            backward_through(value_loss, self.flats)
        norm = self.critic_optimizer.step(settings.max_grad_norm).mean()
        for optimizer in self.mixer_optimizers:
            optimizer.step(settings.max_grad_norm)
        with self.critic.fixed(), self.fitting(self.actor):
            policy_loss = self.compute_actor_loss(sample, seen)
            self.backward(policy_loss, [self.actor_flat], sample, seen)
        self.actor_optimizer.step(settings.max_grad_norm)
        self.auxiliary.step(settings.max_grad_norm)
        if self.target_due():
            self.actor_target_flat.follow(self.actor_flat, settings.tau)
            self.critic.track(settings.tau)
            if self.mixer is not None:
                self.mixer.track(settings.tau)
        self.actor.see(sample.obs, sample.acting, self.reduce)
        self.critic.see(sample, self.reduce)
        return {
            "value_loss": value_loss.detach() / sets,
            "policy_loss": policy_loss.detach() / sets,
            **self.auxiliary_parts(),
            "gradient_norm": norm,
            "td_error": error,
            "non_finite": torch.maximum(self.critic.flat.non_finite, self.actor_flat.non_finite),
        }

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
        """Actor, critic, mixer, targets."""
        named: dict[str, nn.Module] = {"actor": self.actor, "actor_target": self.actor_target, "critic": self.critic}
        return named | ({} if self.mixer is None else self.mixer.saved_modules())

    def optimizers(self) -> dict[str, Stepper]:
        """The optimizers of actor, critic and mixer."""
        own = {"mixer" if k == 0 else f"mixer.{k}": optimizer for k, optimizer in enumerate(self.mixer_optimizers)}
        return {"actor": self.actor_optimizer, "critic": self.critic_optimizer} | own
