"""Mixers: from the values of a team's agents to one value of the team, which turns DQN into VDN and QMIX.

Each choice (a credit) stands beside its module; :class:`TrackedMixer` adds the target. QPLEX is in
:mod:`marl.grid.duplex`, weighted QMIX in :mod:`marl.grid.weighted`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from marl import ops
from marl.compiled import mixing
from marl.grid.credit import Credit, team_mean
from marl.grid.scope import Joint, Scope
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import mask_logits
from marl.nets.owner import Owner
from marl.nets.side_by_side import SideBySide, dense_layers
from marl.nets.stacked import FlatParameters, parts_with_mode, seeded
from marl.types import Array, ConfigError, Spec, TeamSpec


@dataclass(frozen=True)
class MixerContext:
    """What a mixer is built from.

    Args:
        spec: the environment.
        team: whose values are mixed.
        scope: what the mixer reads as state.
        owner: which agents use the same parameters.
        action_width: numbers ``A`` of one agent's action, as the mixer reads it.
        seed: of everything that is initialized.
        device: where it computes.
        net: makes another network of the learner's kind, with parameters of its own; None where agents' values are not
            of all their actions.
    """

    spec: Spec
    team: TeamSpec
    scope: Scope
    owner: Owner
    action_width: int
    seed: np.random.SeedSequence
    device: torch.device
    net: Callable[[], AgentNet] | None = None

    @property
    def state_width(self) -> int:
        """``S``: numbers of the state that the mixer reads, images laid flat."""
        shape = self.scope.shape(self.spec, self.team)
        if shape is None:
            raise ConfigError(f"a mixer of team {self.team.name!r} reads {self.scope!r}, which is no state of the team")
        return math.prod(shape)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Agents ``N``, :attr:`state_width` ``S``, :attr:`action_width` ``A``: what mixers are made of."""
        return self.team.num_agents, self.state_width, self.action_width

    def generator(self) -> torch.Generator:
        """A new random stream, another one each time."""
        child = self.seed.spawn(1)[0]
        return torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))


@dataclass(frozen=True)
class Choices:
    """All actions that agents chose from: known to learners with a value for each action (DQN)."""

    values: Tensor  # (L, B, N, A) of every action
    index: Tensor  # (L, B, N) the actions chosen
    action_mask: Tensor | None  # (L, B, N, A)
    through: Callable[[AgentNet], Tensor]  # values (L, B, N, A) of the same rows by another network

    @property
    def greedy(self) -> Tensor:
        """The best actions, ``(L, B, N)``."""
        return mask_logits(self.values, self.action_mask).argmax(-1)


@dataclass(frozen=True)
class TeamValues:
    """Values of a team's agents in some rows: what a mixer mixes."""

    chosen: Tensor  # (L, B, N) of the actions chosen
    best: Tensor  # (L, B, N) of each agent's best action; the same as chosen where only one action is known
    acting: Tensor  # (L, B, N) who contributes
    joint: Tensor | None  # (L, B, *J) what the scope gathered
    action: Tensor  # (L, B, N, A) the actions chosen: one-hots, or numbers of boxes
    choices: Choices | None = None  # None: of learners whose critics judge single actions (DDPG)

    @property
    def state(self) -> Tensor:
        """The mixer's state ``(L, B, S)``."""
        if self.joint is None:
            raise ConfigError("mixer: the replay kept no state")
        flat = self.joint.flatten(2)
        return flat.float() / 255 if flat.dtype == torch.uint8 else flat


class TeamMixer(Protocol):
    """What a mixing credit builds: ``Q_tot`` with its target, and what it adds to the loss."""

    @property
    def flats(self) -> Sequence[FlatParameters]:
        """Matrices of parameters to be optimized; none for a mixer without parameters."""
        ...

    @property
    def parts_with_mode(self) -> Sequence[nn.Module]:
        """Parts with dropout or batch norm, which are in training mode while the loss is computed."""
        ...

    def saved_modules(self) -> dict[str, nn.Module]:
        """Everything with parameters or buffers, targets too, by the name under which it is saved."""
        ...

    def now(self, team: TeamValues) -> Tensor:
        """``Q_tot`` of the actions chosen, ``(L, B)``."""
        ...

    def later(self, team: TeamValues) -> Tensor:
        """What the target says of the next actions, ``(L, B)``."""
        ...

    def loss(self, cost: Tensor, team: TeamValues, total: Tensor, target: Tensor) -> Tensor:
        """The loss of each row, ``(L, B)``.

        Args:
            cost: of the TD errors ``target - total``, ``(L, B)``.
            team: the values that were mixed.
            total: what :meth:`now` says of them, ``(L, B)``.
            target: ``y``, without gradient, ``(L, B)``.
        """
        ...

    def track(self, tau: float) -> None:
        """Move targets by a share ``tau``."""
        ...


@runtime_checkable
class Mixing(Credit, Protocol):
    """A credit that mixes the values of a team's agents: a frozen dataclass.

    A mixer of your own extends this class: it says :meth:`build`, and whatever else is not as here. What agents learn
    from is the mean of the team's rewards.
    """

    @property
    def by_team(self) -> bool:
        """A team's value runs from a row in which any agent acts to the next such row."""
        return True

    @property
    def compares_actions(self) -> bool:
        """Whether it needs the value of each action (DQN), and not of the action taken alone (DDPG)."""
        return False

    def share_rewards(self, reward: Array) -> Array:
        """The mean of the team's rewards."""
        return team_mean(reward)

    @property
    def state(self) -> str:
        """What the mixer reads as state: ``"state"``, ``"team"`` or ``"auto"``, see :func:`mixer_scope`.

        A field of that name takes its place; observations of the team side by side cost nothing.
        """
        return "team"

    @property
    def reads_state(self) -> bool:
        """Unless it reads the team's observations."""
        return self.state != "team"

    def scope(self, spec: Spec) -> Scope:
        """The state, or the team's observations side by side: see :attr:`state`."""
        return mixer_scope(self.state, spec)

    def build(self, context: MixerContext) -> TeamMixer:
        """Make the mixer of one team: ``TrackedMixer(context, module)`` where it only mixes in another way."""
        ...


def team_mixer(credit: Mixing, context: MixerContext) -> TeamMixer:
    """Build a mixer. PyTorch's own initialization draws from ``context.seed`` meanwhile."""
    with seeded(context.seed):
        return credit.build(context)


def team_values(choices: Choices, acting: Tensor, joint: Tensor | None) -> TeamValues:
    """What there is to mix where agents chose from values of all their actions."""
    values, index = choices.values, choices.index
    chosen = values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    best = mask_logits(values, choices.action_mask).amax(-1)
    return TeamValues(chosen, best, acting, joint, ops.one_hot(index, values.shape[-1]), choices)


def mixer_scope(state: str, spec: Spec) -> Joint:
    """``"state"``, ``"team"``, or ``"auto"``: the environment's state, else the team's observations side by side."""
    if state == "auto":
        state = "team" if spec.state_shape is None else "state"
    return Joint(of=state)


def check_mixer(credit: Mixing, **sizes: int) -> None:
    """Raise ConfigError for sizes, by name, that are no positive whole numbers, and for a state that is not known."""
    name = type(credit).__name__
    for field, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{name}.{field}: expected a positive whole number, got {getattr(credit, field)!r}")
    if credit.state not in ("auto", "state", "team"):
        raise ConfigError(f"{name}.state: expected 'auto', 'state' or 'team', got {credit.state!r}")


class Mixer(nn.Module):
    """``forward(chosen (..., N), best (..., N), acting (..., N), state (..., S), action (..., N, A))`` gives ``(...)``.

    ``chosen``: values of the actions taken; ``best``: of each agent's best action; agents that are not ``acting``
    contribute nothing; ``action``: features of the actions taken.
    """

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """Mix the values of the agents into ``Q_tot (...)``."""
        raise NotImplementedError


class TrackedMixer(nn.Module):
    """``Q_tot(s, a) = f(Q_1(o_1, a_1), ..., Q_N(o_N, a_N); s)`` and its slowly moving copy."""

    def __init__(self, context: MixerContext, mixer: nn.Module) -> None:
        """``mixer``: a :class:`Mixer`, or another module that is called in the same way."""
        super().__init__()
        self.online = mixer.float().to(context.device)
        self.target = copy.deepcopy(self.online)
        self.flat = FlatParameters([self.online], 1) if any(True for _ in mixer.parameters()) else None
        self.target_flat = None if self.flat is None else FlatParameters([self.target], 1)
        self.parts_with_mode = parts_with_mode(self.online)

    @property
    def flats(self) -> Sequence[FlatParameters]:
        """Those of the mixer."""
        return [] if self.flat is None else [self.flat]

    def saved_modules(self) -> dict[str, nn.Module]:
        """The mixer and its target."""
        return {"mixer": self}

    def now(self, team: TeamValues) -> Tensor:
        """``Q_tot(s, a)``, ``(L, B)``."""
        total: Tensor = self.online(team.chosen, team.best, team.acting, team.state, team.action)
        return total

    def later(self, team: TeamValues) -> Tensor:
        """``Q_tot'(s', a')``, ``(L, B)``."""
        total: Tensor = self.target(team.chosen, team.best, team.acting, team.state, team.action)
        return total

    def loss(self, cost: Tensor, team: TeamValues, total: Tensor, target: Tensor) -> Tensor:
        """The cost of the TD errors and nothing else."""
        return cost

    @torch.no_grad()
    def track(self, tau: float) -> None:
        """Move the target."""
        if self.flat is not None and self.target_flat is not None:
            self.target_flat.follow(self.flat, tau)


class SumMixer(Mixer):
    """``Q_tot = sum_i Q_i`` (VDN, Sunehag et al. 2018)."""

    def __init__(self, num_agents: int, state_width: int, action_width: int, generator: torch.Generator) -> None:
        """A sum has no parameters; the arguments are those of all mixers."""
        super().__init__()

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """``sum_i Q_i`` over acting agents."""
        return ops.sum_mixing(chosen, acting)


@dataclass(frozen=True)
class VDN(Mixing):
    """The team's value is the sum of its members': ``Q_tot = sum_i Q_i`` (Sunehag et al. 2018)."""

    def build(self, context: MixerContext) -> TeamMixer:
        """Make the mixer."""
        return TrackedMixer(context, SumMixer(*context.sizes, context.generator()))


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
        self.num_agents, self.embed, self.together = num_agents, embed, SideBySide()
        hidden = (hypernet,) if hypernet else ()
        self.weight_1 = dense_layers((state_width, *hidden, num_agents * embed), generator)
        self.bias_1 = dense_layers((state_width, embed), generator)
        self.weight_2 = dense_layers((state_width, *hidden, embed), generator)
        self.value = dense_layers((state_width, embed, 1), generator)

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """``Q_tot``, monotonic in every agent's value."""
        made = self.together(state, self.weight_1, self.bias_1, self.weight_2, self.value)  # (..., N M + M + M + 1)
        if mixing.fits(chosen, made):
            return mixing.monotonic(chosen, acting, made, self._mix)
        return self._mix(chosen, acting, made)

    def _mix(self, chosen: Tensor, acting: Tensor, made: Tensor) -> Tensor:
        first = self.num_agents * self.embed
        weight_1, bias_1, weight_2, value = torch.split(made, [first, self.embed, self.embed, 1], dim=-1)
        weight_1 = torch.unflatten(weight_1, -1, (self.num_agents, self.embed))  # (..., N, M)
        return ops.monotonic_mixing(chosen, weight_1, bias_1, weight_2, value.squeeze(-1), acting)


@dataclass(frozen=True)
class QMix(Mixing):
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
        check_mixer(self, embed=self.embed, hypernet=self.hypernet + 1)

    def build(self, context: MixerContext) -> TeamMixer:
        """Make the mixer."""
        return TrackedMixer(context, MonotonicMixer(*context.sizes, context.generator(), self.embed, self.hypernet))
