"""What a memory is: it collects what a team does, and gives out samples of it to learn from.

A memory is a value of an axis: ``DQN(memory=MyMemory())``, where ``MyMemory`` is a frozen dataclass whose ``build``
makes the memory of one team.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from marl.grid.credit import Credit
from marl.grid.scope import Scope
from marl.memory.sample import Sample
from marl.ranks import Ranks
from marl.schedules import Clock
from marl.types import Array, Spec, Step, TeamSpec


@dataclass(frozen=True)
class PolicyInput:
    """A policy's input: tensors ``(E, N, ...)`` of the step to act on."""

    obs: Tensor  # (E, N, *O)
    carry: Tensor  # (E, N, H)
    started: Tensor  # (E,)
    acting: Tensor  # (E, N)
    action_mask: Tensor | None  # (E, N, L)


@dataclass(frozen=True)
class Decision:
    """A learner's answer.

    action ``(E, N[, A])`` is stored; env_action is what the environment gets; log_prob ``(E, N)``; carry after the
    step.
    """

    action: Tensor
    env_action: Tensor
    log_prob: Tensor
    carry: Tensor


class Collector(Protocol):
    """A memory as the training loop sees it. All arrays of a step are lent: copy what is to be kept."""

    def start(self, step: Step) -> None:
        """Begin with the first step of a training run; not called after :meth:`load_state_dict`."""
        ...

    def current(self) -> PolicyInput:
        """What to act on."""
        ...

    def decide(self, decision: Decision) -> None:
        """Keep what was chosen."""
        ...

    def observe(self, step: Step, reward: Array | None = None) -> None:
        """Keep what came of it, and see the next step. ``reward`` replaces the raw one where it is shaped."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, the step to act on included: tensors, arrays and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


@dataclass(frozen=True)
class DrawSpec:
    """What a learner draws for one update: ``batch`` sequences of ``length`` rows.

    n_step: own turns whose rewards are summed; 1 where ``length`` is more than 1.
    discount: gamma, per own turn.
    """

    batch: int
    length: int = 1
    n_step: int = 1
    discount: float = 0.99


class Source(Protocol):
    """A memory as an off-policy learner sees it."""

    @property
    def seen_steps(self) -> int:
        """Environment steps that it has seen, of all copies: what ``learning_starts`` and the update ratio count."""
        ...

    @property
    def ragged(self) -> bool:
        """Whether any entry of ``Sample.complete`` may be False. True is always right; False saves the masking."""
        ...

    def ready(self, wanted: DrawSpec, clock: Clock) -> bool:
        """Whether a draw is possible now. Asked after every environment step."""
        ...

    def draw(self, wanted: DrawSpec, clock: Clock, generator: torch.Generator) -> Sample:
        """Sequences to learn from, on the learner's device."""
        ...

    def update_priorities(self, sample: Sample, td_error: Tensor) -> None:
        """Take note of the TD errors of a draw: absolute values ``(B, N)``, or ``(B, 1)`` of the team's one value."""
        ...


class Memory(Collector, Source, Protocol):
    """A learner's memory of transitions."""


@runtime_checkable
class RecordsOthers(Protocol):
    """A memory that keeps what other teams do, for critics that read it."""

    def record_joint_action(self, actions: list[Tensor], step: Step) -> None:
        """Keep what the environment is about to get from every team in this step."""
        ...


@dataclass(frozen=True)
class MemoryContext:
    """What a memory is built for.

    learner: its name and team, for error messages.
    spec, team: the environment, and whose memory it is.
    num_envs: ``E``, copies of the environment.
    device: where samples go.
    scope: what the critic or mixer reads beside the agents' own observations.
    credit: whose reward is learnt from, and until when; with a mixer (``by_team``) turns are the team's.
    carry_width: width of the recurrent state of one agent; 0 for feed-forward networks.
    wanted: what a draw is made of.
    other_actions: whether the critic reads what other teams do: the memory is then one that :class:`RecordsOthers`.
    separate: whether nothing joins the losses of the agents, so that each may have draws of its own.
    ranks: who has memories of other copies of the same environment; None: nobody.
    """

    learner: str
    spec: Spec
    team: TeamSpec
    num_envs: int
    device: torch.device
    scope: Scope
    credit: Credit
    carry_width: int
    wanted: DrawSpec
    other_actions: bool = False
    separate: bool = False
    ranks: Ranks | None = None


@runtime_checkable
class MemoryChoice(Protocol):
    """A frozen dataclass that says which memory an off-policy learner has."""

    def build(self, context: MemoryContext) -> Memory:
        """Make the memory of one team. Raises ConfigError for what has no meaning."""
        ...


def refuse_wild_actions(actions: Tensor, team: TeamSpec) -> None:
    """Raise ValueError for choices ``(..., N[, A])`` that do not exist: compiled code reads them without a look."""
    if team.action.kind != "box" and actions.numel():
        sizes = torch.tensor(team.action.sizes, device=actions.device)  # (1,) or (A,)
        if bool(((actions < 0) | (actions >= sizes)).any()):
            raise ValueError(f"memory of team {team.name!r}: actions that do not exist")
