"""Critics that judge actions: ``Q_i(x_i, a)`` for every agent, one or two at once, local or joint."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from marl.grid.scope import Scope
from marl.memory.replay import Sample
from marl.nets.agent_net import AgentNet
from marl.nets.networks import CNN, GRU, MLP, Network, default_network
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters
from marl.types import ConfigError, Spec, TeamSpec


class ActionCritic(nn.Module):
    """``count`` critics per parameter set, with their slowly moving copies.

    A local critic of agent ``i`` reads its observation and the features ``(L, B, N, F)`` of its action; a joint one the
    joint input and the features of everybody's actions, given per judged agent, ``(L, B, N, N * F + G)``. All critics
    are evaluated in one batched product. They are feed-forward: what they judge is not remembered but given.
    """

    def __init__(
        self,
        spec: Spec,
        team: TeamSpec,
        owner: Owner,
        scope: Scope,
        network: Network | None,
        generators: Sequence[torch.Generator],
        *,
        count: int,
        beside: int,
        outputs: int = 1,
        ids: Tensor | None,
        normalize: bool,
        device: torch.device | str,
    ) -> None:
        """``beside``: how many numbers of actions are read; ``outputs``: values per critic."""
        super().__init__()
        shape = scope.shape(spec, team)
        self.joint, self.count, self.owner = shape is not None, count, owner
        if isinstance(network, GRU):
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
            beside=self.ids.shape[1] + beside,
        )
        self.to(device)
        self.target = copy.deepcopy(self.online)
        self.flat = FlatParameters([self.online], inner.num_sets)
        self.target_flat = FlatParameters([self.target], inner.num_sets)

    def inputs(self, sample: Sample, successor: bool) -> Tensor:
        """What is judged: ``(L, B, N, *shape)``, observations or the joint input for every agent."""
        if not self.joint:
            return sample.next_obs if successor else sample.obs
        x = sample.next_joint if successor else sample.joint
        assert x is not None
        assert sample.joint is not None
        if x.dim() == sample.joint.dim():
            x = x.unsqueeze(2)
        return x.expand(*x.shape[:2], self.owner.num_agents, *x.shape[3:])

    def judge(self, net: AgentNet, x: Tensor, features: Tensor | None) -> Tensor:
        """Values ``(count, L, B, N, outputs)`` of inputs ``(L, B, N, *shape)`` and features ``(L, B, N, F)``."""
        length, batch, agents = x.shape[:3]
        # They remember nothing: every row may be a time of its own, so nothing that was expanded is written out.
        x = x.flatten(0, 1)  # (L * B, N, *shape)
        beside = [] if features is None else [features.flatten(0, 1)]
        if self.ids.shape[1]:
            beside.insert(0, self.ids.expand(length * batch, agents, -1))
        if self.owner.flat:  # (L * B, N, critics, ...)
            rows, *beside = (part.unsqueeze(2).expand(-1, -1, self.count, *part.shape[2:]) for part in (x, *beside))
        else:  # (L * B, 1, critics * N, ...)
            rows, *beside = (
                part.unsqueeze(1).expand(-1, self.count, *part.shape[1:]).flatten(1, 2).unsqueeze(1)
                for part in (x, *beside)
            )
        columns = rows.shape[2]
        carry = rows.new_zeros(rows.shape[1], columns, 0, dtype=torch.float32)
        no = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device)
        yes = torch.ones(rows.shape[:3], dtype=torch.bool, device=rows.device)
        out, _ = net.read(self.online.encode(rows), carry, no, yes, beside)
        if self.owner.flat:
            return out.reshape(length, batch, agents, self.count, -1).movedim(3, 0)
        return out.view(length, batch, self.count, agents, -1).movedim(2, 0)


def own_action_only(policy: Tensor, replayed: Tensor) -> Tensor:
    """Everybody's features for each judged agent, ``(L, B, N, N * F)``: its own from the policy, the others' as they
    were.

    So ``dQ_i / da_j = 0`` for ``j != i`` whatever the loss: an agent improves its own action alone.
    """
    agents = policy.shape[2]
    own = torch.eye(agents, dtype=torch.bool, device=policy.device).unsqueeze(-1)  # (N, N, 1)
    return torch.where(own, policy.unsqueeze(2), replayed.unsqueeze(2)).flatten(-2)
