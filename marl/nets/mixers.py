"""Mixers: from the values of a team's agents to one value of the team."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from marl import ops


class Dense(nn.Module):
    """``y = x W + b``, initialised from a generator of its own, uniformly within ``1 / sqrt(in)``."""

    def __init__(self, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
        """As ``nn.Linear``."""
        super().__init__()
        bound = 1 / math.sqrt(max(fan_in, 1))
        self.weight = nn.Parameter(_uniform(fan_in, fan_out, bound, generator))
        self.bias = nn.Parameter(_uniform(1, fan_out, bound, generator))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        return x @ self.weight + self.bias[0]


def _uniform(rows: int, columns: int, bound: float, generator: torch.Generator) -> Tensor:
    # One leading axis, as stacked parameters have: a mixer is a team's one set.
    return torch.empty(rows, columns, dtype=torch.float32).uniform_(-bound, bound, generator=generator)


def _layers(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        parts += [Dense(before, after, generator), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Mixer(nn.Module):
    """``forward(chosen (..., N), best (..., N), acting (..., N), state (..., S), action (..., N, A))`` gives ``(...)``.

    ``chosen``: values of the actions taken; ``best``: of each agent's best action; agents that are not ``acting``
    contribute nothing; ``action``: features of the actions taken.
    """

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """See the class."""
        raise NotImplementedError


class SumMixer(Mixer):
    """``Q_tot = sum_i Q_i`` (VDN, Sunehag et al. 2018)."""

    def __init__(self, num_agents: int, state_width: int, action_width: int, generator: torch.Generator) -> None:
        """There is nothing to make."""
        super().__init__()

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        return ops.sum_mixing(chosen, acting)


class MonotonicMixer(Mixer):
    """``Q_tot = |W_2(s)|^T ELU(|W_1(s)|^T q + b_1(s)) + V(s)`` (QMIX, Rashid et al. 2018): rises with every ``Q_i``."""

    def __init__(
        self,
        num_agents: int,
        state_width: int,
        action_width: int,
        generator: torch.Generator,
        embed: int = 32,
        hypernet: int = 64,
    ) -> None:
        """``hypernet``: hidden width of the networks that make the weights; 0: linear."""
        super().__init__()
        self.num_agents, self.embed = num_agents, embed
        hidden = (hypernet,) if hypernet else ()
        self.weight_1 = _layers((state_width, *hidden, num_agents * embed), generator)
        self.bias_1 = _layers((state_width, embed), generator)
        self.weight_2 = _layers((state_width, *hidden, embed), generator)
        self.value = _layers((state_width, embed, 1), generator)

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        weight_1 = torch.unflatten(self.weight_1(state), -1, (self.num_agents, self.embed))  # (..., N, M)
        return ops.monotonic_mixing(
            chosen, weight_1, self.bias_1(state), self.weight_2(state), self.value(state).squeeze(-1), acting
        )


class DuplexMixer(Mixer):
    """``Q_tot = sum_i (w_i V_i + b_i) + sum_i lambda_i w_i (Q_i - V_i)`` (QPLEX, Wang et al. 2021).

    ``w_i(s) > 0``, ``lambda_i(s, a) > 0`` and ``V_i = max Q_i``, so the advantage is never positive and the best joint
    action is everybody's own best one. ``lambda_i = sum_h k_h(s) g_ih(s) f_ih(s, a)`` with positive factors.
    """

    def __init__(
        self,
        num_agents: int,
        state_width: int,
        action_width: int,
        generator: torch.Generator,
        heads: int = 4,
        hypernet: int = 64,
    ) -> None:
        """``heads``: terms of ``lambda``; ``hypernet``: hidden width of all networks."""
        super().__init__()
        self.num_agents, self.heads = num_agents, heads
        self.weight = _layers((state_width, hypernet, num_agents), generator)
        self.bias = _layers((state_width, hypernet, num_agents), generator)
        self.key = _layers((state_width, hypernet, heads), generator)
        self.agent = _layers((state_width, hypernet, num_agents * heads), generator)
        self.joint = _layers((state_width + num_agents * action_width, hypernet, num_agents * heads), generator)

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        weight = functional.softplus(self.weight(state)) + 1e-10  # (..., N)
        done = (action * acting.unsqueeze(-1)).flatten(-2)
        shape = (self.num_agents, self.heads)
        key = functional.softplus(self.key(state)).unsqueeze(-2)  # (..., 1, H)
        agent = torch.unflatten(torch.sigmoid(self.agent(state)), -1, shape)
        joint = torch.unflatten(torch.sigmoid(self.joint(torch.cat((state, done), dim=-1))), -1, shape)
        strength = (key * agent * joint).sum(-1) + 1e-10  # (..., N): lambda
        mine = torch.where(acting, weight * chosen + self.bias(state), 0.0)
        # The same number as sum (w V + b) + sum lambda w (Q - V), but each Q_i learns at full strength from every
        # joint action, as in the authors' code. Through lambda it would not: where lambda has gone to 0, as it does for
        # the best joint action while another one is greedy, so has the gradient that would raise it.
        advantage = torch.where(acting, (strength - 1) * (weight * (chosen - best)).detach(), 0.0)
        total: Tensor = mine.sum(-1) + advantage.sum(-1)
        return total


class FreeMixer(Mixer):
    """``f(s, Q_1 ... Q_N)`` without any restriction: weighted QMIX's central value (Rashid et al. 2020)."""

    def __init__(
        self,
        num_agents: int,
        state_width: int,
        action_width: int,
        generator: torch.Generator,
        hidden: tuple[int, ...] = (128, 128),
    ) -> None:
        """``hidden``: widths of its layers."""
        super().__init__()
        self.mix = _layers((state_width + num_agents, *hidden, 1), generator)
        self.value = _layers((state_width, hidden[0], 1), generator)

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """See :class:`Mixer`."""
        q = torch.where(acting, chosen, 0.0)
        total: Tensor = (self.mix(torch.cat((state, q), dim=-1)) + self.value(state)).squeeze(-1)
        return total
