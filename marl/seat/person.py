"""A person as one of the players of the episode loop: what they are shown, and how long the others wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from marl.seat.controls import Controls
from marl.types import Array
from marl_runtime.seat import AgentInput, ReceivedMessages


class Left(Exception):
    """Nobody goes on with this episode."""


@dataclass(frozen=True)
class Turn:
    """One step of an episode for a person.

    Args:
        controls: what their agent can do.
        step: of the episode, from 0.
        obs: the agent's observation, padded as its team's.
        mask: its legal choices ``(L,)``; None: all.
        acting: whether it is alive and has the move.
    """

    controls: Controls
    step: int
    obs: Array
    mask: Array | None
    acting: bool


class Person(Protocol):
    """Whoever has a seat, through a browser or a terminal."""

    def see(self, turn: Turn) -> None:
        """Learn what the agent sees. Does not wait."""
        ...

    def choose(self, turn: Turn) -> Array:
        """The action, as :meth:`Controls.encoded` gives it; may wait for it. Raises Left."""
        ...


class PersonPlayer:
    """The player of an agent that a person plays, in one copy. It says nothing to its team."""

    fault = ""

    def __init__(self, person: Person, controls: Controls, size: int) -> None:
        """``size``: numbers of a message of its team; 0 where nobody talks."""
        self.person, self.controls, self.size = person, controls, size
        self._step = -1

    def observe(self, view: AgentInput) -> None:
        """Show the person what the agent sees."""
        self._step = 0 if view.started[0] else self._step + 1
        mask = None if view.action_mask is None else view.action_mask[0].copy()
        self._turn = Turn(self.controls, self._step, view.obs[0].copy(), mask, bool(view.acting[0]))
        self.person.see(self._turn)

    def say(self) -> tuple[Array, Array]:
        """Silence: ``(1, M)`` and loudness ``(1,)``."""
        return np.zeros((1, self.size), np.float32), np.zeros(1, np.float32)

    def hear(self, heard: ReceivedMessages) -> None:
        """Messages between networks are nothing that a person reads."""

    def act(self) -> Array:
        """The person's action ``(1,)`` or ``(1, A)``; zeros where the agent does not act."""
        if self._turn.acting:
            return self.person.choose(self._turn)[None]
        return np.zeros((1, *self.controls.shape), dtype=self.controls.dtype)

    def close(self) -> None:
        """Nothing to release."""
