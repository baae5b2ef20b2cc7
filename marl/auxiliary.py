"""Auxiliary losses: further losses of a policy's network, on the same rows.

``auxiliary=(PredictActions(),)`` is a setting of every learner. A loss gets the features of the policy's network, which
its output layer reads, and says a cost for each row. The learner takes the mean over the rows that count, sums over
parameter sets, and adds it to the loss of its policy. The parameters of an auxiliary loss have an optimizer of the
learner's kind and are saved with the learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from marl.nets.agent_net import AgentNet
from marl.nets.distributions import make_distribution
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters, StackedLinear, parts_with_mode
from marl.optim import Optimizer, Stepper
from marl.types import ConfigError, TeamSpec

__all__ = ["PredictActions"]


class Rows(Protocol):
    """Rows of a rollout or of a draw from a replay: tensors ``(L, B, N, ...)``, ``B`` sequences of ``L`` rows."""

    @property
    def action(self) -> Tensor:
        """``(L, B, N[, A])`` what was done."""
        ...

    @property
    def acting(self) -> Tensor:
        """``(L, B, N)`` who did something."""
        ...

    @property
    def complete(self) -> Tensor:
        """``(L, B, N)`` what is learnt from."""
        ...

    @property
    def started(self) -> Tensor:
        """``(L, B)`` where an episode begins."""
        ...


class Auxiliary(Protocol):
    """An auxiliary loss of one team, an ``nn.Module`` with parameters ``(P, ...)`` or none."""

    def __call__(self, features: Tensor, seen: Tensor, rows: Rows) -> Tensor:
        """The cost of every row ``(L, B, N)``, with gradients.

        Args:
            features: (L, B, N, W) what the policy's output layer reads.
            seen: (L, B, N, O) what the policy's network reads: encoded observations.
            rows: what was done.
        """
        ...


@runtime_checkable
class AuxiliaryLoss(Protocol):
    """A frozen dataclass: settings of an additional loss of a policy's network."""

    @property
    def weight(self) -> float:
        """Of this loss beside the learner's."""
        ...

    def build(self, team: TeamSpec, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> nn.Module:
        """The loss of one team: an :class:`Auxiliary`. Raises ConfigError where it has no meaning.

        Args:
            team: whose policy it is.
            owner: which parameter set each agent has.
            width: W, the number of features.
            generators: a random stream for each parameter set.
        """
        ...


class Auxiliaries:
    """All auxiliary losses of a learner, their parameters and their optimizer."""

    def __init__(
        self,
        losses: Sequence[AuxiliaryLoss],
        net: AgentNet,
        team: TeamSpec,
        seed: np.random.SeedSequence,
        device: torch.device | str,
        optimizer: Optimizer,
    ) -> None:
        """``net``: the policy's network. Raises ConfigError for what is no auxiliary loss."""
        for loss in losses:
            if not isinstance(loss, AuxiliaryLoss) or isinstance(loss, type):
                raise ConfigError(f"auxiliary= of team {team.name!r}: expected auxiliary losses, got {loss!r}")
        self.losses, self.net = tuple(losses), net
        owner = net.owner
        self.modules = nn.ModuleList()
        for loss, child in zip(losses, seed.spawn(len(losses)) if losses else (), strict=True):
            generators = [
                torch.Generator().manual_seed(int(one.generate_state(1, np.uint64)[0] >> 1))
                for one in child.spawn(owner.num_sets)
            ]
            self.modules.append(loss.build(team, owner, net.body.width, generators))
        self.modules.to(device).eval()
        self.parts_with_mode = [part for module in self.modules for part in parts_with_mode(module)]
        learns = any(True for _ in self.modules.parameters())
        self.flats = [FlatParameters([self.modules], owner.num_sets)] if learns else []
        self.optimizers = {"auxiliary": Stepper(optimizer, self.flats[0])} if learns else {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.losses)

    def __call__(self, seen: Tensor, carry: Tensor, rows: Rows, weight: Tensor) -> Tensor:
        """The weighted sum of all losses.

        Args:
            seen: (L, B, N, O) encoded observations.
            carry: (B, N, H) the policy's recurrent state before the first row.
            rows: what was done.
            weight: (L, B, N) under which a sum is the mean over the rows of each parameter set.
        """
        features = self.net.features(seen, carry, rows.started, rows.acting)
        total = torch.zeros((), dtype=torch.float32, device=features.device)
        for loss, module in zip(self.losses, self.modules, strict=True):
            cost: Tensor = module(features, seen, rows)
            if cost.shape != weight.shape:
                raise ConfigError(
                    f"auxiliary={loss!r}: expected a cost for every row {tuple(weight.shape)}, got {tuple(cost.shape)}"
                )
            total = total + loss.weight * (cost * weight).sum()
        return total

    def step(self, max_norm: float) -> None:
        """Move the losses' own parameters along their gradients, of norm ``max_norm`` at most."""
        for stepper in self.optimizers.values():
            stepper.step(max_norm)

    def state_dict(self) -> dict[str, Any]:
        """Parameters and moments."""
        moments = {name: stepper.state_dict() for name, stepper in self.optimizers.items()}
        return {"modules": dict(self.modules.state_dict()), "optimizers": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved ones."""
        self.modules.load_state_dict(state["modules"])
        for name, stepper in self.optimizers.items():
            stepper.load_state_dict(state["optimizers"][name])


@dataclass(frozen=True)
class PredictActions:
    """Predict from an agent's features what each of its team mates does in the same step (Hernandez-Leal et al. 2019).

    The cost is ``-log p(a_j | features of i)``, the mean over team mates ``j`` that act; boxes are predicted with a
    deviation of one. Paper: "Agent Modeling as Auxiliary Task for Deep Reinforcement Learning"
    (https://arxiv.org/abs/1907.09597).

    Args:
        weight: of this loss beside the learner's.
    """

    weight: float = 0.1

    def __post_init__(self) -> None:
        """Check the weight."""
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float) or not 0 <= self.weight < np.inf:
            raise ConfigError(f"PredictActions.weight: expected a number of at least 0, got {self.weight!r}")

    def build(self, team: TeamSpec, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> nn.Module:
        """One linear layer for each parameter set."""
        if team.num_agents == 1:
            raise ConfigError(
                f"auxiliary=PredictActions() on team {team.name!r}: its one agent has no team mates; leave it out"
            )
        return _ActionPredictor(team, owner, width, generators)


class _ActionPredictor(nn.Module):
    """See :class:`PredictActions`."""

    others: Tensor

    def __init__(self, team: TeamSpec, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.owner, self.action = owner, team.action
        self.size = make_distribution(team.action, False).size  # K
        self.layer = StackedLinear(owner, width, team.num_agents * self.size, generators, gain=0.01)
        self.register_buffer("others", ~torch.eye(team.num_agents, dtype=torch.bool), persistent=False)  # (N, N)

    def forward(self, features: Tensor, seen: Tensor, rows: Rows) -> Tensor:
        """``(L, B, N)``."""
        agents = features.shape[2]
        told = self.owner.leave(self.layer(self.owner.enter(features)))  # (L, B, N, N * K)
        told = told.view(*told.shape[:3], agents, self.size)  # (L, B, N, N, K)
        distribution = make_distribution(self.action, False, told.device)
        if distribution.learns_scale:
            told = torch.cat((told, torch.zeros_like(told)), dim=-1)
        action = rows.action.unsqueeze(2).expand(*told.shape[:4], *rows.action.shape[3:])  # (L, B, N, N[, A])
        log_prob, _ = distribution.evaluate(told, None, action)  # (L, B, N, N)
        shown = rows.acting.unsqueeze(2) & self.others  # (L, B, N, N)
        return -torch.where(shown, log_prob, 0.0).sum(-1) / shown.sum(-1).clamp(min=1)
