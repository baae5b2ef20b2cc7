"""What DDPG, TD3 and SAC have in common: an actor beside critics of its actions, local or joint, also across teams."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.action_critic import ActionCritic, own_action_only
from marl.channels import policy_net
from marl.config import config, setting
from marl.learners.base import Learner, refuse_noise
from marl.learners.off_policy import OffPolicy, OffPolicyLearner
from marl.memory.replay import Sample
from marl.memory.rollout import Decision, Look
from marl.nets.action_head import ActionHead, SquashedHead
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Categorical, Distribution
from marl.nets.networks import GRU, Network
from marl.nets.stacked import FlatParameters
from marl.optim import Stepper
from marl.types import Spec, Step, TeamSpec


@config
class ActorQ(OffPolicy):
    """The settings of learners with an actor and critics of its actions."""

    critic_network: Network | None = setting(None, "the critics'; None: the actor's if it is feed-forward")
    critic_lr: float = setting(1.0, "learning rate of the critics as a multiple of lr", above=0)
    random_start: bool = setting(True, "act uniformly at random until learning starts")


@runtime_checkable
class Plans(Protocol):
    """A learner whose next actions a joint critic of another team may ask for."""

    def planned(self, obs: Tensor, legal: Tensor | None) -> Tensor:
        """Critic features ``(L, B, M, F)`` of the target policy's actions for raw observations ``(L, B, M, *O)``."""
        ...


class ActorQLearner(OffPolicyLearner):
    """Actor, critics, targets, and the pieces of both losses."""

    head: ActionHead | SquashedHead | Categorical

    def __init__(
        self,
        settings: ActorQ,
        spec: Spec,
        team: TeamSpec,
        num_envs: int,
        seed: np.random.SeedSequence,
        device: torch.device | str,
        *,
        critics: int,
        values: int = 1,
    ) -> None:
        """``critics`` judge each action; ``values``: 1 for ``Q(x, a)``, one per own action for ``Q(x, a_-i, .)``."""
        self._actor_settings = settings
        refuse_noise(type(settings).__name__, team, settings.network, settings.critic_network)
        super().__init__(settings, spec, team, num_envs, seed, device)
        self.code = ActionHead(team.action, self.device)
        self.head = self.make_head()
        generators = self.generators()
        self.actor = policy_net(
            settings.channel,
            spec,
            team,
            self.network,
            self.owner,
            self.head.size,
            generators,
            gain=0.01,
            ids=self.ids,
            true_inputs=self.true_widths(),
            normalize=settings.normalize_obs,
        ).to(self.device)
        self.actor_target = copy.deepcopy(self.actor)
        self.actor_flat = FlatParameters([self.actor], self.owner.num_sets)
        self.actor_target_flat = FlatParameters([self.actor_target], self.owner.num_sets)
        scope = settings.critic
        self.joint = self.critic_shape is not None
        self.across = self.joint and scope.other_teams and len(spec.teams) > 1
        self.codes = [ActionHead(other.action, self.device) for other in spec.teams]
        self.place = spec.teams.index(team)
        others = [place for place in range(len(spec.teams)) if place != self.place] if self.across else []
        # A critic with a value for each own action need not be told which it was.
        read = (team.num_agents if self.joint else 1) - (values > 1)
        own = self.code.size * read
        beside = own + sum(self.codes[k].size * spec.teams[k].num_agents for k in others)
        network = settings.critic_network or (None if isinstance(self.network, GRU) else self.network)
        self.critic = ActionCritic(
            spec,
            team,
            self.owner,
            scope,
            network,
            generators,
            count=critics,
            beside=beside,
            outputs=values,
            ids=self.ids,
            normalize=settings.normalize_obs,
            device=self.device,
        )
        self._other_places = others
        self._planners: dict[int, Plans] = {}
        self.values = values
        self.actor_optimizer = Stepper(settings.optimizer, self.actor_flat)
        self.critic_optimizer = Stepper(settings.optimizer, self.critic.flat, scale=settings.critic_lr)

    def make_head(self) -> ActionHead | SquashedHead | Categorical:
        """What the actor's outputs mean."""
        return ActionHead(self.team.action, self.device)

    @property
    def hears(self) -> bool:
        """Whether the memory keeps what other teams do."""
        return self.across

    def meet(self, learners: Sequence[Learner]) -> None:
        """Learn who controls the other teams: their target policies say what they will do next."""
        for place in self._other_places:
            other = learners[place]
            if isinstance(other, Plans) and other.carry_width == 0:
                self._planners[place] = other

    def overhear(self, actions: list[Tensor], step: Step) -> None:
        """Keep what the other teams do."""
        self.memory.overhear(actions, step)

    @property
    def carry_width(self) -> int:
        """Width of the actor's recurrent state."""
        return self.actor.carry_shape[1]

    def policy(self, agent: int | None = None) -> tuple[AgentNet, Distribution]:
        """One agent's own actor, or the team's."""
        if agent is None:
            return self.actor.restrict(None), self.head
        action = self.team.action.of(agent)
        head: Distribution
        if isinstance(self.head, SquashedHead):
            head = SquashedHead(action)
        elif isinstance(self.head, ActionHead):
            head = ActionHead(action)
        else:
            head = Categorical(self.head.size)
        return self.actor.restrict(agent).cpu(), head

    def act(self, look: Look, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """The actor's action, or one near it; uniform until learning starts."""
        return self.act_through(self.actor, look, explore, generator)

    @torch.inference_mode()
    def act_through(
        self, net: AgentNet, look: Look, explore: bool, generator: torch.Generator | None = None
    ) -> Decision:
        """The same with a copy of the actor."""
        net.seed(look.carry, generator or self.generator)
        out, carry = net.once(look.obs, look.carry, look.started, look.alive)
        action = self.try_out(out, look, generator) if explore else self.head.mode(out, look.legal)
        if self.code.box is not None:
            action = self.code.box.own(action)  # whatever explores knows nothing of padding
        return Decision(action, self.code.to_env(action), out[..., 0], carry)

    def try_out(self, parameters: Tensor, look: Look, generator: torch.Generator | None) -> Tensor:
        """An exploring action: noise on a box's action, a draw for choices."""
        settings = self._actor_settings
        if generator is None and settings.random_start and self.memory.seen_steps < settings.learning_starts:
            return self._random(parameters, look)
        scores = torch.tanh(parameters) if self.code.box is not None else parameters
        return self.explore(scores, look, generator)

    def _random(self, parameters: Tensor, look: Look) -> Tensor:
        if self.code.box is not None:
            shape = (*parameters.shape[:-1], self.code.size)
            return parameters.new_empty(shape).uniform_(-1, 1, generator=self.generator)
        return self.code.sample(torch.zeros_like(parameters), look.legal, self.generator)

    # --- what critics read --------------------------------------------------------------------------------------------

    def replayed(self, sample: Sample) -> Tensor:
        """Features ``(L, B, N, F)`` of what was done; agents that did nothing show zeros."""
        return self.code.features(sample.action) * sample.acting.unsqueeze(-1)

    def stay(self, sample: Sample) -> Tensor:
        """Who has a next action, ``(L, B, N, 1)``."""
        return (sample.complete & (sample.discount > 0)).unsqueeze(-1)

    def beside(self, features: Tensor, sample: Sample, successor: bool) -> Tensor:
        """What the critic reads beside its input, ``(L, B, N, K)``: own, or everybody's features."""
        if not self.joint:
            return features
        length, batch, agents = features.shape[:3]
        everybody = features.flatten(2).unsqueeze(2).expand(length, batch, agents, -1)
        theirs = self._theirs(sample, successor)
        return torch.cat((everybody, *theirs), dim=-1) if theirs else everybody

    def beside_for_actor(self, features: Tensor, sample: Sample) -> Tensor:
        """The same for the actor's loss: each judged agent's own action from the policy, all others as they were."""
        if not self.joint:
            return features
        everybody = own_action_only(features, self.replayed(sample))
        theirs = self._theirs(sample, successor=False)
        return torch.cat((everybody, *theirs), dim=-1) if theirs else everybody

    def _theirs(self, sample: Sample, successor: bool) -> list[Tensor]:
        """Features of the other teams' actions, each ``(L, B, N, M * G)``; zeros of agents that do nothing."""
        found = []
        for which, place in enumerate(self._other_places):
            code = self.codes[place]
            acting = (sample.next_acting_others if successor else sample.acting_others)[which]
            seen = self._their_next_obs(sample, place) if successor and place in self._planners else None
            if seen is not None:
                legal = sample.next_legal_others[which]
                legal = None if legal is None else legal.unsqueeze(2).expand(*seen.shape[:4], -1).flatten(1, 2)
                features = self._planners[place].planned(seen.flatten(1, 2), legal)
                features = features.view(*seen.shape[:4], -1)
            else:
                actions = (sample.next_others if successor else sample.others)[which]
                features = code.features(code.from_env(actions)).unsqueeze(2)
            flat = (features * acting[:, :, None, :, None]).flatten(3)  # (L, B, 1 or N, M * G)
            found.append(flat.expand(*flat.shape[:2], self.team.num_agents, flat.shape[-1]))
        return found

    def _their_next_obs(self, sample: Sample, place: int) -> Tensor | None:
        """Another team's next observations ``(L, B, 1 or N, M, O)``, if the joint input holds them."""
        joint = sample.next_joint
        if joint is None:
            return None
        joint = joint if joint.dim() == 4 else joint.unsqueeze(2)
        return self._actor_settings.critic.obs_of(self.spec, place, joint)

    @torch.no_grad()
    def planned(self, obs: Tensor, legal: Tensor | None) -> Tensor:
        """Features of the target policy's actions."""
        rows = self.actor.encode(obs)
        no = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        yes = torch.ones(rows.shape[:3], dtype=torch.bool, device=rows.device)
        out, _ = self.actor_target.read(rows, rows.new_zeros(rows.shape[1], rows.shape[2], 0), no, yes)
        return self.code.features(self.head.mode(out, legal))

    @contextmanager
    def fixed_critic(self) -> Iterator[None]:
        """Within it the critic only passes gradients on: half of an actor's backward."""
        parameters = self.critic.flat.parameters
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def judge(self, net: AgentNet, sample: Sample, beside: Tensor | None, successor: bool = False) -> Tensor:
        """``(critics, L, B, N, values)``."""
        return self.critic.judge(net, self.critic.inputs(sample, successor), beside)

    # --- the losses' pieces -------------------------------------------------------------------------------------------

    def rows_of(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Encoded observations of the rows and of their successors."""
        return self.actor.encode(sample.obs), self.actor.encode(sample.next_obs)

    def outputs(self, net: AgentNet, seen: Tensor, sample: Sample) -> tuple[Tensor, Tensor]:
        """An actor's outputs ``(L, B, N, K)`` and carries at every row."""
        return net.read(seen, self.start_carry(sample), sample.started, sample.acting)

    def critic_step(self, loss: Tensor) -> Tensor:
        """One step of the critics; the mean gradient norm."""
        self.critic.flat.backward(loss)
        return self.critic_optimizer.step(self._settings.max_grad_norm).mean()

    def actor_step(self, loss: Tensor) -> Tensor:
        """One step of the actor."""
        self.actor_flat.backward(loss)
        return self.actor_optimizer.step(self._settings.max_grad_norm).mean()

    def critic_loss(self, sample: Sample, value: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """``sum_c (Q_c - y)^2 / 2`` over the rows that count, and the errors ``(B, N)`` or ``(B, 1)``."""
        error = target - value  # (critics, L, B, N)
        loss = (ops.l2_loss(error).sum(0) * self.weigh(sample)).sum()
        own = torch.where(sample.complete, error.detach().abs().mean(0), 0.0).mean(0)
        return loss, self.priority_errors(sample, own)

    def move_targets(self) -> None:
        """Move all targets."""
        self.track(self.actor_flat, self.actor_target_flat)
        self.track(self.critic.flat, self.critic.target_flat)

    def see(self, sample: Sample) -> None:
        """Let observation statistics see a draw."""
        self.see_norms(self.actor, sample=sample)
        norm = self.critic.online.norm
        if norm is not None:
            x = self.critic.inputs(sample, successor=False)
            if self.owner.flat:
                x = x.reshape(x.shape[0], -1, 1, x.shape[-1]).expand(-1, -1, self.critic.count, -1)
                mask = sample.acting.reshape(x.shape[0], -1, 1).expand(-1, -1, self.critic.count)
            else:
                x, mask = torch.cat([x] * self.critic.count, 2), torch.cat([sample.acting] * self.critic.count, 2)
            norm.update(x, mask, self.reduce)

    def modules(self) -> dict[str, nn.Module]:
        """Actor, critics, targets."""
        return {"actor": self.actor, "actor_target": self.actor_target, "critic": self.critic}

    def optimizers(self) -> dict[str, Stepper]:
        """One for each."""
        return {"actor": self.actor_optimizer, "critic": self.critic_optimizer}
