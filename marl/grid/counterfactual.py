"""COMA: a joint critic with a value for each of an agent's own actions, the others' given, and its advantage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl import ops
from marl.grid.credit import team_mean
from marl.grid.critics import CriticContext, Estimating, Estimator
from marl.nets.agent_net import AgentNet
from marl.nets.networks import Network
from marl.nets.owner import Owner
from marl.types import Array, ConfigError


@dataclass(frozen=True)
class Counterfactual(Estimating):
    """The team reward with a counterfactual baseline (COMA, Foerster et al. 2018).

    ``A_i = Q(s, a) - sum_a' pi_i(a' | o_i) Q(s, (a_-i, a'))`` by a joint critic with a value for every own action. The
    baseline does not depend on the agent's action, so it changes the gradient's variance and not its mean.
    """

    def share_rewards(self, reward: Array) -> Array:
        """The mean of the team's rewards."""
        return team_mean(reward)

    def estimator(self, context: CriticContext) -> CounterfactualEstimator:
        """Make the critic. Raises ConfigError without a joint input, or for other actions than one choice."""
        return CounterfactualEstimator(context)


class CounterfactualEstimator(Estimator):
    """Values ``Q_i(x, a_-i, .)`` and advantages against the policy's average of them."""

    net: CounterfactualNet

    def __init__(self, context: CriticContext) -> None:
        """Refuses what has no meaning."""
        shape, team = context.shape, context.team
        where = f"credit=Counterfactual() on team {team.name!r} compares an agent's actions, the others' held fixed: "
        if shape is None:
            raise ConfigError(where + "its critic sees everybody; use critic=Joint()")
        if team.action.kind != "discrete":
            raise ConfigError(
                where + f"it needs Discrete actions, not {team.action.kind} ones; use credit=TeamReward()"
            )
        self.net = CounterfactualNet(
            context.network,
            context.owner,
            shape,
            team.action.sizes[0],
            context.generators,
            ids=context.ids,
            true_inputs=context.scope.true_inputs(context.spec, team),
            normalize=context.normalize,
        )

    @property
    def joint(self) -> bool:
        """It reads the joint input."""
        return True

    @property
    def judges_actions(self) -> bool:
        """Values are of what the others did."""
        return True

    def read(self, x: Tensor, carry: Tensor, started: Tensor, acting: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """``Q_i(x, a_-i, .)``, ``(T, B, N, A)``."""
        return self.net.read(x, action, acting, carry, started)

    def value_of(self, outputs: Tensor, action: Tensor) -> Tensor:
        """``Q_i(x, a)``, ``(..., N)``."""
        return ops.batched_index(outputs, action)

    def advantage(self, estimate: Tensor, outputs: Tensor, action: Tensor, policy: Tensor | None) -> Tensor:
        """``A_i = Q_i(x, a) - sum_a' pi_i(a') Q_i(x, (a_-i, a'))``, ``(T, E, N)``."""
        assert policy is not None
        return ops.coma_advantage(outputs, action, policy)


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
            extra_inputs=(owner.num_agents - 1) * actions,
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
        """Values ``(T, B, N, A)`` and the carry after each row."""
        return self.read(self.encode(x), actions, acting, carry, start)

    def read(self, x: Tensor, actions: Tensor, acting: Tensor, carry: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The same from encoded joint inputs."""
        taken = ops.one_hot(actions, self.actions) * acting.unsqueeze(-1)  # (T, B, N, A)
        theirs = taken[:, :, self.others].flatten(-2)  # (T, B, N, (N - 1) A)
        # The joint view moves on whenever anyone of the team acts.
        active = acting.any(-1, keepdim=True).expand(acting.shape)
        return self.net.read(x, carry, start, active, (theirs,) if theirs.shape[-1] else ())
