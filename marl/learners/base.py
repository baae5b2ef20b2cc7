"""Protocols of learners: settings that build a learner, its memory, and optional abilities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from marl.auxiliary import Auxiliaries, AuxiliaryLoss
from marl.channels import Channel, ChannelNet
from marl.memory.base import Collector, Decision, PolicyInput
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.nets.networks import MLP, Network
from marl.optim import Optimizer
from marl.ranks import CopiesGenerator, Ranks
from marl.schedules import Clock
from marl.types import ActionKind, Array, ConfigError, Spec, Step, TeamSpec


class CrossTeam(Protocol):
    """What a critic reads of the other teams."""

    def connect(self, learners: Sequence[object]) -> None:
        """Learn who controls the other teams; ``learners`` are those of all teams."""
        ...


@runtime_checkable
class ReadsOthers(Protocol):
    """A learner whose critic may read what other teams do; its memory then is one that :class:`RecordsOthers`."""

    @property
    def cross_team(self) -> CrossTeam | None:
        """What it reads; None: nothing."""
        ...


@runtime_checkable
class OverlapsEnvStep(Protocol):
    """A learner that can update while the environment steps."""

    @property
    def overlaps_env_step(self) -> bool:
        """Whether it updates while the environment steps."""
        ...


@runtime_checkable
class LearnsInRanks(Protocol):
    """A learner that several ranks may hold, each with a share of the copies."""

    @property
    def refuses_ranks(self) -> str:
        """What of its settings is not built for that, in words; empty: everything is."""
        ...


class Learner(Protocol):
    """Chooses actions for a team and improves from its memory."""

    @property
    def memory(self) -> Collector:
        """The memory it learns from."""
        ...

    def act(self, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None) -> Decision:
        """Choose for every agent of every copy; greedy unless exploring. Draws from its own stream unless given one."""
        ...

    def ready(self, clock: Clock) -> bool:
        """Whether an update is due; asked after every step."""
        ...

    def update(self, clock: Clock) -> dict[str, Tensor]:
        """Learn from the memory; metrics stay tensors."""
        ...

    def skip_update(self) -> None:
        """Skip the updates that are due: another team learns now."""
        ...

    def policy(self, agent: int | None = None) -> tuple[AgentNet | None, Distribution]:
        """A copy of one agent's own network (None: it needs none) and its action distribution; of the whole team's."""
        ...

    @property
    def carry_width(self) -> int:
        """Width of the recurrent state of one agent; 0 for feed-forward policies."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, as a tree of tensors and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


@runtime_checkable
class TakesChanges(Protocol):
    """A learner some of whose settings may change while it learns."""

    def change(self, settings: Any) -> Callable[[], None]:
        """Prepare to go on with these settings, which differ from the present ones in changeable fields only.

        Nothing changes before the function that is returned is called. Raises ConfigError for what cannot be.
        """
        ...


@runtime_checkable
class ActsWithNet(Protocol):
    """A learner whose rule of acting works with any copy of its network, such as a frozen one."""

    def act_with_net(
        self, net: AgentNet, inputs: PolicyInput, explore: bool, generator: torch.Generator | None = None
    ) -> Decision:
        """As :meth:`Learner.act`, with ``net`` instead of the learner's own network."""
        ...


@runtime_checkable
class Judges(Protocol):
    """A learner with a critic that says what it expects of a step."""

    def expected(self, step: Step, place: int, actions: Array, carry: Tensor | None) -> tuple[Array, Tensor]:
        """Values ``(E, N)`` of a step and the team's actions ``(E, N[, A])`` in it, in units of the return; a carry.

        ``place``: of the team; ``carry``: as it came with the step before, None at first.
        """
        ...


@runtime_checkable
class LearnerConfig(Protocol):
    """Settings of a learner: a frozen dataclass with a ``build``."""

    action_kinds: ClassVar[frozenset[ActionKind]]

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        ...

    def build(
        self, spec: Spec, team: TeamSpec, num_envs: int, seed: np.random.SeedSequence, device: torch.device | str
    ) -> Learner:
        """Make the learner of one team. Raises ConfigError for combinations that have no meaning."""
        ...


@runtime_checkable
class HasPolicyNet(Protocol):
    """A learner that acts through a network."""

    @property
    def policy_net(self) -> AgentNet:
        """That network."""
        ...


@runtime_checkable
class HasChannel(Protocol):
    """Settings with a channel."""

    channel: Channel | None


def channel_net_of(learner: Learner) -> ChannelNet | None:
    """The network with a channel of a learner; None if it has none."""
    net = learner.policy_net if isinstance(learner, HasPolicyNet) else None
    return net if isinstance(net, ChannelNet) else None


def channel_of(settings: LearnerConfig) -> Channel | None:
    """The channel of a learner's settings; None if it has none."""
    return settings.channel if isinstance(settings, HasChannel) else None


ALL_KINDS: frozenset[ActionKind] = frozenset(("discrete", "multidiscrete", "multibinary", "box"))


def check_kind(name: str, kinds: frozenset[ActionKind], team: TeamSpec) -> None:
    """Refuse an action space that a learner cannot act in. Raises ConfigError."""
    kind = team.action.kind
    if kind not in kinds:
        raise ConfigError(
            f"{name} on team {team.name!r}: {kind} actions are not supported; it takes {', '.join(sorted(kinds))}; "
            "PPO, A2C, DDPG and TD3 take every kind"
        )


def refuse_noise(name: str, team: TeamSpec, *networks: Network | None) -> None:
    """Refuse noisy layers for learners that do not draw their noise. Raises ConfigError."""
    if any(isinstance(network, MLP) and network.noisy for network in networks):
        raise ConfigError(
            f"{name} on team {team.name!r}: noisy layers explore for DQN; policies explore by themselves or by "
            "exploration=, so use MLP(noisy=0)"
        )


class HasAuxiliary(Protocol):
    """Settings of a learner that takes auxiliary losses."""

    @property
    def auxiliary(self) -> tuple[AuxiliaryLoss, ...]:
        """Which."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """How their parameters move."""
        ...

    @property
    def channel(self) -> Channel | None:
        """What policies tell each other."""
        ...


def make_auxiliaries(
    where: str,
    settings: HasAuxiliary,
    net: AgentNet,
    team: TeamSpec,
    seed: np.random.SeedSequence,
    device: torch.device | str,
) -> Auxiliaries:
    """The auxiliary losses of a policy's network. Raises ConfigError beside a channel. ``where``: whose, in words."""
    if settings.auxiliary and settings.channel is not None:
        raise ConfigError(
            f"{where}: auxiliary losses read one agent's features, which a channel mixes; use "
            "auxiliary=() or channel=None"
        )
    return Auxiliaries(settings.auxiliary, net, team, seed, device, settings.optimizer)


def restore_generator(generator: torch.Generator, state: torch.Tensor) -> None:
    """Go back to a saved random stream; one of another kind of device goes on as a new stream that it decides."""
    if state.numel() == generator.get_state().numel():
        generator.set_state(state)
    else:
        digest = hashlib.sha256(state.cpu().numpy().tobytes()).digest()
        generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def generator_from(
    seed: np.random.SeedSequence, device: torch.device | str, ranks: Ranks | None = None
) -> torch.Generator:
    """A random stream on a device; ``ranks`` draw it alike, each for all their copies."""
    stream = torch.Generator(device) if ranks is None else CopiesGenerator(device)
    if isinstance(stream, CopiesGenerator):
        stream.ranks = ranks
    stream.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
    return stream
