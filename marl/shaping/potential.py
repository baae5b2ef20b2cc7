"""Potential-based shaping: more frequent rewards, the same optimal policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from marl.schedules import Schedule, value_at
from marl.shaping.hook import Hook, HookContext, TeamTransition, check_number, shaped_like
from marl.types import Array, ConfigError


@dataclass(frozen=True)
class PotentialBased:
    """``F = gamma w' phi(s') - w phi(s)``: more frequent rewards, the same optimal policies (Ng et al. 1999).

    ``phi`` is 0 where the task ended and ``phi(s')`` where the episode was cut off, since learning goes on from there.
    A weight that changes with time is part of the potential (Devlin and Kudenko 2012), so it is invariant too. In games
    of turns the difference runs from an agent's turn to its next one.

    Args:
        phi: from observations ``(E, N, *O)`` to potentials ``(E, N)``; from states ``(E, S)`` to ``(E,)``.
        of: ``"obs"`` or ``"state"``.
        discount: gamma; None takes the learner's, and any other would change what is optimal.
        weight: a number or schedule that multiplies ``phi``.
    """

    phi: Callable[[Array], Array]
    of: str = "obs"
    discount: float | None = None
    weight: Schedule = 1.0
    invariant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not callable(self.phi) or self.of not in ("obs", "state"):
            raise ConfigError(
                f"PotentialBased: expected a function and of='obs' or 'state', got {self.phi!r}, {self.of!r}"
            )
        check_number("PotentialBased.weight", self.weight)

    @property
    def needs(self) -> frozenset[str]:
        """The state, where that is what ``phi`` is of."""
        return frozenset(("state",) if self.of == "state" else ())

    def build(self, context: HookContext) -> Hook:
        """Settle the discount."""
        gamma = context.discount if self.discount is None else self.discount
        if gamma is None:
            raise ConfigError(
                f"PotentialBased.discount: the learner of team {context.team.name!r} has none that it could take; say "
                "one, discount=0.99, or shape only the teams that learn: shaping={'agent_*': [...]}"
            )
        if context.discount is not None and gamma != context.discount:
            raise ConfigError(
                f"PotentialBased.discount: expected the learner's own ({context.discount}), since any other changes "
                f"what is optimal; got {self.discount}"
            )
        return lambda transition, reward: reward + self._difference(transition, float(gamma))

    def _difference(self, transition: TeamTransition, gamma: float) -> Array:
        now = self._potential(transition.obs, transition.state, transition.reward) * value_at(
            self.weight, transition.before
        )  # (E, N)
        then = self._potential(transition.next_obs, transition.next_state, transition.reward) * value_at(
            self.weight, transition.now
        )  # (E, N)
        difference: Array = np.where(transition.has_future, gamma * then, 0.0) - np.where(transition.acting, now, 0.0)
        return difference

    def _potential(self, obs: Array, state: Array | None, like: Array) -> Array:
        if self.of == "obs":
            return shaped_like("PotentialBased.phi", self.phi(obs), like)
        assert state is not None
        values = shaped_like("PotentialBased.phi", self.phi(state), like[:, 0])
        return np.repeat(values[:, None], like.shape[1], axis=1)
