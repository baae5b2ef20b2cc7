"""One agent's seat in several copies of an environment: what it is given in a step, and its turn in each copy."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from marl_runtime.wire import Array, Field, Layout

Said = tuple[Array, Any]  # a message (M,) and its loudness
Heard = tuple[Array, Array]  # messages (N, M) and their weights (N,)
Turn = Generator[Said, Heard | None, Array]


@dataclass(frozen=True)
class ReceivedMessages:
    """Messages that one agent receives from its team's ``N`` agents: ``message (E, N, M)``, ``weight (E, N)``."""

    message: Array
    weight: Array

    def copy(self, e: int) -> Heard:
        """The messages in one copy of the environment."""
        return self.message[e], self.weight[e]


@dataclass(frozen=True)
class AgentInput:
    """One agent's input of a step of ``E`` copies: its own observation, flags, and received messages.

    obs ``(E, *O)``; action_mask ``(E, L)`` or None; started, acting ``(E,)``.
    """

    obs: Array
    action_mask: Array | None
    started: Array
    acting: Array
    heard: ReceivedMessages | None


class TakesTurns(Protocol):
    """An agent in one copy of an environment."""

    size: int  # numbers of a message

    @property
    def action(self) -> Field:
        """Shape and type of its encoded action."""
        ...

    def layout(self, copies: int) -> Layout:
        """The frames in which its process is told what it may know."""
        ...

    def twin(self, seed: int | None = None) -> TakesTurns:
        """A copy with an episode and a random stream of its own."""
        ...

    def reset(self) -> None:
        """Forget the episode so far."""
        ...

    def turn(self, row: Array, action_mask: Array | None, explore: bool = False, heard: Heard | None = None) -> Turn:
        """One step: yields messages with their loudness, is sent what is heard, returns the encoded action."""
        ...


class LocalPlayer:
    """A player in this process: an agent for each copy."""

    def __init__(self, agents: Sequence[TakesTurns], explore: bool, size: int | None = None) -> None:
        """``size``: numbers of a message of its team, if that is not the agents' to know."""
        self.agents, self.explore, self.fault = agents, explore, ""
        self.size = agents[0].size if size is None else size
        self._action = agents[0].action
        self._turns: dict[int, Turn] = {}

    def observe(self, view: AgentInput) -> None:
        """Take the agent's input of this step."""
        shape, dtype = self._action
        self._actions = np.zeros((len(self.agents), *shape), dtype)
        self._turns = {}
        self._hush()
        for e, agent in enumerate(self.agents):
            if view.started[e]:
                agent.reset()
            if view.acting[e]:
                action_mask = None if view.action_mask is None else view.action_mask[e]
                heard = None if view.heard is None else view.heard.copy(e)
                self._turns[e] = agent.turn(view.obs[e], action_mask, self.explore, heard)
                self._go_on(e, None)

    def say(self) -> tuple[Array, Array]:
        """Messages ``(E, M)`` and loudness ``(E,)``."""
        return self._said, self._loud

    def hear(self, heard: ReceivedMessages) -> None:
        """Take the messages of this round."""
        self._hush()
        for e in list(self._turns):
            self._go_on(e, heard.copy(e))

    def act(self) -> Array:
        """Actions ``(E,)`` or ``(E, A)``."""
        for e in list(self._turns):
            self._go_on(e, None)
        return self._actions

    def close(self) -> None:
        """Nothing to release."""

    def _hush(self) -> None:
        self._said = np.zeros((len(self.agents), self.size), np.float32)
        self._loud = np.zeros(len(self.agents), np.float32)

    def _go_on(self, e: int, heard: Heard | None) -> None:
        """To the next message of one copy's turn, or to its end."""
        turn = self._turns[e]
        try:
            self._said[e], self._loud[e] = next(turn) if heard is None else turn.send(heard)
        except StopIteration as end:
            self._actions[e] = end.value
            del self._turns[e]
