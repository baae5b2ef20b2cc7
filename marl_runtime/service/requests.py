"""What clients ask in JSON: read strictly, and answered in plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from marl_runtime.agent import Agent
from marl_runtime.program import Array
from marl_runtime.seat import Heard
from marl_runtime.service.refusals import Refusal, Unfit
from marl_runtime.spaces import MASK, ValueMismatch, key_of

KNOWN: dict[str, dict[str, type]] = {
    "reset": {"session": str, "seed": int, "side_seed": int, "game": int},
    "act": {"session": str, "observation": object, "action_mask": list, "explore": bool, "heard": dict},
    "close": {"session": str},
    "hear": {"heard": dict},
}
LARGEST_SEED = 2**63


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def read(data: bytes | str, action: str | None = None) -> dict[str, Any]:
    """A request: an object whose names and kinds of values are known.

    Args:
        data: JSON text.
        action: what is asked; None: ``"do"`` of the object says so, and stays in it.

    Raises:
        Refusal: for anything else.
    """
    try:
        asked = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refusal("expected a JSON object") from None
    if not isinstance(asked, dict):
        raise Refusal(f"expected a JSON object, got {type(asked).__name__}")
    if action is None:
        said = asked.get("do")
        if not isinstance(said, str) or said not in KNOWN:
            raise Refusal(f"do: expected one of {', '.join(KNOWN)}, got {said!r:.40}")
        action = said
    known = KNOWN[action]
    for name, value in asked.items():
        if name == "do":
            continue
        if name not in known:
            raise Refusal(f"{action}: unknown name {name!r:.40} (known: {', '.join(known)})")
        kind = known[name]
        if value is None and name != "observation":
            continue
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise Refusal(f"{action}: {name}: expected {_words(kind)}, got {type(value).__name__}")
        if kind is int and isinstance(value, int) and not 0 <= value < LARGEST_SEED:
            raise Refusal(f"{action}: {name}: expected a whole number from 0 below 2**63")
    return asked


def _words(kind: type) -> str:
    words = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}
    return words[kind]


def encoded(agent: Agent, asked: Mapping[str, Any]) -> tuple[Array, Array | None]:
    """The row and the legal choices of a request. Raises Unfit."""
    if "observation" not in asked:
        raise Refusal("act: observation is missing")
    try:
        observation = observation_of(agent.codec.observation_space, asked["observation"])
        return agent.codec.encode(observation, asked.get(MASK))
    except (ValueMismatch, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _unfit("observation", error) from None


def observation_of(space: Mapping[str, Any], value: Any) -> Any:
    """A value of JSON, whose keys are texts, as an observation of a space, whose keys need not be."""
    if space["type"] == "Dict" and isinstance(value, dict):
        keys = {str(key_of(key)): (key_of(key), sub) for key, sub in space["spaces"]}
        found = {keys[key][0]: observation_of(keys[key][1], part) for key, part in value.items() if key in keys}
        return found | {key: part for key, part in value.items() if key not in keys}
    if space["type"] == "Tuple" and isinstance(value, list) and len(value) == len(space["spaces"]):
        return [observation_of(sub, part) for sub, part in zip(space["spaces"], value, strict=True)]
    return value


def inbox(agent: Agent, heard: Mapping[str, Any]) -> Heard:
    """Messages of a request. Raises Unfit."""
    try:
        return agent.inbox(heard)
    except (ValueMismatch, ValueError, TypeError, OverflowError) as error:
        raise _unfit("heard", error) from None


def _unfit(what: str, error: Exception) -> Unfit:
    return Unfit(f"{what}: {' '.join(str(error).split()):.300}")


def plain(value: Any) -> Any:
    """An action or message as JSON has it. Raises Unfit for numbers that JSON has not."""
    if value is None or isinstance(value, int):
        return value
    array = np.asarray(value)
    if not np.isfinite(array).all():
        raise Unfit("the policy's answer to this observation is not finite")
    return array.tolist()
