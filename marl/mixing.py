"""A team's mixer with its target and the state both read: what turns DQN into VDN, QMIX and QPLEX."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from marl.credit import VDN, Mixing, QMix, QPlex, WeightedQMix
from marl.memory.replay import Sample
from marl.nets.agent_net import AgentNet
from marl.nets.mixers import DuplexMixer, FreeMixer, Mixer, MonotonicMixer, SumMixer
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters
from marl.scope import Joint, joint_shape
from marl.types import ConfigError, Spec, TeamSpec


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
        shape = joint_shape(self.scope, spec, team)
        if shape is None:
            raise ConfigError(f"{type(credit).__name__}: there is no state to read")
        width = int(np.prod(shape))
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

    def now(self, sample: Sample, chosen: Tensor, best: Tensor, action: Tensor) -> Tensor:
        """``Q_tot`` of what was done, ``(L, B)``."""
        total: Tensor = self.online(chosen, best, sample.acting, self.state(sample.joint), action)
        return total

    def later(self, sample: Sample, value: Tensor, best: Tensor, action: Tensor) -> Tensor:
        """The target's ``Q_tot`` of the next actions, ``(L, B)``."""
        total: Tensor = self.target(value, best, sample.next_acting, self.state(sample.next_joint), action)
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
