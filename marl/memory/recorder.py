"""The memory of an actor whose learner is elsewhere: what a memory was told in so many steps, to be told to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.config import config, setting
from marl.memory.base import Decision, DrawSpec, Memory, MemoryContext, PolicyInput, RecordsOthers
from marl.memory.sample import Sample
from marl.schedules import Clock
from marl.types import Array, Step, TeamStep


@dataclass(frozen=True)
class Recorded:
    """What a memory was told, ``T`` times.

    carry: (E, N, H) with which the first step was acted on.
    actions, carries: (T, E, N, ...) of the decisions.
    joint: what all teams did each time, if the critic reads that.
    """

    carry: Array
    actions: Array
    carries: Array
    joint: list[list[Array]]

    def tell(self, memory: Memory, steps: Sequence[Step]) -> None:
        """Tell it to another memory, which stands at the first of ``T + 1`` steps."""
        for time, following in enumerate(steps[1:]):
            action = torch.from_numpy(self.actions[time])
            memory.decide(Decision(action, action, action, torch.from_numpy(self.carries[time])))
            if self.joint:
                assert isinstance(memory, RecordsOthers)
                memory.record_joint_action([torch.from_numpy(one) for one in self.joint[time]], steps[time])
            memory.observe(following)


@config
class Recording:
    """The choice of a :class:`Recorder`."""

    rows: int = setting(16, "steps that are recorded before they are sent", least=1)

    def build(self, context: MemoryContext) -> Recorder:
        """Make the memory of one team."""
        return Recorder(self.rows, context)


class Recorder:
    """Keeps what it is told since :meth:`restart`; nothing can be drawn from it.

    seen_steps: environment steps of the whole run, which whoever trains sets.
    """

    ragged = False

    def __init__(self, rows: int, context: MemoryContext) -> None:
        """``rows``: after how many steps it is full."""
        self.steps = rows
        self._place, self._reads_others = context.spec.teams.index(context.team), context.other_actions
        self._shape = context.num_envs, context.team.num_agents, context.carry_width
        self._copies = context.num_envs * (1 if context.ranks is None else context.ranks.size)
        self.seen_steps = 0
        self._now: PolicyInput | None = None
        self._decided: Tensor | None = None
        self.restart()

    @property
    def full(self) -> bool:
        """Whether there is all that is sent at once."""
        return len(self._decisions) == self.steps

    def restart(self) -> None:
        """Begin with the present step."""
        self._decisions: list[tuple[Array, Array]] = []
        self._joint: list[list[Array]] = []
        self._first = torch.zeros(self._shape) if self._now is None else self._now.carry

    def packed(self) -> Recorded:
        """All of it."""
        actions, carries = zip(*self._decisions, strict=True)
        return Recorded(self._first.numpy(), np.stack(actions), np.stack(carries), self._joint)

    def start(self, step: Step) -> None:
        """Begin with the first step."""
        self._see(step, torch.zeros(self._shape, dtype=torch.float32))

    def current(self) -> PolicyInput:
        """What to act on."""
        assert self._now is not None
        return self._now

    def decide(self, decision: Decision) -> None:
        """Keep what was chosen."""
        self._decided = decision.carry
        self._decisions.append((decision.action.numpy().copy(), decision.carry.numpy().copy()))

    def record_joint_action(self, actions: list[Tensor], step: Step) -> None:
        """Keep what all teams do."""
        if self._reads_others:
            self._joint.append([action.numpy().copy() for action in actions])

    def observe(self, step: Step, reward: Array | None = None) -> None:
        """See the next step."""
        assert self._decided is not None
        self.seen_steps += self._copies
        self._see(step, self._decided.clone())

    def _see(self, step: Step, carry: Tensor) -> None:
        team = step.teams[self._place]
        obs = team.obs if team.obs.dtype == np.uint8 else team.obs.astype(np.float32)
        mask = None if team.action_mask is None else torch.from_numpy(team.action_mask.copy())
        started, acting = torch.from_numpy(step.started.copy()), torch.from_numpy(team.acting.copy())
        self._now = PolicyInput(torch.from_numpy(np.array(obs)), carry, started, acting, mask)

    def ready(self, wanted: DrawSpec, clock: Clock) -> bool:
        """No."""
        return False

    def draw(self, wanted: DrawSpec, clock: Clock, generator: torch.Generator) -> Sample:
        """Nothing."""
        raise NotImplementedError("a recorder: nothing is drawn from it")

    def update_priorities(self, sample: Sample, td_error: Tensor) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: it is sent as it comes."""
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing to go back to."""


def kept(step: Step) -> Step:
    """A step in arrays of its own; arrays that are the same one stay so. Episodes and infos are left out."""
    copies: dict[int, Array] = {}

    def copied(array: Array | None) -> Any:
        if array is None:
            return None
        if id(array) not in copies:
            copies[id(array)] = array.copy()
        return copies[id(array)]

    teams = tuple(
        TeamStep(*(copied(getattr(team, name)) for name in TeamStep.__dataclass_fields__)) for team in step.teams
    )
    named = {name: copied(getattr(step, name)) for name in ("started", "discarded", "state", "next_state")}
    return replace(step, teams=teams, finished=(), infos=None, **named)
