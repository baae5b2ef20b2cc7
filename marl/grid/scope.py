"""What a critic sees: its own agent's observation, or everybody's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marl.types import Array, ConfigError, Spec, Step, TeamSpec


@dataclass(frozen=True)
class Local:
    """The critic of an agent sees that agent's observation."""


@dataclass(frozen=True)
class Joint:
    """A centralised critic: it sees more than an agent does, and is used in training only.

    Args:
        of: ``"team"`` (the observations of the agents under the same learner, side by side), ``"all"`` (those of every
            team), or ``"state"`` (the environment's ``state()``).
    """

    of: str = "team"

    def __post_init__(self) -> None:
        """Check the word."""
        if self.of not in ("team", "all", "state"):
            raise ConfigError(f"Joint.of: expected 'team', 'all' or 'state', got {self.of!r}")


Scope = Local | Joint


def joint_shape(scope: Scope, spec: Spec, team: TeamSpec) -> tuple[int, ...] | None:
    """The shape of the joint input, or None for local critics.

    Raises:
        ConfigError: if the environment has no ``state()``, or teams with images are to be laid beside others.
    """
    if isinstance(scope, Local):
        return None
    if scope.of == "state":
        if spec.state_shape is None:
            raise ConfigError(
                f"critic=Joint(of='state'): {spec.env} has no state(); use Joint(of='team') or Joint(of='all')"
            )
        return spec.state_shape
    if scope.of == "team":
        return (team.num_agents * team.obs.shape[0], *team.obs.shape[1:])
    if any(other.obs.is_image for other in spec.teams) and len(spec.teams) > 1:
        raise ConfigError(
            "critic=Joint(of='all'): image observations of several teams cannot be joined; use Joint(of='team')"
        )
    if len(spec.teams) == 1:
        return (team.num_agents * team.obs.shape[0], *team.obs.shape[1:])
    return (sum(other.num_agents * other.obs.shape[0] for other in spec.teams),)


def true_inputs(scope: Scope, spec: Spec, team: TeamSpec) -> Tensor | None:
    """Positions of a joint vector that are not padding; None if nothing is padded or the input is no vector."""
    if isinstance(scope, Local) or scope.of == "state" or team.obs.is_image:
        return None
    start, places = 0, []
    for other in spec.teams if scope.of == "all" else (team,):
        for width in other.obs.widths:
            places.append(torch.arange(start, start + width))
            start += other.obs.shape[0]
    return torch.cat(places)


def is_view(scope: Scope, spec: Spec) -> bool:
    """Whether the joint input is only another view of the team's own observations, so that nothing need be stored."""
    return isinstance(scope, Joint) and (scope.of == "team" or (scope.of == "all" and len(spec.teams) == 1))


def as_joint(obs: Tensor) -> Tensor:
    """The team's observations ``(..., N, *O)`` side by side: ``(..., N*O)``, or ``(..., N*C, H, W)`` for images."""
    image = obs.dim() >= 5 and obs.dtype == torch.uint8
    return obs.flatten(-4, -3) if image else obs.flatten(-2)


def gather(scope: Joint, step: Step, successor: bool, rows: Array | None = None) -> Array:
    """The joint input of a step, or of its true successor, ``(E, *J)``; of the copies ``rows`` alone if given."""
    if scope.of == "state":
        state = step.next_state if successor else step.state
        if state is None:
            raise ConfigError("critic=Joint(of='state'): the environment gives no state")
        return state if rows is None else state[rows]
    parts = [team.next_obs if successor else team.obs for team in step.teams]
    if rows is not None:
        parts = [part[rows] for part in parts]
    return np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)
