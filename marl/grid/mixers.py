"""Mixers: from the values of a team's agents to one value of the team, which turns DQN into VDN, QMIX and QPLEX."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from marl import ops
from marl.grid.scope import Joint
from marl.nets.agent_net import AgentNet
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters
from marl.types import ConfigError, Spec, TeamSpec


@dataclass(frozen=True)
class VDN:
    """The team's value is the sum of its members': ``Q_tot = sum_i Q_i`` (Sunehag et al. 2018)."""


@dataclass(frozen=True)
class QMix:
    """The team's value rises with each member's, by a network whose weights the state makes (Rashid et al. 2018).

    ``Q_tot = |W_2(s)| ELU(|W_1(s)| (Q_1 ... Q_N) + b_1(s)) + V(s)``.

    Args:
        embed: width of the mixing layer.
        hypernet: width of the hidden layer of the networks that make the weights; 0: linear ones.
        state: ``"state"`` (the environment's ``state()``), ``"team"`` (the team's observations side by side) or
            ``"auto"`` (the first, where there is one).
    """

    embed: int = 32
    hypernet: int = 64
    state: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        _check_mixer(self, embed=self.embed, hypernet=self.hypernet + 1)


@dataclass(frozen=True)
class QPlex:
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
        _check_mixer(self, heads=self.heads, hypernet=self.hypernet)


@dataclass(frozen=True)
class WeightedQMix:
    """QMIX that cares less about joint actions it overestimates, beside an unrestricted ``Q*`` (Rashid et al. 2020).

    ``sum w(s, a) (Q_tot - y)^2`` with ``y = r + gamma Q*'(s', argmax Q_tot)``. Optimistic: ``w = 1`` where
    ``Q_tot < y``, else ``alpha``; central: ``w = 1`` where ``y > Q*(s, argmax Q_tot)`` or ``a`` is that action.

    Args:
        weighting: ``"optimistic"`` or ``"central"``.
        alpha: the smaller weight.
        embed: as for :class:`QMix`.
        hypernet: as for :class:`QMix`.
        state: as for :class:`QMix`.
    """

    weighting: str = "optimistic"
    alpha: float = 0.5
    embed: int = 32
    hypernet: int = 64
    state: str = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        _check_mixer(self, embed=self.embed, hypernet=self.hypernet + 1)
        if self.weighting not in ("optimistic", "central"):
            raise ConfigError(f"WeightedQMix.weighting: expected 'optimistic' or 'central', got {self.weighting!r}")
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"WeightedQMix.alpha: expected a number above 0 and at most 1, got {self.alpha!r}")


def _check_mixer(credit: QMix | QPlex | WeightedQMix, **sizes: int) -> None:
    name = type(credit).__name__
    for field, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{name}.{field}: expected a positive whole number, got {getattr(credit, field)!r}")
    if credit.state not in ("auto", "state", "team"):
        raise ConfigError(f"{name}.state: expected 'auto', 'state' or 'team', got {credit.state!r}")


Mixing = VDN | QMix | QPlex | WeightedQMix


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


def mixer_scope(credit: Mixing, spec: Spec) -> Joint:
    """The state that a mixer reads: the environment's, else the team's observations side by side."""
    wanted = getattr(credit, "state", "team")
    if wanted == "auto":
        wanted = "team" if spec.state_shape is None else "state"
    return Joint(of=wanted)


class TeamMixer(nn.Module):
    """``Q_tot(s, a) = f(Q_1(o_1, a_1), ..., Q_N(o_N, a_N); s)`` and its slowly moving copy."""

    def __init__(
        self,
        credit: Mixing,
        spec: Spec,
        team: TeamSpec,
        seed: np.random.SeedSequence,
        device: torch.device | str,
        action_width: int | None = None,
        free: bool = False,
    ) -> None:
        """``free``: an unrestricted network instead (the central value of weighted QMIX)."""
        super().__init__()
        self.scope = mixer_scope(credit, spec)
        width = int(np.prod(self.scope.shape(spec, team)))
        actions = action_width if action_width is not None else sum(team.action.sizes)
        generator = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        mixer: Mixer
        if free:
            mixer = FreeMixer(team.num_agents, width, actions, generator)
        elif isinstance(credit, VDN):
            mixer = SumMixer(team.num_agents, width, actions, generator)
        elif isinstance(credit, QPlex):
            mixer = DuplexMixer(
                team.num_agents, width, actions, generator, heads=credit.heads, hypernet=credit.hypernet
            )
        elif isinstance(credit, QMix | WeightedQMix):
            mixer = MonotonicMixer(
                team.num_agents, width, actions, generator, embed=credit.embed, hypernet=credit.hypernet
            )
        else:
            raise ConfigError(f"{type(credit).__name__} is no mixer")
        self.online = mixer.to(device)
        self.target = copy.deepcopy(self.online)
        self.flat = FlatParameters([self.online], 1) if any(True for _ in mixer.parameters()) else None
        self.target_flat = None if self.flat is None else FlatParameters([self.target], 1)

    def state(self, joint: Tensor | None) -> Tensor:
        """The mixer's state ``(L, B, S)`` from a joint input ``(L, B, *J)``."""
        if joint is None:
            raise ConfigError("mixer: the replay kept no state")
        flat = joint.flatten(2)
        return flat.float() / 255 if flat.dtype == torch.uint8 else flat

    def now(self, chosen: Tensor, best: Tensor, acting: Tensor, joint: Tensor | None, action: Tensor) -> Tensor:
        """``Q_tot`` of what was done, ``(L, B)``."""
        total: Tensor = self.online(chosen, best, acting, self.state(joint), action)
        return total

    def later(self, chosen: Tensor, best: Tensor, acting: Tensor, joint: Tensor | None, action: Tensor) -> Tensor:
        """The target's ``Q_tot`` of the next actions, ``(L, B)``."""
        total: Tensor = self.target(chosen, best, acting, self.state(joint), action)
        return total

    @torch.no_grad()
    def track(self, tau: float) -> None:
        """Move the target."""
        if self.flat is not None and self.target_flat is not None:
            self.target_flat.values.lerp_(self.flat.values, tau)


class Central(nn.Module):
    """Weighted QMIX's ``Q*``: values of its own for every agent, mixed without restriction (Rashid et al. 2020)."""

    def __init__(
        self,
        credit: Mixing,
        spec: Spec,
        team: TeamSpec,
        seed: np.random.SeedSequence,
        net: AgentNet,
        owner: Owner,
        device: torch.device | str,
    ) -> None:
        """``net`` is freshly initialised and becomes this one's own."""
        super().__init__()
        self.net = net.to(device)
        self.target = copy.deepcopy(self.net)
        self.flat = FlatParameters([self.net], owner.num_sets)
        self.target_flat = FlatParameters([self.target], owner.num_sets)
        self.mixer = TeamMixer(credit, spec, team, seed, device, free=True)

    @property
    def flats(self) -> list[FlatParameters]:
        """What an optimiser moves."""
        return [self.flat] + ([] if self.mixer.flat is None else [self.mixer.flat])

    @torch.no_grad()
    def track(self, tau: float) -> None:
        """Move the targets."""
        self.target_flat.follow(self.flat, tau)
        self.mixer.track(tau)
