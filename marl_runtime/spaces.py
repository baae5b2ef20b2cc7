"""An agent's spaces, from JSON: its observation as a padded row, its action as what the environment takes.

The same rows as :mod:`marl.spaces` makes of Gymnasium spaces, without Gymnasium.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from marl_runtime.bundle import BundleError
from marl_runtime.program import Array
from marl_runtime.shapes import LARGEST

MASK = "action_mask"
Json = Mapping[str, Any]
Write = Callable[[Any], None]


class ValueMismatch(ValueError):
    """An observation or mask that does not fit: what was expected and what came."""


class Codec:
    """One agent's observations, masks and actions, to and from its team's padded arrays."""

    def __init__(self, said: Json) -> None:
        """``said``: the agent's entry of a manifest. Raises BundleError for what is no space."""
        try:
            self._read(said)
        except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            if isinstance(error, BundleError):
                raise
            what = " ".join(str(error).split())
            raise BundleError(f"its spaces make no sense ({type(error).__name__}: {what:.100})") from None

    def _read(self, said: Json) -> None:
        self.observation_space, self.action_space = said["observation_space"], said["action_space"]
        self.shape = tuple(map(_size, said["observation_shape"]))
        self.dtype = "uint8" if len(self.shape) == 3 else "float32"
        space = self.observation_space
        self._masked = space["type"] == "Dict" and any(key == MASK for key, _ in space["spaces"])
        self._entry = False
        if self._masked:
            rest = [(key, sub) for key, sub in space["spaces"] if key != MASK]
            self._entry = [key for key, _ in rest] == ["observation"]
            space = rest[0][1] if self._entry else {"type": "Dict", "spaces": rest}
        self._space, self._axes = space, image_axes(space)
        width = math.prod(_shape_of(space)) if self._axes else flat_width(space)
        if math.prod(self.shape) > LARGEST or width > math.prod(self.shape):
            raise BundleError(f"its observation has {width:,} numbers, its row the shape {self.shape}")
        plain = space["type"] == "Box" and self._axes is None
        self._plain = _shape_of(space) if plain and _shape_of(space) == self.shape else None
        self._width = width
        self._read_action(self.action_space)
        choices = said["choices"]
        self.choices = None if choices is None else np.array([bool(_size(one)) for one in choices])
        if self.choices is not None:
            # Of components that wider agents alone have the first choice is legal, and none is the agent's own.
            self._own = np.flatnonzero(self.choices)[: self.num_choices]

    def _read_action(self, space: Json) -> None:
        kind = space["type"]
        self._discrete, self._box = kind == "Discrete", kind == "Box"
        self._start: int | Array = 0
        self._action_shape = () if self._discrete else _shape_of(space)
        self._components = math.prod(self._action_shape)
        self._action_dtype = np.dtype("int8" if kind == "MultiBinary" else _text(space["dtype"]))
        if self._action_dtype.kind not in "iuf":
            raise BundleError(f"an action of type {self._action_dtype} is not known")
        if self._discrete:
            self._start, self.num_choices = int(space["start"]), _size(space["n"])
        elif kind == "MultiDiscrete":
            self._start = np.array(space["start"], np.int64).reshape(-1)
            self.num_choices = int(np.array(space["nvec"], np.int64).sum())
        elif kind == "MultiBinary":
            self.num_choices = 2 * self._components
        elif kind == "Box":
            self.num_choices = 0
            bounds = (_bound(space[side], self._action_shape, self._action_dtype) for side in ("low", "high"))
            self._low, self._high = bounds
        else:
            raise BundleError(f"an action space {kind!r:.40} is not known")
        self._moved = bool(np.any(self._start))

    def encode(self, observation: Any, action_mask: Any = None) -> tuple[Array, Array | None]:
        """A padded row ``(*O)``, and which choices are legal ``(L,)``; None: all of them.

        ``action_mask``: of the agent's own choices; an observation that brings one need not be given another.

        Raises:
            ValueMismatch: if they do not fit the spaces.
        """
        if self._masked:
            if not isinstance(observation, Mapping):
                raise ValueMismatch(f"expected a dictionary with {MASK!r}, got {type(observation).__name__}")
            action_mask = observation.get(MASK) if action_mask is None else action_mask
            if self._entry:
                if "observation" not in observation:
                    raise ValueMismatch(f"expected key 'observation', got {sorted(map(str, observation))!s:.80}")
                observation = observation["observation"]
            else:
                observation = {key: value for key, value in observation.items() if key != MASK}
        if self._plain is not None and type(observation) is np.ndarray and observation.shape == self._plain:
            row = observation.astype(np.float32)
        else:
            row = np.zeros(self.shape, self.dtype)
            self._writer(row)(observation)
        if action_mask is None:
            return row, self.choices
        return row, self.legal(action_mask)

    def _writer(self, row: Array) -> Write:
        if self._axes is None:
            return _writer(self._space, row.reshape(-1)[: self._width])
        shape = _shape_of(self._space)
        channel = [axis for axis in self._axes if axis >= 0]
        return _box_writer(shape, row[0] if len(shape) == 2 else row.transpose(np.argsort(channel)))

    def legal(self, action_mask: Any) -> Array:
        """The padded mask ``(L,)`` for one of the agent's own choices. Raises ValueMismatch."""
        if isinstance(action_mask, tuple):
            action_mask = np.concatenate([np.ravel(part) for part in action_mask])
        mask = np.asarray(action_mask)
        chosen = mask.astype(bool)
        if self._box or mask.shape != (self.num_choices,):
            raise ValueMismatch(f"expected a mask of {self.num_choices} zeros and ones, got the shape {mask.shape}")
        if not np.array_equal(chosen, mask) or not chosen.any():
            raise ValueMismatch(f"expected a mask of zeros and ones with a legal action, got {mask.tolist()!s:.80}")
        if self.choices is None:
            return chosen
        whole: Array = self.choices.copy()
        whole[self._own] = chosen
        return whole

    def decode(self, action: Array) -> Any:
        """What ``env.step`` takes, for an action of the program: int for Discrete, an array otherwise."""
        if self._discrete:
            return int(action)
        array = action[: self._components].reshape(self._action_shape)
        if not self._box:
            return array.astype(self._action_dtype)
        if self._action_dtype.kind == "f":  # clipped once more in the space's own precision
            return np.minimum(np.maximum(array.astype(self._action_dtype), self._low), self._high)
        low, high = self._low.astype(np.float64), self._high.astype(np.float64)
        # Rounded to a float the largest int64 is one that no int64 can be: the next below it is.
        high = np.where(high.astype(object) > self._high, np.nextafter(high, 0), high)
        return np.minimum(np.maximum(np.rint(array), low), high).astype(self._action_dtype)

    def padded(self, action: Array) -> Array:
        """The same action of the program as the team's arrays have it: choices counted from 0."""
        if not self._moved:
            return action
        if self._discrete:
            return action - self._start
        moved = action.copy()
        moved[: self._components] -= self._start
        return moved


def flat_width(space: Json) -> int:
    """Length of an observation as a vector. Raises BundleError for what is no space."""
    kind = space["type"]
    if kind in ("Box", "MultiBinary"):
        return math.prod(_shape_of(space))
    if kind == "Discrete":
        return _size(space["n"])
    if kind == "MultiDiscrete":
        return sum(map(_size, np.ravel(space["nvec"]).tolist()))
    return sum(map(flat_width, _parts(space)))


def image_axes(space: Json) -> tuple[int, int, int] | None:
    """The transposition of an image's axes to ``(C, H, W)``, -1 for a channel axis to add; None if it is no image."""
    if space["type"] != "Box" or space["dtype"] != "uint8" or len(_shape_of(space)) not in (2, 3):
        return None
    if not (np.all(np.array(space["low"]) == 0) and np.all(np.array(space["high"]) == 255)):
        return None
    shape = _shape_of(space)
    if len(shape) == 2:
        return (-1, 0, 1)
    first = shape[0] * 4 <= min(shape[1:]) and shape[2] not in (1, 3, 4)
    return (0, 1, 2) if first else (2, 0, 1)


def _parts(space: Json) -> list[Json]:
    if space["type"] == "Dict":
        return [sub for _, sub in space["spaces"]]
    if space["type"] == "Tuple":
        return list(space["spaces"])
    raise BundleError(f"a space {space['type']!r:.40} is not known")


def _shape_of(space: Json) -> tuple[int, ...]:
    if space["type"] == "Box":
        return tuple(map(_size, space["shape"]))
    if space["type"] == "MultiDiscrete":
        return np.shape(space["nvec"])
    sizes = space["n"]
    return tuple(map(_size, sizes)) if isinstance(sizes, list) else (_size(sizes),)


def _size(value: Any) -> int:
    if type(value) not in (int, bool) or not 0 <= value <= LARGEST:
        raise BundleError(f"expected a whole number from 0 to {LARGEST:,}, got {value!r:.40}")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BundleError(f"expected a name, got {value!r:.40}")
    return value


def _bound(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(inner) for inner in value]
        return float(value) if isinstance(value, str) else value

    return np.broadcast_to(np.array(number(data), dtype=dtype), shape)


# --- writing an observation into a row --------------------------------------------------------------------------------


def _writer(space: Json, out: Array) -> Write:
    kind = space["type"]
    if kind in ("Box", "MultiBinary"):
        return _box_writer(_shape_of(space), out.reshape(_shape_of(space)))
    if kind == "Discrete":
        return _onehot_writer(np.array([space["start"]]), np.array([space["n"]]), out)
    if kind == "MultiDiscrete":
        return _onehot_writer(np.ravel(space["start"]), np.ravel(space["nvec"]), out)
    parts = _parts(space)
    ends = np.cumsum([flat_width(part) for part in parts], dtype=int)
    writers = [_writer(part, out[end - flat_width(part) : end]) for part, end in zip(parts, ends, strict=True)]
    if kind == "Tuple":
        return _tuple_writer(writers)
    return _dict_writer({key_of(key): write for (key, _), write in zip(space["spaces"], writers, strict=True)})


def key_of(key: Any) -> Any:
    """A key of a Dict space, which may be a tuple, from JSON."""
    return tuple(map(key_of, key["items"])) if isinstance(key, dict) else key


def _box_writer(shape: tuple[int, ...], out: Array) -> Write:
    def write(raw: Any) -> None:
        try:
            array = np.asarray(raw)
        except ValueError as error:
            raise ValueMismatch(f"expected an array of shape {shape}, got {type(raw).__name__} ({error})") from None
        if array.dtype.kind not in "biuf" or array.shape != shape:
            raise ValueMismatch(f"expected numbers of shape {shape}, got {array.dtype} of shape {array.shape}")
        out[...] = array

    return write


def _onehot_writer(starts: Array, sizes: Array, out: Array) -> Write:
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def write(raw: Any) -> None:
        chosen = np.asarray(raw).reshape(-1)
        if chosen.shape != sizes.shape or chosen.dtype.kind not in "biu":
            raise ValueMismatch(f"expected {len(sizes)} integers, got {raw!r:.80}")
        chosen = chosen - starts
        if (chosen < 0).any() or (chosen >= sizes).any():
            wanted = f"integers from {starts.tolist()} below {(starts + sizes).tolist()}"
            raise ValueMismatch(f"expected {wanted}, got {raw!r:.80}")
        out[...] = 0
        out[offsets + chosen] = 1

    return write


def _dict_writer(writers: Mapping[Any, Write]) -> Write:
    def write(raw: Any) -> None:
        if not isinstance(raw, Mapping) or raw.keys() != writers.keys():
            found = str(sorted(map(str, raw))) if isinstance(raw, Mapping) else type(raw).__name__
            raise ValueMismatch(f"expected a dictionary with keys {sorted(map(str, writers))}, got {found:.80}")
        for key, inner in writers.items():
            inner(raw[key])

    return write


def _tuple_writer(writers: Iterable[Write]) -> Write:
    each = list(writers)

    def write(raw: Any) -> None:
        if not isinstance(raw, (tuple, list)) or len(raw) != len(each):
            raise ValueMismatch(f"expected a tuple of {len(each)}, got {raw!r:.80}")
        for part, inner in zip(raw, each, strict=True):
            inner(part)

    return write
