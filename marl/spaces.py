"""Gymnasium spaces as arrays: an agent's observation as a padded row, its action as what the environment expects.

Vectors are laid out exactly as ``gymnasium.spaces.flatten`` does. Images (uint8 boxes over 0..255 of rank 2 or 3) stay
uint8 and become ``(C, H, W)``. All decisions about a space are taken once, when a codec is built; encoding a plain box
is one assignment into a view of the row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space

from marl.types import ActionSpec, Array, ConfigError, ObsSpec, TeamSpec, own_choices, valid_choices

MASK = "action_mask"
Writer = Callable[[Any], None]


class BadValue(Exception):
    """A value that does not fit its space: what was expected and what came."""

    def __init__(self, expected: str, got: str, mend: Literal["", "cast", "clip"] = "") -> None:
        """``mend``: what would make it fit: a cast (the dtype is too wide) or clipping (it is out of bounds)."""
        super().__init__(f"expected {expected}, got {got}")
        self.expected, self.got, self.mend = expected, got, mend


# --- observations ----------------------------------------------------------------------------------------------------


def has_mask(space: Space[Any]) -> bool:
    """Whether an observation is a dictionary that carries the agent's legal actions under ``"action_mask"``."""
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def without_mask(space: Space[Any]) -> Space[Any]:
    """The observation proper: the ``"observation"`` entry, or every entry but the mask where there are others."""
    if not isinstance(space, spaces.Dict) or MASK not in space.spaces:
        return space
    rest = {key: sub for key, sub in space.spaces.items() if key != MASK}
    if not rest:
        raise ConfigError(f"observation {space} holds an action mask and nothing else")
    return rest["observation"] if set(rest) == {"observation"} else spaces.Dict(rest)


def image_axes(space: Space[Any]) -> tuple[int, int, int] | None:
    """The transposition of an image's axes to ``(C, H, W)``, -1 for a channel axis to add; None if it is no image.

    An image is a uint8 box over 0..255 of rank 2 or 3. Channels are last unless the first axis is obviously theirs: at
    most a quarter of height and width, and the last axis is not 1, 3 or 4.
    """
    if not isinstance(space, Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return None
    if not (np.all(space.low == 0) and np.all(space.high == 255)):
        return None
    if len(space.shape) == 2:
        return (-1, 0, 1)
    channels_first = space.shape[0] * 4 <= min(space.shape[1:]) and space.shape[2] not in (1, 3, 4)
    return (0, 1, 2) if channels_first else (2, 0, 1)


def flat_width(space: Space[Any]) -> int:
    """Length of the observation as a vector. Raises ConfigError for spaces that are no fixed-length vector."""
    if isinstance(space, Box):
        return math.prod(space.shape)
    if isinstance(space, Discrete):
        return int(space.n)
    if isinstance(space, MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, MultiBinary):
        return math.prod(space.shape)
    if isinstance(space, spaces.Dict):
        return sum(flat_width(sub) for sub in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return sum(flat_width(sub) for sub in space.spaces)
    raise ConfigError(
        f"{type(space).__name__} has no fixed length; an observation may be Box, Discrete, MultiDiscrete, MultiBinary, "
        "Dict or Tuple: wrap the environment to give one of these"
    )


def entries(space: Space[Any]) -> list[str]:
    """What the entries of an observation vector are called, by the keys of dictionaries; none without such keys."""
    space = without_mask(space)
    return _entries(space, "") if isinstance(space, spaces.Dict) else []


def _entries(space: Space[Any], name: str) -> list[str]:
    if isinstance(space, spaces.Dict):
        parts = [(f"{name}.{key}" if name else str(key), sub) for key, sub in space.spaces.items()]
        return [one for key, sub in parts for one in _entries(sub, key)]
    if isinstance(space, spaces.Tuple):
        return [one for place, sub in enumerate(space.spaces) for one in _entries(sub, f"{name}.{place}")]
    width = flat_width(space)
    if isinstance(space, Discrete) and width > 1:
        return [f"{name} = {int(space.start) + place}" for place in range(width)]
    return [name] if width == 1 else [f"{name}[{place}]" for place in range(width)]


def _box_writer(shape: tuple[int, ...], out: Array) -> Writer:
    """Assign a box observation to a view of the same shape."""

    def write(raw: Any) -> None:
        if type(raw) is not np.ndarray or raw.shape != shape:
            raw = _as_box(raw, shape)
        out[...] = raw

    return write


def _as_box(raw: Any, shape: tuple[int, ...]) -> Array:
    """Accept what numpy understands (lists, scalars for shape ``()``, array subclasses), never broadcasting."""
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise BadValue(f"an array of shape {shape}", f"{type(raw).__name__} ({error})") from None
    if array.dtype.kind not in "biuf":
        raise BadValue(f"an array of shape {shape}", f"{raw!r:.80}")
    if array.shape != shape:
        raise BadValue(f"shape {shape}", f"shape {array.shape}")
    return array


def _onehot_writer(starts: Array, sizes: Array, out: Array) -> Writer:
    """Lay the one-hot codes of several choices end to end."""
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    count = len(sizes)

    def write(raw: Any) -> None:
        chosen = np.asarray(raw).reshape(-1)
        if chosen.shape != (count,) or chosen.dtype.kind not in "biu":
            raise BadValue(f"{count} integers", f"{raw!r:.80}")
        chosen = chosen - starts
        if (chosen < 0).any() or (chosen >= sizes).any():
            raise BadValue(f"integers from {starts.tolist()} below {(starts + sizes).tolist()}", f"{raw!r:.80}")
        out[...] = 0
        out[offsets + chosen] = 1

    return write


def _dict_writer(keys: Sequence[str], writers: Sequence[Writer]) -> Writer:
    """Write each entry of a dictionary, in the space's order, whatever the order of the dictionary."""
    names = set(keys)

    def write(raw: Any) -> None:
        if not isinstance(raw, Mapping) or raw.keys() != names:
            found = str(sorted(map(str, raw))) if isinstance(raw, Mapping) else type(raw).__name__
            raise BadValue(f"a dictionary with keys {sorted(map(str, names))}", found)
        for key, inner in zip(keys, writers, strict=True):
            inner(raw[key])

    return write


def _tuple_writer(writers: Sequence[Writer]) -> Writer:
    """Write each entry of a tuple."""

    def write(raw: Any) -> None:
        if not isinstance(raw, (tuple, list)) or len(raw) != len(writers):
            raise BadValue(f"a tuple of {len(writers)}", f"{raw!r:.80}")
        for part, inner in zip(raw, writers, strict=True):
            inner(part)

    return write


def observation_writer(space: Space[Any], out: Array) -> Writer:
    """A function that writes one raw observation of ``space`` into the vector ``out``, overwriting all of it."""
    if isinstance(space, Box):
        return _box_writer(space.shape, out.reshape(space.shape))
    if isinstance(space, Discrete):
        return _onehot_writer(np.array([space.start]), np.array([space.n]), out)
    if isinstance(space, MultiDiscrete):
        starts = np.broadcast_to(space.start, space.nvec.shape)
        return _onehot_writer(starts.reshape(-1).astype(np.int64), space.nvec.reshape(-1).astype(np.int64), out)
    if isinstance(space, MultiBinary):
        return _box_writer(space.shape, out.reshape(space.shape))
    if isinstance(space, spaces.Dict):
        return _dict_writer(list(space.spaces), _split(list(space.spaces.values()), out))
    if isinstance(space, spaces.Tuple):
        return _tuple_writer(_split(space.spaces, out))
    raise ConfigError(f"{type(space).__name__} has no fixed length")


def _split(parts: Sequence[Space[Any]], out: Array) -> list[Writer]:
    """Writers of several spaces into consecutive stretches of a vector."""
    ends = np.cumsum([flat_width(part) for part in parts], dtype=int)
    return [observation_writer(part, out[end - flat_width(part) : end]) for part, end in zip(parts, ends, strict=True)]


def check_member(space: Space[Any], raw: Any) -> None:
    """Raise BadValue unless ``raw`` lies in ``space``: stricter and more telling than ``space.contains``."""
    if isinstance(space, Box):
        array = _as_box(raw, space.shape)
        if isinstance(raw, (np.ndarray, np.generic)) and not np.can_cast(array.dtype, space.dtype):
            raise BadValue(f"dtype {space.dtype}", f"dtype {array.dtype}", mend="cast")
        wrong = (array < space.low) | (array > space.high)
        if wrong.any():
            where = np.unravel_index(int(wrong.argmax()), wrong.shape) if wrong.shape else ()
            at = f" at {list(map(int, where))}" if wrong.shape else ""
            raise BadValue(f"values in [{space.low[where]:g}, {space.high[where]:g}]{at}", f"{array[where]:g}", "clip")
    elif isinstance(space, spaces.Dict) and isinstance(raw, Mapping):
        for key, sub in space.spaces.items():
            if key not in raw:
                raise BadValue(f"key {key!r}", f"keys {sorted(map(str, raw))}")
            check_member(sub, raw[key])
    elif isinstance(space, spaces.Tuple) and isinstance(raw, (tuple, list)) and len(raw) == len(space.spaces):
        for sub, part in zip(space.spaces, raw, strict=True):
            check_member(sub, part)
    elif not space.contains(raw):
        raise BadValue(f"a member of {space}", f"{raw!r:.80}")


def vector_bounds(team: TeamSpec) -> tuple[Array, Array]:
    """Lowest and highest values of each agent's vector, ``(N, O)``. Dead agents' zeros count as inside."""
    low, high = (np.zeros((team.num_agents, *team.obs.shape), dtype=np.float32) for _ in range(2))
    for n, raw in enumerate(team.observation_spaces):
        parts = [(np.zeros(0), np.zeros(0)), *leaf_bounds(without_mask(raw))]
        with np.errstate(over="ignore"):  # beyond float32 there is no bound
            low[n, : team.obs.widths[n]] = np.minimum(np.concatenate([part for part, _ in parts]), 0)
            high[n, : team.obs.widths[n]] = np.maximum(np.concatenate([part for _, part in parts]), 0)
    return low, high


def leaf_bounds(space: Space[Any]) -> Iterator[tuple[Array, Array]]:
    """Lowest and highest values of every part of a vector, in order."""
    if isinstance(space, Box):
        yield space.low.reshape(-1), space.high.reshape(-1)
    elif isinstance(space, spaces.Dict):
        for part in space.spaces.values():
            yield from leaf_bounds(part)
    elif isinstance(space, spaces.Tuple):
        for part in space.spaces:
            yield from leaf_bounds(part)
    else:
        yield np.zeros(flat_width(space)), np.ones(flat_width(space))


def obs_spec(agents: Sequence[str], observation_spaces: Sequence[Space[Any]]) -> ObsSpec:
    """Pad a team's observations together: vectors to the widest; images only beside images of their own shape."""
    shapes: list[tuple[int, ...]] = []
    for agent, raw in zip(agents, observation_spaces, strict=True):
        space = without_mask(raw)
        axes = image_axes(space)
        try:
            shape = space.shape or ()
            shapes.append(
                (flat_width(space),) if axes is None else tuple(1 if axis < 0 else shape[axis] for axis in axes)
            )
        except ConfigError as error:
            raise ConfigError(f"agent {agent!r}: {error}") from None
    for agent, shape in zip(agents, shapes, strict=True):
        if len(shape) != len(shapes[0]):
            raise ConfigError(_clash(agents[0], agent, "an image beside a vector", shapes[0], shape))
        if len(shape) == 3 and shape != shapes[0]:
            raise ConfigError(_clash(agents[0], agent, "images of different shapes", shapes[0], shape))
    widths = tuple(math.prod(shape) for shape in shapes)
    if len(shapes[0]) == 3:
        return ObsSpec(shapes[0], "uint8", widths)
    return ObsSpec((max(widths),), "float32", widths)


def _clash(first: str, second: str, what: str, one: object, other: object) -> str:
    return (
        f"agents {first!r} ({one}) and {second!r} ({other}) cannot be padded together: {what}. "
        f'Put them in two teams, e.g. {{"{first}": ..., "{second}": ...}}'
    )


# --- actions ---------------------------------------------------------------------------------------------------------


def _action_kind(agent: str, space: Space[Any]) -> str:
    if isinstance(space, Discrete):
        return "discrete"
    if isinstance(space, MultiDiscrete):
        return "multidiscrete"
    if isinstance(space, MultiBinary):
        return "multibinary"
    if isinstance(space, Box):
        return "box"
    reason = (
        "no policy head draws a joint choice from several spaces"
        if isinstance(space, (spaces.Dict, spaces.Tuple))
        else "it has no fixed length"
    )
    raise ConfigError(
        f"agent {agent!r}: action space {space} is not supported ({reason}); "
        "wrap the environment to take one Discrete, MultiDiscrete, MultiBinary or Box action"
    )


def action_spec(agents: Sequence[str], action_spaces: Sequence[Space[Any]]) -> ActionSpec:
    """Pad a team's actions together. Agents of one team must share the kind of action.

    Components that only wider agents have are always 0 (see `ActionSpec`). Boxes may be unbounded
    (``-inf``, ``inf``): a plain Gaussian can act there, a squashed one cannot. The largest number of float32, or of the
    box's own type, is another way to write infinity.
    """
    kinds = [_action_kind(agent, space) for agent, space in zip(agents, action_spaces, strict=True)]
    for agent, kind, space in zip(agents, kinds, action_spaces, strict=True):
        if kind != kinds[0]:
            raise ConfigError(_clash(agents[0], agent, f"{kinds[0]} beside {kind} actions", action_spaces[0], space))
    if not any(space.shape is None or math.prod(space.shape) for space in action_spaces):
        raise ConfigError(
            f"agent {agents[0]!r}: action space {action_spaces[0]} has no component, so there is nothing to learn; "
            "give it Discrete(1), or one team with agents that have something to decide"
        )
    if kinds[0] == "discrete":
        widths = tuple(_choices(space).pop() for space in action_spaces)
        return ActionSpec("discrete", (max(widths),), widths)
    if kinds[0] == "box":
        lengths = tuple(math.prod(space.shape or ()) for space in action_spaces)
        width = max(lengths)
        low = tuple(_padded_bound(space.low, width) for space in action_spaces if isinstance(space, Box))
        high = tuple(_padded_bound(space.high, width) for space in action_spaces if isinstance(space, Box))
        return ActionSpec("box", (), lengths, low, high)
    choices = [_choices(space) for space in action_spaces]
    longest = max(map(len, choices))
    sizes = tuple(max(row[a] for row in choices if a < len(row)) for a in range(longest))
    if kinds[0] == "multibinary":
        return ActionSpec("multibinary", sizes, tuple(map(len, choices)))
    return ActionSpec("multidiscrete", sizes, tuple(map(len, choices)))


def _padded_bound(bound: Array, width: int) -> tuple[float, ...]:
    # Actions are float32: numbers at its end are no scale that a policy could have.
    largest = float(np.finfo(np.float32).max)
    if np.issubdtype(bound.dtype, np.floating):
        largest = min(largest, float(np.finfo(bound.dtype).max))
    numbers = [math.copysign(math.inf, x) if abs(x) >= largest else x for x in map(float, bound.reshape(-1))]
    return (*numbers, *[0.0] * (width - bound.size))


def _choices(space: Space[Any]) -> list[int]:
    """Number of choices of each component of a countable action."""
    if isinstance(space, Discrete):
        return [int(space.n)]
    if isinstance(space, MultiDiscrete):
        return [int(n) for n in space.nvec.reshape(-1)]
    return [2] * math.prod(space.shape or ())


def base_action_mask(action: ActionSpec, action_spaces: Sequence[Space[Any]]) -> Array:
    """The choices each agent truly has, ``(N, L)``; of a padded component the first (see `valid_choices`)."""
    action_mask = valid_choices(action)
    if action.kind == "multidiscrete":
        for row, space in zip(action_mask, action_spaces, strict=True):
            offset = 0
            for size, true in zip(action.sizes, _choices(space), strict=False):
                row[offset + true : offset + size] = False
                offset += size
    return action_mask


def team_spec(
    name: str,
    agents: Sequence[str],
    observation_spaces: Sequence[Space[Any]],
    action_spaces: Sequence[Space[Any]],
    info_masks: bool = False,
) -> TeamSpec:
    """A team's padded spaces. ``info_masks``: legal actions come in ``info["action_mask"]``."""
    obs, action = obs_spec(agents, observation_spaces), action_spec(agents, action_spaces)
    countable = action.kind != "box"
    padded = countable and not base_action_mask(action, action_spaces).all()
    masked = countable and (info_masks or any(map(has_mask, observation_spaces)))
    return TeamSpec(name, tuple(agents), obs, action, tuple(observation_spaces), tuple(action_spaces), masked or padded)


def action_decoder(space: Space[Any]) -> Callable[[Any], Any]:
    """From one agent's (padded) array action to what ``env.step`` takes: int for Discrete, an array otherwise.

    Box actions are clipped once more in the space's own precision: float32 rounds 0.1 above a float64 bound of 0.1.
    What comes back can be pickled, and so can an agent that holds it.
    """
    if isinstance(space, Discrete):
        return partial(_decode_choice, int(space.start)) if space.start else int
    shape, dtype = space.shape or (), space.dtype
    width = math.prod(shape)
    if isinstance(space, Box):
        if np.issubdtype(dtype, np.integer):
            low, high = space.low.astype(np.float64), space.high.astype(np.float64)
            # Rounded to a float the largest int64 is one that no int64 can be: the next below it is.
            high = np.where(high.astype(object) > space.high, np.nextafter(high, 0), high)
            return partial(_decode_whole, low, high, width, dtype)
        return partial(_decode_box, space.low, space.high, width)
    if isinstance(space, MultiDiscrete) and np.any(space.start):
        return partial(_decode_shifted, space.start, width, dtype)
    return partial(_decode_array, shape, width, dtype)


def _decode_choice(start: int, action: Any) -> int:
    return int(action) + start


def _decode_box(low: Array, high: Array, width: int, action: Any) -> Array:
    array = np.asarray(action)[:width].reshape(low.shape).astype(low.dtype)
    clipped: Array = np.minimum(np.maximum(array, low), high)
    return clipped.astype(low.dtype, copy=False)


def _decode_whole(low: Array, high: Array, width: int, dtype: Any, action: Any) -> Array:
    array = np.rint(np.asarray(action)[:width].reshape(low.shape))
    clipped: Array = np.minimum(np.maximum(array, low), high)
    return clipped.astype(dtype)


def _decode_shifted(start: Array, width: int, dtype: Any, action: Any) -> Array:
    shifted: Array = np.asarray(action)[:width].reshape(start.shape) + start
    return shifted.astype(dtype, copy=False)


def _decode_array(shape: tuple[int, ...], width: int, dtype: Any, action: Any) -> Array:
    array: Array = np.asarray(action)[:width].reshape(shape).astype(dtype)
    return array


# --- one agent -------------------------------------------------------------------------------------------------------


class AgentCodec:
    """One agent of a team: its raw observation, mask and action to and from the team's padded arrays."""

    def __init__(self, team: TeamSpec, index: int) -> None:
        """For agent ``team.agents[index]``."""
        self.agent = team.agents[index]
        self.raw_space = team.observation_spaces[index]
        self.space = without_mask(self.raw_space)
        self.masked = team.masked
        self.countable = team.action.kind != "box"
        self.obs = team.obs
        self.width = team.obs.widths[index]
        self.base_action_mask: Array = base_action_mask(team.action, team.action_spaces)[index]
        self.true_choices = np.flatnonzero(self._component_width(team, index))  # where the agent's own mask goes
        self.action_space = team.action_spaces[index]
        self.decode = action_decoder(self.action_space)
        self._dict = has_mask(self.raw_space)
        self._entry = self._dict and set(self.raw_space.spaces) == {"observation", MASK}  # type: ignore[attr-defined]

    def _component_width(self, team: TeamSpec, index: int) -> Array:
        """Choices that are the agent's own: neither a wider agent's choices nor padded components."""
        own: Array = self.base_action_mask & own_choices(team.action)[index]
        return own

    def writer(self, row: Array) -> Writer:
        """A function that writes a raw observation (mask included) into one row ``(*O)`` of a team's array."""
        axes = image_axes(self.space)
        if axes is None:
            write = observation_writer(self.space, row[: self.width])
        else:
            shape = self.space.shape or ()
            channel_axis = [axis for axis in axes if axis >= 0]
            image = row[0] if len(shape) == 2 else row.transpose(np.argsort(channel_axis))
            write = _box_writer(shape, image)
        if not self._dict:
            return write
        strip = self._strip
        return lambda raw: write(strip(raw))

    def _strip(self, raw: Any) -> Any:
        """The observation without its mask."""
        if not isinstance(raw, Mapping):
            raise BadValue(f"a dictionary with {MASK!r}", type(raw).__name__)
        if not self._entry:
            return {key: value for key, value in raw.items() if key != MASK}
        if "observation" not in raw:
            raise BadValue("key 'observation'", f"keys {sorted(map(str, raw))}")
        return raw["observation"]

    def check(self, raw: Any) -> None:
        """Raise BadValue unless the observation (without its mask) lies in its space."""
        check_member(self.space, self._strip(raw) if self._dict else raw)

    def action_mask(self, raw: Any, info: Mapping[str, Any] | None, out: Array) -> None:
        """Write the agent's legal choices ``(L,)``: from the observation, or from ``info`` (none: all its own)."""
        mask = None
        if self._dict and isinstance(raw, Mapping):
            mask = raw.get(MASK)
            if mask is None:
                raise BadValue(f"a mask of {len(self.true_choices)} zeros and ones", "none, which its space promises")
        elif info is not None:
            mask = info.get(MASK)
        if mask is None:
            out[...] = self.base_action_mask
            return
        if isinstance(mask, tuple):
            mask = np.concatenate([np.ravel(part) for part in mask])
        mask = np.asarray(mask)
        own = self.true_choices
        if mask.shape != (len(own),):
            raise BadValue(f"a mask of {len(own)} zeros and ones", f"shape {mask.shape}")
        chosen = mask.astype(bool)
        if not np.array_equal(chosen, mask):
            raise BadValue("a mask of zeros and ones", f"{mask.tolist()!r:.80}")
        if not chosen.any():
            raise BadValue("a mask with a legal action", "all zeros")
        out[...] = self.base_action_mask
        out[own] = chosen

    def encode(self, raw: Any, info: Mapping[str, Any] | None = None) -> tuple[Array, Array | None]:
        """A fresh padded observation ``(*O)`` and legal row ``(L,)`` (None where the team has no masks)."""
        row = np.zeros(self.obs.shape, dtype=self.obs.dtype)
        self.writer(row)(raw)
        if not self.masked:
            return row, None
        action_mask = self.base_action_mask.copy()
        self.action_mask(raw, info, action_mask)
        return row, action_mask
