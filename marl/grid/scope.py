"""Scopes: what a critic reads, its agent's own observation or a joint input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from marl.types import Array, ConfigError, Spec, Step, TeamSpec


@runtime_checkable
class Scope(Protocol):
    """A choice of what critics and mixers read: a frozen dataclass.

    A scope of your own extends this class: it says :meth:`shape` and :meth:`gather`, and whatever else is not as here.
    The joint input is one array for the whole team.
    """

    @property
    def reads_state(self) -> bool:
        """Whether the environment's ``state()`` is needed."""
        return False

    @property
    def other_teams(self) -> bool:
        """Whether critics of actions read the actions of the other teams, too."""
        return False

    def shape(self, spec: Spec, team: TeamSpec) -> tuple[int, ...] | None:
        """The shape ``J`` of the joint input; None: each agent's own observation.

        Raises:
            ConfigError: if the environment or the team has no such input.
        """
        ...

    def is_view(self, spec: Spec) -> bool:
        """Whether the joint input is :func:`as_joint` of the team's observations, so that no memory stores it."""
        return False

    def gather(self, step: Step, place: int, successor: bool, rows: Array | None = None) -> Array:
        """The joint input ``(E, *J)`` of the team ``step.teams[place]``; never asked for where :meth:`is_view`.

        Args:
            step: of all copies.
            place: which team's critic reads it.
            successor: of the true successor (``next_obs``, ``next_state``) instead of the step to act on.
            rows: these copies alone; None: all.
        """
        ...

    def true_inputs(self, spec: Spec, team: TeamSpec) -> Tensor | None:
        """Positions of a joint vector that are not padding; None if nothing is padded or the input is no vector."""
        return None

    def obs_of(self, spec: Spec, place: int, joint: Tensor) -> Tensor | None:
        """The observations ``(..., M, *O)`` of team ``place`` out of joint inputs ``(..., *J)``; None: not in there.

        A critic that reads them asks the other team's policy for its next actions, as MADDPG does; without them it
        takes the actions that the memory holds.
        """
        return None


@dataclass(frozen=True)
class Local(Scope):
    """The critic of an agent reads that agent's observation."""

    def shape(self, spec: Spec, team: TeamSpec) -> None:
        """None: no joint input."""
        return None

    def gather(self, step: Step, place: int, successor: bool, rows: Array | None = None) -> Array:
        """Never called: local critics have no joint input."""
        raise ConfigError("Local() has no joint input")


@dataclass(frozen=True)
class Joint(Scope):
    """A centralized critic: it reads more than one agent observes, and is used in training only.

    Args:
        of: ``"team"`` (the observations of the agents under the same learner, side by side), ``"all"`` (those of every
            team), or ``"state"`` (the environment's ``state()``).
    """

    of: str = "team"

    def __post_init__(self) -> None:
        """Check the word."""
        if self.of not in ("team", "all", "state"):
            raise ConfigError(f"Joint.of: expected 'team', 'all' or 'state', got {self.of!r}")

    @property
    def reads_state(self) -> bool:
        """Whether it is the environment's ``state()``."""
        return self.of == "state"

    @property
    def other_teams(self) -> bool:
        """Whether it is the observations of every team."""
        return self.of == "all"

    def shape(self, spec: Spec, team: TeamSpec) -> tuple[int, ...]:
        """The shape of the joint input.

        Raises:
            ConfigError: if the environment has no ``state()``, or teams with images are to be laid beside others.
        """
        if self.of == "state":
            if spec.state_shape is None:
                raise ConfigError(
                    f"Joint(of='state'): {spec.env} has no state(), or no setting says reads_state; "
                    "use Joint(of='team') or Joint(of='all')"
                )
            return spec.state_shape
        if self.is_view(spec):
            return (team.num_agents * team.obs.shape[0], *team.obs.shape[1:])
        if any(other.obs.is_image for other in spec.teams):
            raise ConfigError(
                "critic=Joint(of='all'): image observations of several teams cannot be joined; use Joint(of='team')"
            )
        return (sum(other.num_agents * other.obs.shape[0] for other in spec.teams),)

    def is_view(self, spec: Spec) -> bool:
        """Whether it is the team's own observations alone."""
        return self.of == "team" or (self.of == "all" and len(spec.teams) == 1)

    def gather(self, step: Step, place: int, successor: bool, rows: Array | None = None) -> Array:
        """The state, or the observations of every team side by side, ``(E, *J)``."""
        if self.of == "state":
            state = step.next_state if successor else step.state
            if state is None:
                raise ConfigError("critic=Joint(of='state'): the environment gives no state")
            return state if rows is None else state[rows]
        teams = step.teams if self.of == "all" else (step.teams[place],)
        parts = [team.next_obs if successor else team.obs for team in teams]
        if rows is not None:
            parts = [part[rows] for part in parts]
        return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)

    def true_inputs(self, spec: Spec, team: TeamSpec) -> Tensor | None:
        """Positions of joint observations that are not padding."""
        if self.of == "state" or team.obs.is_image:
            return None
        start, places = 0, []
        for other in spec.teams if self.of == "all" else (team,):
            for width in other.obs.widths:
                places.append(torch.arange(start, start + width))
                start += other.obs.shape[0]
        return torch.cat(places)

    def obs_of(self, spec: Spec, place: int, joint: Tensor) -> Tensor | None:
        """The part of the joint observations that is team ``place``'s, where they are those of every team."""
        if not self.other_teams:
            return None
        sizes = [team.num_agents * math.prod(team.obs.shape) for team in spec.teams]
        start = sum(sizes[:place])
        part = joint[..., start : start + sizes[place]]
        return part.reshape(*joint.shape[:-1], spec.teams[place].num_agents, *spec.teams[place].obs.shape)


def as_joint(obs: Tensor) -> Tensor:
    """The team's observations ``(..., N, *O)`` side by side: ``(..., N*O)``, or ``(..., N*C, H, W)`` for images."""
    image = obs.dim() >= 5 and obs.dtype == torch.uint8
    return obs.flatten(-4, -3) if image else obs.flatten(-2)
