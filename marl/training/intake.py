"""Where what actors have collected goes: a rollout that is learnt from at once, or a replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from marl.learners import Learner
from marl.learners.base import LearnerConfig
from marl.learners.off_policy import OffPolicy, OffPolicyLearner
from marl.memory.fragments import fill
from marl.memory.recorder import Recorded, Recording
from marl.memory.replay import Replay, ReplayMemory
from marl.memory.replay.streams import Streams
from marl.training.collecting import Collected, rollout_of
from marl.training.critic_memory import CriticMemory

LEAST = 16  # rows of a fragment: a message costs as much as a few steps of an environment
SEQUENCES = 2  # that fit into a fragment, or few rows would be in any: a sequence lies within a fragment


class Intake(Protocol):
    """Where one team's parts go."""

    def __call__(self, ranks: Sequence[int], found: Sequence[Collected]) -> None:
        """Take in fragments of these actors, in their order."""
        ...


class RolloutIntake:
    """The copies of all fragments side by side become the learner's rollout."""

    def __init__(self, place: int, learner: Learner) -> None:
        """``place``: of the team."""
        self._place, self._rollout, self._critic = place, rollout_of(learner), CriticMemory(learner)

    def __call__(self, ranks: Sequence[int], found: Sequence[Collected]) -> None:
        """Fill it."""
        parts = []
        for one in found:
            part = one.parts[self._place]
            assert not isinstance(part, Recorded)
            parts.append(part)
        fill(self._rollout, parts)
        self._critic.go_on(ranks)


class ReplayIntake:
    """A replay is told of the fragments one after the other; each actor's go on from its last one."""

    def __init__(self, place: int, learner: OffPolicyLearner) -> None:
        """``place``: of the team. What is in the replay already was collected by others."""
        assert isinstance(learner.memory, Replay)
        self._place, self._replay = place, learner.memory
        self._replay.streams = self._streams = self._replay.streams or Streams(self._replay)

    def __call__(self, ranks: Sequence[int], found: Sequence[Collected]) -> None:
        """Tell it."""
        for rank, one in zip(ranks, found, strict=True):
            part = one.parts[self._place]
            assert isinstance(part, Recorded)
            carry, rows = torch.from_numpy(part.carry), len(part.actions)
            self._streams.turn_to(rank, one.number, one.steps[0], carry, rows)
            part.tell(self._replay, one.steps)


def intake(place: int, learner: Learner) -> Intake:
    """That of one team's learner."""
    if isinstance(learner, OffPolicyLearner):
        return ReplayIntake(place, learner)
    return RolloutIntake(place, learner)


def rows_of(learner: Learner, num_envs: int) -> int:
    """Rows of a fragment: a rollout's; of a replay's those of ``update_every`` steps of all copies, if that is enough.

    The policy stands still within a fragment, as it does between the bursts of updates of ``update_every``.
    """
    if not isinstance(learner, OffPolicyLearner):
        return rollout_of(learner).steps
    least = max(LEAST, SEQUENCES * learner.length if learner.length > 1 else 1)
    return max(least, math.ceil(learner.settings.update_every / num_envs))


def at_actors(config: LearnerConfig, rows: int) -> LearnerConfig:
    """The settings with which an actor plays, and keeps nothing but the fragment."""
    if not isinstance(config, OffPolicy):
        return config
    plain = ReplayMemory()
    own: dict[str, Any] = {name: getattr(plain, name) for name in ("buffer", "buffer_dir", "prioritized", "hindsight")}
    return replace(config, memory=Recording(rows=rows), **own)
