"""A joint critic with a value for each of an agent's own actions, the others' given: what COMA compares actions by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from marl import ops
from marl.nets.agent_net import AgentNet
from marl.nets.networks import Network
from marl.nets.owner import Owner


class CounterfactualNet(nn.Module):
    """``Q(x, a_-i, .)``: from a joint input and the others' actions to a value of every own action.

    ``forward(x (T, B, *shape), actions (T, B, N), acting (T, B, N), carry (B, N, H), start (T, B))`` returns
    ``(T, B, N, A)`` and the carry after each row. Whoever does not act shows no action.
    """

    def __init__(
        self,
        network: Network,
        owner: Owner,
        shape: tuple[int, ...],
        actions: int,
        generators: Sequence[torch.Generator],
        *,
        ids: Tensor | None = None,
        true_inputs: Tensor | None = None,
        normalize: bool = False,
    ) -> None:
        """``shape`` is that of the joint input; ``actions``: how many an agent has."""
        super().__init__()
        agents = range(owner.num_agents)
        rows = [[other for other in agents if other != agent] for agent in agents]
        self.register_buffer("others", torch.tensor(rows, dtype=torch.int64))
        self.others: Tensor  # (N, N - 1)
        self.actions = actions
        self.net = AgentNet(
            network,
            owner,
            shape,
            actions,
            generators,
            gain=1.0,
            ids=ids,
            true_inputs=None if true_inputs is None else [true_inputs] * owner.num_sets,
            normalize=normalize,
            beside=(owner.num_agents - 1) * actions,
        )
        self.carry_shape = self.net.carry_shape
        self.norm = self.net.norm

    def encode(self, x: Tensor) -> Tensor:
        """Joint inputs ``(T, B, *J)`` as :meth:`read` takes them, one for each judged agent: ``(T, B, N, ...)``."""
        x = x.unsqueeze(2)
        return self.net.encode(x.expand(*x.shape[:2], self.others.shape[0], *x.shape[3:]))

    def forward(
        self, x: Tensor, actions: Tensor, acting: Tensor, carry: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        return self.read(self.encode(x), actions, acting, carry, start)

    def read(self, x: Tensor, actions: Tensor, acting: Tensor, carry: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The same from encoded inputs."""
        done = ops.one_hot(actions, self.actions) * acting.unsqueeze(-1)  # (T, B, N, A)
        theirs = done[:, :, self.others].flatten(-2)  # (T, B, N, (N - 1) A)
        # The joint view moves on whenever anyone of the team acts.
        active = acting.any(-1, keepdim=True).expand(acting.shape)
        return self.net.read(x, carry, start, active, (theirs,) if theirs.shape[-1] else ())
