"""Shaping hooks: a hook is built for a team and maps the reward so far to the next reward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from marl.schedules import Clock, Exponential, Linear, Logarithmic
from marl.types import Array, ConfigError, TeamSpec


@dataclass(frozen=True)
class TeamTransition:
    """One step of a team as a hook sees it. Arrays are only lent: copy what you keep.

    Args:
        obs: ``(E, N, *O)`` acted on.
        next_obs: ``(E, N, *O)`` the true successor, never a reset observation.
        action: ``(E, N)`` or ``(E, N, A)``, as the environment got it.
        reward: ``(E, N)`` raw.
        terminated: ``(E, N)`` bool.
        truncated: ``(E, N)`` bool.
        acting: ``(E, N)`` bool: who chose ``action``; the dead and those who wait for their turn did not.
        has_future: ``(E, N)`` bool: whose ``next_obs`` has a future: about to act, or cut off.
        started: ``(E,)`` bool: the copy's episode ended and the next one has begun.
        state: ``(E, S)`` or None; next_state likewise.
        next_state: its true successor.
        before: the clock at ``obs``.
        now: the clock at ``next_obs``.
        actions: of all teams in the order of the spec, as ``action``; None unless a hook of the team needs them.
        infos: what the environment reported of episodes that ended in this step, ``(E,)`` by name and NaN in all other
            copies; None unless a hook of the team needs them.
    """

    obs: Array
    next_obs: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    acting: Array
    has_future: Array
    started: Array
    state: Array | None
    next_state: Array | None
    before: Clock
    now: Clock
    actions: tuple[Array, ...] | None = None
    infos: Mapping[str, Array] | None = None


class Hook(Protocol):
    """A built hook. A hook with state also has ``state_dict`` and ``load_state_dict``."""

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        """Map the reward so far ``(E, N)`` to the next reward."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A hook with state."""

    def state_dict(self) -> dict[str, Any]:
        """A tree of arrays, tensors and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


@dataclass(frozen=True)
class HookContext:
    """What a hook is built from: its team, the number of copies, the learner's discount, and a seed of its own."""

    team: TeamSpec
    num_envs: int
    discount: float | None
    seed: np.random.SeedSequence


class Shaping(Protocol):
    """Settings of a shaping hook. ``invariant``: whether the optimal policies stay the same.

    One that :class:`Needs` more than every hook is shown says so.
    """

    invariant: ClassVar[bool]

    def build(self, context: HookContext) -> Hook:
        """Make the hook. Raises ConfigError for settings that do not fit."""
        ...


NEEDS = frozenset(("state", "actions", "infos"))


@runtime_checkable
class Needs(Protocol):
    """Shaping that needs more of a step: ``"state"``, ``"actions"`` of all teams, ``"infos"`` of the environment."""

    @property
    def needs(self) -> frozenset[str]:
        """Fields of :class:`TeamTransition` that must not be None."""
        ...


def needs_of(shaping: Iterable[Shaping]) -> frozenset[str]:
    """What any of these hooks needs."""
    return frozenset().union(*(hook.needs for hook in shaping if isinstance(hook, Needs)))


def check_needs(name: str, needs: Iterable[str]) -> frozenset[str]:
    """``needs`` as a set. Raises ConfigError for what no hook is shown."""
    found = frozenset((needs,) if isinstance(needs, str) else needs)
    if not found <= NEEDS:
        raise ConfigError(f"{name}.needs: expected some of {', '.join(sorted(NEEDS))}, got {sorted(map(str, found))}")
    return found


def shaped_like(name: str, found: Array, expected: Array) -> Array:
    """``found``, if it has the shape ``(E, N)`` of ``expected``. Raises ConfigError."""
    if np.shape(found) != expected.shape:
        raise ConfigError(f"{name}: expected shape {expected.shape} (copies, agents), got {np.shape(found)}")
    return np.asarray(found)


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ConfigError unless a number (both ends of a schedule) lies in the range."""
    ends = [value.start, value.end] if isinstance(value, Linear | Exponential | Logarithmic) else [value]
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int | float) or not low <= end <= high or math.isinf(end):
            raise ConfigError(f"{name}: expected a number in [{low:g}, {high:g}], got {end!r}")
