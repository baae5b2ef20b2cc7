"""Weighted QMIX: QMIX's mixer beside an unrestricted value, which makes the targets (Rashid et al. 2020)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marl import ops
from marl.grid.mixers import (
    Mixer,
    MixerContext,
    Mixing,
    MonotonicMixer,
    TeamMixer,
    TeamValues,
    TrackedMixer,
    check_mixer,
)
from marl.nets.side_by_side import SideBySide, dense_layers
from marl.nets.stacked import FlatParameters
from marl.types import ConfigError


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
        self._of_values, self._of_state = SideBySide(), SideBySide()
        self.mix = dense_layers((state_width + num_agents, *hidden, 1), generator)
        self.value = dense_layers((state_width, hidden[0], 1), generator)

    def forward(self, chosen: Tensor, best: Tensor, acting: Tensor, state: Tensor, action: Tensor) -> Tensor:
        """``f(s, Q_1 ... Q_N)``."""
        q = torch.where(acting, chosen, 0.0)
        mixed = self._of_values(torch.cat((state, q), dim=-1), self.mix)
        return (mixed + self._of_state(state, self.value)).squeeze(-1)


class Central(nn.Module):
    """``Q*``: values of its own for every agent, mixed without restriction."""

    def __init__(self, context: MixerContext) -> None:
        """A network of the learner's kind and an unrestricted mixer, with their targets."""
        super().__init__()
        self.mixer = TrackedMixer(context, FreeMixer(*context.sizes, context.generator()))
        assert context.net is not None
        self.net = context.net()
        self.target = copy.deepcopy(self.net)
        self.flat = FlatParameters([self.net], context.owner.num_sets)
        self.target_flat = FlatParameters([self.target], context.owner.num_sets)

    @property
    def flats(self) -> Sequence[FlatParameters]:
        """Those of the network and of the mixer."""
        return [self.flat, *self.mixer.flats]

    @torch.no_grad()
    def track(self, tau: float) -> None:
        """Move the targets."""
        self.target_flat.follow(self.flat, tau)
        self.mixer.track(tau)


class WeightedMixer:
    """QMIX's mixer beside ``Q*``, which makes the targets and says where they can be trusted."""

    def __init__(self, settings: WeightedQMix, context: MixerContext) -> None:
        """``Q_tot`` as QMIX has it."""
        self.settings = settings
        mixer = MonotonicMixer(*context.sizes, context.generator(), settings.embed, settings.hypernet)
        self.mixer = TrackedMixer(context, mixer)
        self.central = Central(context)

    @property
    def flats(self) -> Sequence[FlatParameters]:
        """Those of ``Q_tot`` and of ``Q*``."""
        return [*self.mixer.flats, *self.central.flats]

    @property
    def parts_with_mode(self) -> Sequence[nn.Module]:
        """Those of the central network."""
        return self.central.net.parts_with_mode

    def saved_modules(self) -> dict[str, nn.Module]:
        """``Q_tot`` and ``Q*``."""
        return {"mixer": self.mixer, "central": self.central}

    def now(self, team: TeamValues) -> Tensor:
        """``Q_tot(s, a)``, ``(L, B)``."""
        return self.mixer.now(team)

    def later(self, team: TeamValues) -> Tensor:
        """``Q*'(s', argmax_a Q_tot(s', a))``, ``(L, B)``."""
        choices = team.choices
        assert choices is not None
        return self.central.mixer.later(chosen_as(team, choices.through(self.central.target), choices.index))

    def loss(self, cost: Tensor, team: TeamValues, total: Tensor, target: Tensor) -> Tensor:
        """``w(s, a) cost + (Q*(s, a) - y)^2``, ``(L, B)``."""
        choices = team.choices
        assert choices is not None
        own = choices.through(self.central.net)  # (L, B, N, A)
        central = self.central.mixer.now(chosen_as(team, own, choices.index))  # (L, B): Q*(s, a)
        if self.settings.weighting == "optimistic":
            trusted = total.detach() < target
        else:
            with torch.no_grad():
                greedy = choices.greedy
                peak = self.central.mixer.now(chosen_as(team, own, greedy))  # (L, B): Q*(s, argmax Q_tot)
                same = ((greedy == choices.index) | ~team.acting).all(-1)
            trusted = (target > peak) | same
        return torch.where(trusted, cost, self.settings.alpha * cost) + (target - central).square()

    def track(self, tau: float) -> None:
        """Move all targets."""
        self.mixer.track(tau)
        self.central.track(tau)


def chosen_as(team: TeamValues, values: Tensor, index: Tensor) -> TeamValues:
    """The same rows with other values ``(L, B, N, A)`` and chosen actions ``(L, B, N)``, no action compared."""
    chosen = values.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return TeamValues(chosen, chosen, team.acting, team.joint, ops.one_hot(index, values.shape[-1]))


@dataclass(frozen=True)
class WeightedQMix(Mixing):
    """QMIX with smaller weights on overestimated joint actions, and an unrestricted ``Q*`` (Rashid et al. 2020).

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
        check_mixer(self, embed=self.embed, hypernet=self.hypernet + 1)
        if self.weighting not in ("optimistic", "central"):
            raise ConfigError(f"WeightedQMix.weighting: expected 'optimistic' or 'central', got {self.weighting!r}")
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"WeightedQMix.alpha: expected a number above 0 and at most 1, got {self.alpha!r}")

    @property
    def compares_actions(self) -> bool:
        """``Q*`` judges the greedy actions beside those taken."""
        return True

    def build(self, context: MixerContext) -> TeamMixer:
        """Make the mixer."""
        return WeightedMixer(self, context)
