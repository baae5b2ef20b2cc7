"""What the outputs of one agent's network mean, as JSON: so that its policy can be kept apart from all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marl.config import from_json, to_json
from marl.nets.action_head import ActionHead, SquashedHead
from marl.nets.distributions import (
    Bernoulli,
    Categorical,
    Constant,
    Distribution,
    Gaussian,
    MultiCategorical,
    SquashedGaussian,
    UniformBox,
    make_distribution,
    uniform,
)
from marl.nets.q_head import QHead
from marl.types import ActionSpec, ConfigError


def head_to_json(head: Distribution) -> dict[str, Any]:
    """What, with the agent's action, makes it again. Raises ConfigError for what holds code of its author's."""
    match head:
        case QHead():
            return {
                "type": "values",
                "actions": head.actions,
                "dueling": head.dueling,
                "distribution": to_json(head.distribution),
            }
        case ActionHead():
            return {"type": "deterministic"}
        case SquashedHead():
            return {"type": "squashed"}
        case Constant():
            return {"type": "constant", "logits": head.logits.tolist()}
        case UniformBox():
            return {"type": "uniform"}
        case Categorical() | MultiCategorical() | Bernoulli() | Gaussian():
            return {"type": "stochastic", "squash": isinstance(head, SquashedGaussian)}
    raise ConfigError(f"{type(head).__name__} cannot be written as JSON")


def head_from_json(data: Mapping[str, Any], action: ActionSpec) -> Distribution:
    """The inverse of `head_to_json`, for one agent's action."""
    match data["type"]:
        case "values":
            return QHead(data["actions"], data["dueling"], from_json(data["distribution"]))
        case "deterministic":
            return ActionHead(action)
        case "squashed":
            return SquashedHead(action)
        case "constant":
            return Constant(data["logits"])
        case "uniform":
            return uniform(action)
        case "stochastic":
            return make_distribution(action, data["squash"])
        case other:
            raise ConfigError(f"unknown action head {other!r}; was this written by a newer version?")
