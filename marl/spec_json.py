"""What an environment looks like, as JSON: spaces, teams and specs in checkpoints and agents' folders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from marl.spaces import team_spec
from marl.types import Array, ConfigError, Spec, TeamSpec

Json = Any
LARGEST_SPACE = 2**26  # numbers or choices of a space that a file may ask for


def space_to_json(space: Space[Any]) -> Json:
    """A space as plain JSON (infinities as strings), so that checkpoints can be read without unpickling anything."""
    if isinstance(space, Box):
        low, high = _bound_to_json(space.low), _bound_to_json(space.high)
        return {"type": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, MultiDiscrete):
        start = np.broadcast_to(space.start, space.nvec.shape).tolist()
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": start, "dtype": str(space.dtype)}
    if isinstance(space, MultiBinary):
        return {"type": "MultiBinary", "n": list(space.n) if isinstance(space.n, Sequence) else int(space.n)}
    if isinstance(space, spaces.Dict):
        return {
            "type": "Dict",
            "spaces": [[_key_to_json(key), space_to_json(sub)] for key, sub in space.spaces.items()],
        }
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(sub) for sub in space.spaces]}
    raise ConfigError(f"{type(space).__name__} cannot be written as JSON")


def _key_to_json(key: Any) -> Json:
    """A key of a Dict space: tuples, which JSON would take for lists, as checkpoints write them."""
    if isinstance(key, np.generic):
        key = key.item()
    if type(key) is tuple:
        return {"$": "tuple", "items": [_key_to_json(part) for part in key]}
    if key is None or type(key) in (str, int, float, bool):
        return key
    raise ConfigError(
        f"Dict space: key {key!r:.80} cannot be written as JSON; use texts, numbers or tuples of them as keys"
    )


def _key_from_json(key: Json) -> Any:
    return tuple(map(_key_from_json, key["items"])) if isinstance(key, dict) else key


def space_from_json(data: Json) -> Space[Any]:
    """The inverse of `space_to_json`. Raises ConfigError for what is no space, or larger than any real one."""
    try:
        sizes = [math.prod(np.ravel(data[key]).tolist()) for key in ("n", "shape") if key in data]
        if max([*sizes, np.sum(data.get("nvec", 0)), np.size(data.get("nvec", 0))]) > LARGEST_SPACE:
            raise ConfigError(f"not a space: more than {LARGEST_SPACE:,} numbers or choices")
        match data["type"]:
            case "Box":
                shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
                low, high = (_bound_from_json(data[side], shape, dtype) for side in ("low", "high"))
                return Box(low, high, shape, dtype.type)
            case "Discrete":
                return Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
            case "MultiDiscrete":
                start = np.array(data["start"], dtype=data["dtype"])
                return MultiDiscrete(data["nvec"], dtype=np.dtype(data["dtype"]).type, start=start)
            case "MultiBinary":
                return MultiBinary(data["n"])
            case "Dict":
                return spaces.Dict([(_key_from_json(key), space_from_json(sub)) for key, sub in data["spaces"]])
            case "Tuple":
                return spaces.Tuple([space_from_json(sub) for sub in data["spaces"]])
            case other:
                raise ConfigError(f"unknown space type {other!r}")
    except ConfigError:
        raise
    except (AssertionError, AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ConfigError(f"not a space: {data!r:.200} ({error})") from None


def _bound_to_json(bound: Array) -> Json:
    """One number if all are equal, else nested lists; infinities as ``"inf"`` and ``"-inf"``."""
    if bound.size and (bound == bound.flat[0]).all():
        return _number_to_json(bound.flat[0].item())
    return [_nested_to_json(part) for part in bound.tolist()]


def _nested_to_json(part: Any) -> Json:
    return [_nested_to_json(inner) for inner in part] if isinstance(part, list) else _number_to_json(part)


def _number_to_json(number: float) -> Json:
    return str(number) if isinstance(number, float) and math.isinf(number) else number


def _bound_from_json(data: Json, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(inner) for inner in value]
        return float(value) if isinstance(value, str) else value

    return np.broadcast_to(np.array(number(data), dtype=dtype), shape).copy()


def team_to_json(team: TeamSpec) -> Json:
    """A team's names and spaces as plain JSON; the padded shapes follow from them."""
    return {
        "name": team.name,
        "agents": list(team.agents),
        "masked": team.masked,
        "observation_spaces": [space_to_json(space) for space in team.observation_spaces],
        "action_spaces": [space_to_json(space) for space in team.action_spaces],
    }


def team_from_json(data: Json) -> TeamSpec:
    """The inverse of `team_to_json`."""
    names = [data["name"], *data["agents"]]
    if not all(isinstance(name, str) for name in names) or len(set(data["agents"])) < len(data["agents"]):
        raise ConfigError(f"not a team: expected agents of different names, got {names!r:.200}")
    observations = [space_from_json(space) for space in data["observation_spaces"]]
    actions = [space_from_json(space) for space in data["action_spaces"]]
    return team_spec(data["name"], data["agents"], observations, actions, bool(data["masked"]))


def spec_to_json(spec: Spec) -> Json:
    """What an environment looks like, as JSON."""
    return {
        "env": spec.env,
        "state_shape": None if spec.state_shape is None else list(spec.state_shape),
        "turn_based": spec.turn_based,
        "teams": [team_to_json(team) for team in spec.teams],
    }


def spec_from_json(data: Json) -> Spec:
    """The inverse. Raises ConfigError for what makes no sense."""
    state_shape = None if data["state_shape"] is None else tuple(data["state_shape"])
    if not all(type(size) is int and 0 <= size <= LARGEST_SPACE for size in state_shape or ()):
        raise ConfigError(f"not a state: shape {state_shape!r:.80}")
    return Spec(str(data["env"]), tuple(map(team_from_json, data["teams"])), state_shape, bool(data["turn_based"]))
