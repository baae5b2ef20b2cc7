"""Which agent uses which set of parameters, and the layout in which stacked networks compute."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from marl.types import Array


class Owner:
    """Maps the ``N`` agents of a team to ``P`` parameter sets, and tensors to and from the layout networks compute in.

    Outside a network tensors are ``(T, B, N, *F)``. Inside they are ``(S, T, M, *F)``: with one parameter set
    everything is flattened (``S = 1``, ``M = B * N``), otherwise the agent axis leads (``S = N``, ``M = B``) so that
    one batched product evaluates all agents. Weights ``(P, ...)`` become ``(S, ...)``: no gather when agent ``n`` owns
    set ``n``.
    """

    def __init__(self, index: tuple[int, ...]) -> None:
        """``index[n]`` is the set of agent ``n``; sets are numbered from 0 without gaps."""
        self.index = index
        self.num_agents = len(index)
        self.num_sets = max(index) + 1
        if set(index) != set(range(self.num_sets)):
            raise ValueError(f"owner index: expected sets 0..{self.num_sets - 1} without gaps, got {index}")
        self.flat = self.num_sets == 1
        self.identity = index == tuple(range(self.num_agents))
        with torch.inference_mode(False):  # whoever asks first, later ones may want gradients
            self.tensor = torch.tensor(index, dtype=torch.int64)  # (N,) on the CPU
        self._elsewhere: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The same on a device, sent there once."""
        if device.type == "cpu":
            return self.tensor
        found = self._elsewhere.get(device)
        if found is None:
            with torch.inference_mode(False):
                found = self._elsewhere[device] = self.tensor.to(device)
        return found

    @cached_property
    def table(self) -> tuple[Array, Array]:
        """The agents of each set, ``(P, most)``, unused places -1, and how many it has, ``(P,)``."""
        sets = [self.members(which) for which in range(self.num_sets)]
        sizes = np.array([len(members) for members in sets])
        members = np.full((self.num_sets, int(sizes.max())), -1)
        for which, agents in enumerate(sets):
            members[which, : len(agents)] = agents
        return members, sizes

    def members(self, which: int) -> list[int]:
        """The agents that own one set."""
        return [agent for agent, owned in enumerate(self.index) if owned == which]

    def weight(self, parameter: Tensor) -> Tensor:
        """``(P, ...)`` to ``(S, ...)``."""
        if self.flat or self.identity:
            return parameter
        return parameter[self.on(parameter.device)]

    def enter(self, x: Tensor) -> Tensor:
        """``(T, B, N, *F)`` to ``(S, T, M, *F)``."""
        if self.flat:
            return x.reshape(1, x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])
        return x.movedim(2, 0)

    def leave(self, x: Tensor) -> Tensor:
        """``(S, T, M, *F)`` back to ``(T, B, N, *F)``."""
        if self.flat:
            return x.reshape(x.shape[1], x.shape[2] // self.num_agents, self.num_agents, *x.shape[3:])
        return x.movedim(0, 2)

    def sum_sets(self, per_agent: Tensor) -> Tensor:
        """Sum ``(N,)`` over the agents of each set: ``(P,)``."""
        if self.flat:
            return per_agent.sum(0, keepdim=True)
        if self.identity:
            return per_agent
        out = per_agent.new_zeros(self.num_sets)
        return out.index_add_(0, self.on(per_agent.device), per_agent)

    def to_agents(self, per_set: Tensor) -> Tensor:
        """Spread ``(P, ...)`` over agents: ``(N, ...)``."""
        if self.identity:
            return per_set
        if self.flat:
            return per_set.expand(self.num_agents, *per_set.shape[1:])
        return per_set[self.on(per_set.device)]


def weights_of(complete: Tensor, owner: Owner) -> Tensor:
    """Weights ``(L, C, N)`` under which a sum is, for every parameter set, the mean over its own rows that count."""
    count = owner.to_agents(owner.sum_sets(complete.sum((0, 1)).to(torch.float32)).clamp(min=1))
    return complete / count
