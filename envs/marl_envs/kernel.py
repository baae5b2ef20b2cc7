"""Compiled stepping: random streams, the loop over copies with same-step autoreset, and how a world binds to it.

A world writes plain functions about *one copy* ``e`` (``reset``, ``step``, ``observe``, ...) under ``@kernel``.
`compile_loop` puts them into the one loop below, so autoreset, time limits, deaths, returns and finished episodes are
written (and right) in one place, and one call from Python steps all copies.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from marl.types import Array

RUNNING, TERMINATED, TRUNCATED = 0, 1, 2  # what a world's step returns
STEP, STEP_ONLY, RESTART, OBSERVE = 0, 1, 2, 3  # modes of the loop: with and without autoreset, start over, look again

# Kernels own no memory, so reference counting is off (`_nrt`): 1 million to 2 million steps/s of spread at 256 copies;
# inlining every function into the loop made that 8 million. Nothing calls from C: no wrapper, a sixth less to compile.
# No fast maths: the twins must equal their originals, and an unstable system blows up the last bit of a double.

_OPTIONS: Any = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function about one copy; it is inlined into the loop over copies, which is what gets cached on disk."""
    return numba.njit(function, forceinline=True, **_OPTIONS)


def stream(seed: int, copy: int) -> np.uint64:
    """Where the random stream of one copy starts; depends on ``(seed, copy)`` and nothing else."""
    return np.uint64(np.random.SeedSequence([seed, copy]).generate_state(1, np.uint64)[0])


@kernel
def random_bits(rng: Array, e: int) -> int:
    """Next 64 random bits of copy ``e`` (splitmix64: Steele, Lea, Flood 2014): one word of state per copy."""
    rng[e] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[e]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))  # type: ignore[no-any-return]


@kernel
def uniform(rng: Array, e: int, low: float, high: float) -> float:
    """Uniform in ``[low, high)`` with 53 random bits, from the stream of copy ``e``."""
    return low + (high - low) * (float(random_bits(rng, e) >> np.uint64(11)) * 2.0**-53)


@kernel
def integers(rng: Array, e: int, count: int) -> int:
    """Uniform in ``0 .. count - 1``, from the stream of copy ``e`` (bias below ``count / 2**53``)."""
    return int(float(random_bits(rng, e) >> np.uint64(11)) * 2.0**-53 * count)


@dataclass(frozen=True)
class Kernels:
    """A world's functions about one copy ``e``; ``s`` is what `World.allocate` made. First axis of all arrays: copies.

    reset(s, e, task, rng)                  start an episode
    step(s, e, task, rng, action, reward)   move on, write ``reward[e, n]``, return RUNNING, TERMINATED or TRUNCATED
    observe(s, e, task, obs)                write ``obs[e, n]``; the padding beyond an agent's width stays zero
    acting(s, e, task, acting)              optional: write ``acting[e, n]``; else all act until the episode ends
    action_mask(s, e, task, action_mask)    optional: write ``action_mask[e, n, action]``
    state(s, e, task, state)                optional: write ``state[e]``; without it the observations laid end to end
    info(s, e, task, info)                  optional: write ``info[e]`` as an episode ends, named by `World.info_names`
    """

    reset: Any
    step: Any
    observe: Any
    acting: Any = None
    action_mask: Any = None
    state: Any = None
    info: Any = None


@kernel
def _nothing(s: Any, e: int, task: Array, out: Any) -> None:
    """Stand-in for an optional kernel."""


@kernel
def _valid_choice(actions: Array, e: int, n: int, choices: Array) -> bool:
    return 0 <= actions[e, n] < choices[n]  # type: ignore[no-any-return]


@kernel
def _valid_vector(actions: Array, e: int, n: int, choices: Array) -> bool:
    finite = True
    for a in range(choices[n]):
        finite &= np.isfinite(actions[e, n, a])
    return finite


# Stand-ins for what compile_loop puts into the loop: a world's functions, and which of the optional ones it has.
valid: Any = _valid_choice
reset: Any = _nothing
step: Any = _nothing
observe: Any = _nothing
write_acting: Any = _nothing
write_action_mask: Any = _nothing
write_state: Any = _nothing
write_info: Any = _nothing
HAS_ACTING = HAS_ACTION_MASK = HAS_STATE = JOIN_STATE = False


def _loop(
    mode: int,
    actions: Array,
    s: Any,
    task: Array,
    pending: Array,
    rng: Array,
    clock: Array,
    returns: Array,
    ended: Array,
    info: Array,
    choices: Array,
    widths: Array,
    obs: Array,
    next_obs: Array,
    reward: Array,
    terminated: Array,
    truncated: Array,
    acting: Array,
    action_mask: Any,
    next_action_mask: Any,
    started: Array,
    state: Any,
    next_state: Any,
) -> int:
    """Step or start all copies; returns how many episodes ended, or minus one minus the index of a bad action."""
    num_envs, num_agents = reward.shape
    if mode <= STEP_ONLY:
        for e in range(num_envs):
            for n in range(num_agents):
                if acting[e, n] and not valid(actions, e, n, choices):
                    return -1 - (e * num_agents + n)  # type: ignore[no-any-return]
    count = 0
    for e in range(num_envs):
        fresh = mode == RESTART
        if mode <= STEP_ONLY:
            started[e] = False
            code = step(s, e, task, rng, actions, reward)
            clock[e] += 1
            if code == RUNNING and clock[e] >= task[e, task.shape[1] - 1]:
                code = TRUNCATED
            if HAS_ACTING:
                for n in range(num_agents):  # remember who lived, in the flag that the living do not need yet
                    terminated[e, n] = acting[e, n]
                write_acting(s, e, task, acting)
                anybody = False
                for n in range(num_agents):
                    returns[e, n] += reward[e, n]
                    anybody |= acting[e, n]
                    lived = terminated[e, n]
                    died = lived and not acting[e, n]
                    truncated[e, n] = lived and not died and code == TRUNCATED
                    terminated[e, n] = died or (lived and code == TERMINATED)
                if code == RUNNING and not anybody:
                    code = TERMINATED
            else:
                for n in range(num_agents):
                    returns[e, n] += reward[e, n]
                    acting[e, n] = True
                    terminated[e, n] = code == TERMINATED
                    truncated[e, n] = code == TRUNCATED
            if code != RUNNING:
                ended[count, 0] = e
                ended[count, 1] = clock[e]
                for n in range(num_agents):
                    ended[count, 2 + n] = returns[e, n]
                write_info(s, e, task, info)
                for k in range(info.shape[1]):
                    ended[count, 2 + num_agents + k] = info[e, k]
                for k in range(task.shape[1]):
                    ended[count, 2 + num_agents + info.shape[1] + k] = task[e, k]
                count += 1
                if mode == STEP:
                    fresh = True
                else:
                    for n in range(num_agents):
                        acting[e, n] = False
        final = fresh and mode == STEP
        # Two looks at a copy whose episode ended: the true successor, then the first observation of the next episode.
        # One loop rather than two calls: everything is inlined, and compiling a world's observe twice costs seconds.
        for look in range(2 if final else 1):
            seen, seen_action_mask, seen_state = obs, action_mask, state
            if final and look == 0:
                seen, seen_action_mask, seen_state = next_obs, next_action_mask, next_state
            elif fresh:
                for k in range(task.shape[1]):
                    task[e, k] = pending[e, k]
                clock[e] = 0
                for n in range(num_agents):
                    returns[e, n] = 0.0
                    acting[e, n] = True
                started[e] = True
                reset(s, e, task, rng)
                write_acting(s, e, task, acting)
            observe(s, e, task, seen)
            if HAS_ACTING:
                for n in range(num_agents):
                    shown = acting[e, n]
                    if mode == STEP_ONLY or (final and look == 0):
                        shown = shown or terminated[e, n] or truncated[e, n]
                    if not shown:
                        _clear(seen, e * num_agents + n, num_envs * num_agents)
            if JOIN_STATE:
                _join(e, seen, widths, seen_state)
            write_state(s, e, task, seen_state)
            write_action_mask(s, e, task, seen_action_mask)
            if HAS_ACTION_MASK:
                for n in range(num_agents):
                    if not acting[e, n]:
                        for k in range(choices[n]):
                            seen_action_mask[e, n, k] = True
    if count > 0 and mode == STEP:
        for e in range(num_envs):
            if not started[e]:
                _copy(obs, next_obs, e, num_envs)
                if HAS_ACTION_MASK:
                    _copy(action_mask, next_action_mask, e, num_envs)
                if HAS_STATE:
                    _copy(state, next_state, e, num_envs)
    return count


@kernel
def _copy(source: Array, target: Array, row: int, rows: int) -> None:
    """One of ``rows`` equal parts of an array of any shape, from source to target."""
    size = source.size // rows
    for k in range(row * size, (row + 1) * size):
        target.flat[k] = source.flat[k]


@kernel
def _clear(target: Array, row: int, rows: int) -> None:
    """One of ``rows`` equal parts of an array of any shape, to zero."""
    size = target.size // rows
    for k in range(row * size, (row + 1) * size):
        target.flat[k] = 0


@kernel
def _join(e: int, obs: Array, widths: Array, state: Array) -> None:
    """The observations of all agents laid end to end, without their padding."""
    k = 0
    for n in range(widths.shape[0]):
        for i in range(widths[n]):
            state[e, k] = obs[e, n, i]
            k += 1


def compile_loop(kernels: Kernels, name: str, module: str, filename: str, *, box: bool, join_state: bool) -> Any:
    """The loop over copies with a world's functions bound in: one dispatcher, cached on disk beside the world's file.

    numba caches by file, name and bytecode, and looks at one file's time stamp. So the bound loop gets the world's
    file and name, and the stamp of every source it was built from: editing a shared file must not bring back old code.
    """
    optional = {f"write_{key}": getattr(kernels, key) for key in ("acting", "action_mask", "state", "info")}
    bound: dict[str, Any] = {
        **_loop.__globals__,
        **{key: _nothing if function is None else function for key, function in optional.items()},
        "reset": kernels.reset,
        "step": kernels.step,
        "observe": kernels.observe,
        "valid": _valid_vector if box else _valid_choice,
        "HAS_ACTING": kernels.acting is not None,
        "HAS_ACTION_MASK": kernels.action_mask is not None,
        "JOIN_STATE": join_state,
        "HAS_STATE": join_state or kernels.state is not None,
        "__name__": module,
    }
    title = f"{name}_{'box' if box else 'discrete'}_{'joined' if join_state else 'plain'}"
    code = _loop.__code__.replace(co_filename=filename, co_name=title, co_qualname=title)
    function = types.FunctionType(code, bound, title)
    function.__module__ = module
    compiled: Any = numba.njit(function, cache=True, **_OPTIONS)
    cache_file = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        digest = hashlib.sha256()
        functions = [f for f in vars(kernels).values() if f is not None]
        for path in sorted({__file__, filename, *(source for f in functions for source in _sources(f, set()))}):
            digest.update(Path(path).read_bytes() if Path(path).exists() else path.encode())
        cache_file._source_stamp = digest.hexdigest()
        # Read first: the rest may name classes that are gone.
        cache_file._version = f"{cache_file._version} {cache_file._source_stamp}"
    return compiled


def _sources(dispatcher: Any, seen: set[int]) -> Iterator[str]:
    """The files of a compiled function and of all compiled functions that it calls."""
    if id(dispatcher) in seen:
        return
    seen.add(id(dispatcher))
    function = dispatcher.py_func
    yield function.__code__.co_filename
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if hasattr(value, "py_func"):
            yield from _sources(value, seen)
