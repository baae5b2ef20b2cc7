"""QPLEX: values and advantages of the agents, mixed apart (Wang et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from marl.grid.mixers import Mixer, MixerContext, Mixing, TeamMixer, TrackedMixer, check_mixer
from marl.nets.side_by_side import SideBySide, dense_layers


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
        self._of_state, self._of_actions = SideBySide(), SideBySide()
        self.weight = dense_layers((state_width, hypernet, num_agents), generator)
        self.bias = dense_layers((state_width, hypernet, num_agents), generator)
        self.key = dense_layers((state_width, hypernet, heads), generator)
        self.agent = dense_layers((state_width, hypernet, num_agents * heads), generator)
        self.joint = dense_layers((state_width + num_agents * action_width, hypernet, num_agents * heads), generator)

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """``Q_tot`` from values, advantages and the features of the actions taken."""
        agents, shape = self.num_agents, (self.num_agents, self.heads)
        made = self._of_state(state, self.weight, self.bias, self.key, self.agent)
        weight, bias, key, agent = torch.split(made, [agents, agents, self.heads, agents * self.heads], dim=-1)
        weight = functional.softplus(weight) + 1e-10  # (..., N)
        taken = (action * acting.unsqueeze(-1)).flatten(-2)
        joint = self._of_actions(torch.cat((state, taken), dim=-1), self.joint)
        key = functional.softplus(key).unsqueeze(-2)  # (..., 1, H)
        agent, joint = (torch.unflatten(torch.sigmoid(part), -1, shape) for part in (agent, joint))
        strength = (key * agent * joint).sum(-1) + 1e-10  # (..., N): lambda
        mine = torch.where(acting, weight * chosen + bias, 0.0)
        # The same number as sum (w V + b) + sum lambda w (Q - V), but each Q_i learns at full strength from every
        # joint action, as in the authors' code. Through lambda it would not: where lambda has gone to 0, as it does for
        # the best joint action while another one is greedy, so has the gradient that would raise it.
        advantage = torch.where(acting, (strength - 1) * (weight * (chosen - best)).detach(), 0.0)
        total: Tensor = mine.sum(-1) + advantage.sum(-1)
        return total


@dataclass(frozen=True)
class QPlex(Mixing):
    """Duplex dueling: any team value whose best joint action is made of the members' own best ones (Wang et al. 2021).

    ``Q_tot = sum_i (w_i(s) V_i + b_i(s)) + sum_i lambda_i(s, a) w_i(s) (Q_i - V_i)`` with ``V_i = max_a Q_i`` and
    positive ``w``, ``lambda``.

    Args:
        heads: attention heads that make ``lambda``.
        hypernet: width of the hidden layers.
        state: as for :class:`QMix`.
    """

    heads: int = 4
    hypernet: int = 64
    state: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        check_mixer(self, heads=self.heads, hypernet=self.hypernet)

    @property
    def compares_actions(self) -> bool:
        """Advantages are differences from the best action's value."""
        return True

    def build(self, context: MixerContext) -> TeamMixer:
        """Make the mixer."""
        return TrackedMixer(context, DuplexMixer(*context.sizes, context.generator(), self.heads, self.hypernet))
