"""Actors: objects that give the actions of all agents for a step."""

from __future__ import annotations

from typing import Protocol

from marl.types import Array, Step


class Actor(Protocol):
    """Gives actions for a step of ``E`` copies."""

    def act(self, step: Step) -> list[Array]:
        """Actions of every team, ``(E, N)`` or ``(E, N, A)``."""
        ...
