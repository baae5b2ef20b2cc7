"""Critics of on-policy learners: what they read, what their outputs mean, and the advantages made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from marl.grid.credit import Credit
from marl.grid.scope import Scope, as_joint
from marl.nets.agent_net import AgentNet, JointNet
from marl.nets.networks import Network
from marl.nets.normalizers import RunningNorm
from marl.nets.owner import Owner
from marl.types import Spec, TeamSpec


@dataclass(frozen=True)
class CriticContext:
    """What a critic is built from.

    Args:
        spec: the environment.
        team: whose critic it is.
        scope: what it reads.
        shape: of the joint input; None: it reads each agent's own observation.
        owner: which agents use the same parameters.
        network: the critic's, which fits what it reads.
        generators: a random stream for each parameter set, to initialize it from.
        ids: one-hots ``(N, N)`` to put beside the input; None: agents need not be told apart.
        normalize: whether inputs are normalized by running statistics.
    """

    spec: Spec
    team: TeamSpec
    scope: Scope
    shape: tuple[int, ...] | None
    owner: Owner
    network: Network
    generators: Sequence[torch.Generator]
    ids: Tensor | None
    normalize: bool


class CriticNet(Protocol):
    """What is asked of a critic's network beside being a :class:`torch.nn.Module`."""

    norm: RunningNorm | None

    carry_shape: tuple[int, int]  # (C, H): rows of the recurrent state and its width, 0 if it remembers nothing

    def encode(self, x: Tensor) -> Tensor:
        """Inputs ``(T, B, ...)`` as :meth:`Estimator.read` takes them; worth doing once for many reads."""
        ...


class Estimator(Protocol):
    """A critic's network ``net``, a :class:`torch.nn.Module`, and what its outputs mean.

    An estimator of your own extends this class: it makes ``net`` and overrides what is not as here.
    """

    net: CriticNet

    @property
    def joint(self) -> bool:
        """Whether it reads one joint input of the team instead of each agent's own observation."""
        return False

    @property
    def once(self) -> bool:
        """Whether its network sees one row for all agents."""
        return False

    @property
    def judges_actions(self) -> bool:
        """Whether outputs depend on what was done.

        Where nothing was done yet (the row to act on next, true successors) the policy draws an action then.
        """
        return False

    def read(self, x: Tensor, carry: Tensor, started: Tensor, acting: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(T, B, N, K)`` of encoded inputs, and the carry after each row."""
        ...

    def value_of(self, outputs: Tensor, action: Tensor) -> Tensor:
        """The value ``(..., N)`` of outputs ``(..., N, K)``: ``V``, or ``Q`` of the actions taken."""
        return outputs.squeeze(-1)

    def advantage(self, estimate: Tensor, outputs: Tensor, action: Tensor, policy: Tensor | None) -> Tensor:
        """The advantages ``(T, E, N)`` that the policy learns from.

        Args:
            estimate: generalized advantage estimates ``(T, E, N)`` of the values.
            outputs: of the network, in units of the return, ``(T, E, N, K)``.
            action: what was done, ``(T, E, N[, A])``.
            policy: probabilities of all choices ``(T, E, N, A)``; None unless it :meth:`judges_actions` of one choice.
        """
        return estimate


@runtime_checkable
class Estimating(Credit, Protocol):
    """A credit with a critic of its own, for on-policy learners."""

    def estimator(self, context: CriticContext) -> Estimator:
        """Make the critic.

        Raises:
            ConfigError: if it does not fit the team or the scope.
        """
        ...


class ValueEstimator(Estimator):
    """``V_i`` of each agent's observation, or of a joint input: what the policies of a team are compared with."""

    net: AgentNet | JointNet

    def __init__(self, context: CriticContext) -> None:
        """A network with one output for each agent."""
        shape, team, owner = context.shape, context.team, context.owner
        if shape is None:
            widths = [max(team.obs.widths[agent] for agent in owner.members(p)) for p in range(owner.num_sets)]
            self.net = AgentNet(
                context.network,
                owner,
                team.obs.shape,
                1,
                context.generators,
                gain=1.0,
                ids=context.ids,
                true_inputs=None if team.obs.is_image else [torch.arange(width) for width in widths],
                normalize=context.normalize,
            )
        else:
            self.net = JointNet(
                context.network,
                owner,
                shape,
                context.generators,
                ids=context.ids,
                true_inputs=context.scope.true_inputs(context.spec, team),
                normalize=context.normalize,
            )
        self._joint = shape is not None

    @property
    def joint(self) -> bool:
        """Whether the scope has a joint input."""
        return self._joint

    @property
    def once(self) -> bool:
        """Joint inputs are one row for all agents."""
        return self._joint

    def read(self, x: Tensor, carry: Tensor, started: Tensor, acting: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """``V (T, B, N, 1)``, whatever was done."""
        return self.net.read(x, carry, started, acting)


class TrunkCritic(nn.Module):
    """A critic that is one more output of the policy's network; it has no parameters of its own."""

    norm: RunningNorm | None = None

    def __init__(self, actor: AgentNet) -> None:
        """``actor``: the policy's network, which stays the policy's module alone."""
        super().__init__()
        self._shared, self.carry_shape = (actor,), actor.carry_shape

    def encode(self, x: Tensor) -> Tensor:
        """As the policy reads it."""
        return self._shared[0].encode(x)

    def read(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``(T, B, N, 1)`` and the carry after each row."""
        _, value, carries = self._shared[0].read_both(x, carry, start, acting)
        return value, carries


class TrunkEstimator(Estimator):
    """``V_i`` of each agent's observation, by all layers of its policy but the last one."""

    def __init__(self, actor: AgentNet) -> None:
        """``actor``: the policy's network, which has one output more."""
        self.net = self._net = TrunkCritic(actor)

    def read(self, x: Tensor, carry: Tensor, started: Tensor, acting: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """``V (T, B, N, 1)``, whatever was done."""
        return self._net.read(x, carry, started, acting)


def critic_input(estimator: Estimator, obs: Tensor, joint: Tensor | None) -> Tensor:
    """What a critic reads: a stored joint input, the team's observations side by side, or each agent's own."""
    if joint is not None:
        return joint
    return as_joint(obs) if estimator.joint else obs
