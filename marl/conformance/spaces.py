"""Whether values are members of their spaces, and masks fit their actions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.types import ActionKind, Array

KINDS: dict[type[spaces.Space[Any]], ActionKind] = {
    spaces.Discrete: "discrete",
    spaces.MultiDiscrete: "multidiscrete",
    spaces.MultiBinary: "multibinary",
    spaces.Box: "box",
}
WORDS = {"discrete": "discrete", "multidiscrete": "multi-discrete", "multibinary": "binary", "box": "continuous"}


def misfits(space: spaces.Space[Any], value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Everything about a value that its space does not allow: rule and sentence."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            yield "observation_shape", f"{where}: expected a dictionary with {sorted(space.spaces)}, got {got}"
            return
        for key, inner in space.spaces.items():
            yield from misfits(inner, value[key], f"{where}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            yield "observation_shape", f"{where}: expected a tuple of {len(space.spaces)}, got {form(value)}"
            return
        for k, inner in enumerate(space.spaces):
            yield from misfits(inner, value[k], f"{where}[{k}]")
    elif isinstance(space, spaces.Box):
        yield from _box_misfits(space, value, where)
    elif not space.contains(value):
        yield "observation_outside_space", f"{where}: expected a member of {space}, got {value!r:.80}"


def _box_misfits(space: spaces.Box, value: Any, where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, np.ndarray | np.generic):
        yield "observation_type", f"{where}: expected a numpy array, got {type(value).__name__}; use np.asarray"
        return
    if value.shape != space.shape:
        yield "observation_shape", f"{where}: expected shape {space.shape}, got {value.shape}"
        return
    if value.dtype != space.dtype:
        text = f"{where}: expected dtype {space.dtype}, got {value.dtype}; cast it with astype or change the space"
        yield "observation_dtype", text
    if value.dtype.kind not in "biuf":
        return
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        yield (
            "observation_not_finite",
            f"{where}: expected finite numbers, got NaN or infinity; look where it is computed",
        )
        return
    array = np.asarray(value)
    outside = (array < space.low) | (array > space.high)
    if outside.any():
        at = tuple(int(k) for k in np.argwhere(outside)[0])
        low, high = space.low[at], space.high[at]
        text = f"{where}: expected values in [{low:g}, {high:g}], got {array[at]:g} at index {list(at)}"
        yield "observation_outside_space", f"{text}; widen the space or clip"


def mask_parts(space: spaces.Space[Any], mask: Any) -> list[Array] | None:
    """A mask as one array per component, or None if it does not fit the space."""
    if isinstance(space, spaces.Discrete):
        sizes = [int(space.n)]
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = [int(n) for n in space.nvec.reshape(-1)]
    elif isinstance(space, spaces.MultiBinary):
        sizes = [2] * math.prod(space.shape)
    else:
        return None
    try:
        if isinstance(mask, tuple | list) and len(sizes) > 1 and len(mask) == len(sizes):
            flat = np.concatenate([np.asarray(part).reshape(-1) for part in mask])
        else:
            flat = np.asarray(mask).reshape(-1)
    except ValueError:
        return None
    if flat.dtype.kind not in "biuf" or flat.size != sum(sizes):
        return None
    return np.split(flat, np.cumsum(sizes)[:-1])


def form(value: Any) -> str:
    """A value's form in a few words."""
    if isinstance(value, np.ndarray):
        return f"shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
