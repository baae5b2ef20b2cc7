"""Critics of actions: ``Q_i(x_i, a)`` for every agent, one or two per agent, local or joint."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from marl import ops
from marl.grid.scope import Scope
from marl.memory.sample import Sample
from marl.nets.action_head import ActionHead
from marl.nets.agent_net import AgentNet
from marl.nets.networks import CNN, MLP, Network, default_network, remembers
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters
from marl.reduce import ALONE, Reduce
from marl.types import ConfigError, Spec, TeamSpec


@runtime_checkable
class PlansActions(Protocol):
    """A learner that tells its next actions to the joint critics of other teams."""

    @property
    def carry_width(self) -> int:
        """Width of the recurrent state of one agent; what agents that remember will do cannot be asked."""
        ...

    def planned(self, obs: Tensor, action_mask: Tensor | None) -> Tensor:
        """Critic features ``(L, B, M, F)`` of the target policy's actions for raw observations ``(L, B, M, *O)``."""
        ...


class OtherTeams:
    """What a critic across teams reads of the other teams' actions."""

    def __init__(self, spec: Spec, team: TeamSpec, scope: Scope, device: torch.device | str) -> None:
        """All teams of ``spec`` but ``team``; ``scope``: what the critic reads beside actions."""
        self.spec, self.scope, self.num_agents = spec, scope, team.num_agents
        self.places = [place for place, other in enumerate(spec.teams) if other is not team]
        self.codes = [ActionHead(spec.teams[place].action, device) for place in self.places]
        self.width = sum(
            code.size * spec.teams[place].num_agents for place, code in zip(self.places, self.codes, strict=True)
        )
        self._planners: dict[int, PlansActions] = {}

    def connect(self, learners: Sequence[object]) -> None:
        """Learn who controls the other teams: their target policies say what they will do next."""
        for place in self.places:
            other = learners[place]
            if isinstance(other, PlansActions) and other.carry_width == 0:
                self._planners[place] = other

    def features(self, sample: Sample, successor: bool) -> list[Tensor]:
        """Features of each team's actions ``(L, B, N, M * G)``; zeros of agents that do nothing."""
        found = []
        for which, (place, code) in enumerate(zip(self.places, self.codes, strict=True)):
            acting = (sample.next_acting_others if successor else sample.acting_others)[which]
            seen = self._next_obs(sample, place) if successor and place in self._planners else None
            if seen is not None:
                action_mask = sample.next_action_mask_others[which]
                action_mask = (
                    None if action_mask is None else action_mask.unsqueeze(2).expand(*seen.shape[:4], -1).flatten(1, 2)
                )
                features = self._planners[place].planned(seen.flatten(1, 2), action_mask)
                features = features.view(*seen.shape[:4], -1)
            else:
                actions = (sample.next_others if successor else sample.others)[which]
                features = code.features(code.from_env(actions)).unsqueeze(2)
            flat = (features * acting[:, :, None, :, None]).flatten(3)  # (L, B, 1 or N, M * G)
            found.append(flat.expand(*flat.shape[:2], self.num_agents, flat.shape[-1]))
        return found

    def _next_obs(self, sample: Sample, place: int) -> Tensor | None:
        """A team's next observations ``(L, B, 1 or N, M, O)``, if the joint input holds them."""
        joint = sample.next_joint
        if joint is None:
            return None
        return self.scope.obs_of(self.spec, place, joint if joint.dim() == 4 else joint.unsqueeze(2))


class ActionCritic(nn.Module):
    """``count`` critics ``Q_i(x_i, a)`` per parameter set, with their slowly moving copies.

    A local critic of agent ``i`` reads its observation and the features ``(L, B, N, F)`` of its action; a joint one the
    joint input and the features of everybody's actions, given per judged agent, ``(L, B, N, N * F + G)``. With more
    than one output a critic gives a value for each own action, ``Q_i(x_i, a_-i, .)``, and is not told which it was. All
    critics are evaluated in one batched product. They are feed-forward: what they judge is not remembered but given.
    """

    def __init__(
        self,
        spec: Spec,
        team: TeamSpec,
        owner: Owner,
        scope: Scope,
        network: Network | None,
        policy_network: Network,
        generators: Sequence[torch.Generator],
        *,
        count: int = 1,
        outputs: int = 1,
        ids: Tensor | None,
        normalize: bool,
        device: torch.device | str,
    ) -> None:
        """With ``network`` None it is ``policy_network``, the actor's, if that is feed-forward.

        ``outputs``: values per critic; one for the action that was taken, or one for each own action.
        """
        super().__init__()
        shape = scope.shape(spec, team)
        self.joint, self.count, self.owner, self.outputs = shape is not None, count, owner, outputs
        self.code = ActionHead(team.action, device)
        across = self.joint and scope.other_teams and len(spec.teams) > 1
        self.others = OtherTeams(spec, team, scope, device) if across else None
        agents = range(team.num_agents)
        rows = [[other for other in agents if other != agent] for agent in agents]
        self._but_oneself = torch.tensor(rows, dtype=torch.int64, device=device)  # (N, N - 1)
        read = (team.num_agents if self.joint else 1) - (outputs > 1)
        extra_inputs = self.code.size * read + (0 if self.others is None else self.others.width)
        if remembers(network):
            raise ConfigError(
                "critic_network: critics of actions are feed-forward (they read the stored step); use MLP() or CNN()"
            )
        if shape is None:
            shape = team.obs.shape
            widths = [max(team.obs.widths[a] for a in owner.members(p)) for p in range(owner.num_sets)]
            own = None if team.obs.is_image else [torch.arange(width) for width in widths]
        else:
            places = scope.true_inputs(spec, team)
            own = None if places is None else [places] * owner.num_sets
        if network is None and not remembers(policy_network):
            network = policy_network
        if network is None or (len(shape) != 3 and isinstance(network, CNN)):
            network = default_network(shape)
        if len(shape) == 3 and isinstance(network, MLP):
            network = default_network(shape)
        # With one parameter set agents are rows, and the critics are the sets; else every set has `count` critics.
        if owner.flat:
            inner = Owner(tuple(range(count)))
        else:
            sets = owner.num_sets
            inner = Owner(tuple(which + copy * sets for copy in range(count) for which in owner.index))
        self.register_buffer("ids", torch.zeros(owner.num_agents, 0, dtype=torch.float32) if ids is None else ids)
        self.ids: Tensor
        self.online = AgentNet(
            network,
            inner,
            shape,
            outputs,
            [generator for _ in range(count) for generator in generators],
            gain=1.0,
            true_inputs=None if own is None else list(own) * count,
            normalize=normalize,
            extra_inputs=self.ids.shape[1] + extra_inputs,
        )
        self.to(device)
        self.target = copy.deepcopy(self.online)
        self.flat = FlatParameters([self.online], inner.num_sets)
        self.target_flat = FlatParameters([self.target], inner.num_sets)

    def inputs(self, sample: Sample, successor: bool) -> Tensor:
        """Critic inputs ``(L, B, N, *shape)``: observations, or the joint input for every agent."""
        if not self.joint:
            return sample.next_obs if successor else sample.obs
        x = sample.next_joint if successor else sample.joint
        assert x is not None
        assert sample.joint is not None
        if x.dim() == sample.joint.dim():
            x = x.unsqueeze(2)
        return x.expand(*x.shape[:2], self.owner.num_agents, *x.shape[3:])

    def taken(self, sample: Sample) -> Tensor:
        """Features ``(L, B, N, F)`` of the actions that were taken; agents that did nothing show zeros."""
        return self.code.features(sample.action) * sample.acting.unsqueeze(-1)

    def value(self, sample: Sample, actions: Tensor) -> Tensor:
        """``Q(x, a)``, ``(critics, L, B, N, outputs)``, of features ``(L, B, N, F)`` of everybody's actions."""
        return self.values_of(
            self.online, self.inputs(sample, False), self._extra_inputs(actions, sample, successor=False)
        )

    def next_value(self, sample: Sample, actions: Tensor) -> Tensor:
        """The targets' ``Q'(x', a')``, likewise."""
        return self.values_of(
            self.target, self.inputs(sample, True), self._extra_inputs(actions, sample, successor=True)
        )

    def value_of_own(self, sample: Sample, actions: Tensor) -> Tensor:
        """``Q_i(x, (a_i, a_-i))`` with each judged agent's own action as given and all others as they were taken.

        So ``dQ_i / da_j = 0`` for ``j != i`` whatever the loss: an agent improves its own action alone.
        """
        extra_inputs = actions
        if self.joint:
            extra_inputs = self._with_others(own_action_only(actions, self.taken(sample)), sample, successor=False)
        return self.values_of(self.online, self.inputs(sample, False), extra_inputs)

    def _extra_inputs(self, actions: Tensor, sample: Sample, successor: bool) -> Tensor | None:
        """What is read beside the input, ``(L, B, N, K)``: an agent's own features, or everybody's."""
        if not self.joint:
            return None if self.outputs > 1 else actions
        if self.outputs > 1:
            return self._with_others(actions[:, :, self._but_oneself].flatten(-2), sample, successor)
        length, batch, agents = actions.shape[:3]
        return self._with_others(actions.flatten(2).unsqueeze(2).expand(length, batch, agents, -1), sample, successor)

    def _with_others(self, features: Tensor, sample: Sample, successor: bool) -> Tensor:
        if self.others is None:
            return features
        return torch.cat((features, *self.others.features(sample, successor)), dim=-1)

    def values_of(self, net: AgentNet, x: Tensor, features: Tensor | None) -> Tensor:
        """Values ``(count, L, B, N, outputs)`` of inputs ``(L, B, N, *shape)`` and features ``(L, B, N, F)``."""
        length, batch, agents = x.shape[:3]
        # They remember nothing: every row may be a time of its own, so nothing that was expanded is written out.
        x = x.flatten(0, 1)  # (L * B, N, *shape)
        extra_inputs = [] if features is None else [features.flatten(0, 1)]
        if self.ids.shape[1]:
            extra_inputs.insert(0, self.ids.expand(length * batch, agents, -1))
        if self.owner.flat:  # (L * B, N, critics, ...)
            rows, *extra_inputs = (
                part.unsqueeze(2).expand(-1, -1, self.count, *part.shape[2:]) for part in (x, *extra_inputs)
            )
        else:  # (L * B, 1, critics * N, ...)
            rows, *extra_inputs = (
                part.unsqueeze(1).expand(-1, self.count, *part.shape[1:]).flatten(1, 2).unsqueeze(1)
                for part in (x, *extra_inputs)
            )
        columns = rows.shape[2]
        carry = rows.new_zeros(rows.shape[1], columns, 0, dtype=torch.float32)
        no = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        yes = torch.ones(rows.shape[:3], dtype=torch.bool, device=rows.device)
        out, _ = net.read(self.online.encode(rows), carry, no, yes, extra_inputs)
        if self.owner.flat:
            return out.reshape(length, batch, agents, self.count, -1).movedim(3, 0)
        return out.view(length, batch, self.count, agents, -1).movedim(2, 0)

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Within it critics only pass gradients on: half of an actor's backward."""
        for parameter in self.flat.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.flat.parameters:
                parameter.requires_grad_(True)

    def track(self, tau: float) -> None:
        """Move the targets by a share ``tau`` of the way."""
        self.target_flat.follow(self.flat, tau)

    def see(self, sample: Sample, reduce: Reduce = ALONE) -> None:
        """Let input statistics see a draw, after it was learnt from."""
        norm = self.online.norm
        if norm is None:
            return
        x = self.inputs(sample, successor=False)
        if self.owner.flat:
            x = x.reshape(x.shape[0], -1, 1, x.shape[-1]).expand(-1, -1, self.count, -1)
            mask = sample.acting.reshape(x.shape[0], -1, 1).expand(-1, -1, self.count)
        else:
            x, mask = torch.cat([x] * self.count, 2), torch.cat([sample.acting] * self.count, 2)
        norm.update(x, mask, reduce)


def goes_on(sample: Sample) -> Tensor:
    """Who has a next action, ``(L, B, N, 1)``."""
    return (sample.complete & (sample.discount > 0)).unsqueeze(-1)


def td_loss(value: Tensor, target: Tensor, weight: Tensor, complete: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_c w (y - Q_c)^2 / 2`` of values ``(critics, L, B, N)``, and ``|y - Q|``, ``(B, N)``, for priorities."""
    error = target - value
    loss = (ops.l2_loss(error).sum(0) * weight).sum()
    return loss, torch.where(complete, error.detach().abs().mean(0), 0.0).mean(0)


def own_action_only(policy: Tensor, replayed: Tensor) -> Tensor:
    """Features of all actions for each agent's loss, ``(L, B, N, N * F)``: its own from the policy, others as stored.

    So ``dQ_i / da_j = 0`` for ``j != i`` whatever the loss: an agent improves its own action alone.
    """
    agents = policy.shape[2]
    own = torch.eye(agents, dtype=torch.bool, device=policy.device).unsqueeze(-1)  # (N, N, 1)
    return torch.where(own, policy.unsqueeze(2), replayed.unsqueeze(2)).flatten(-2)
