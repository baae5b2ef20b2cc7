"""Shapes of everything that a program computes, before it computes anything: what does not fit is refused here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from marl_runtime.program import ACTIVATIONS, Program, ProgramError, Stage

Shape = tuple[int, ...]
LARGEST = 2**24  # numbers in one array


def _require(right: bool) -> None:
    if not right:
        raise ValueError


def _layer(x: Shape, weight: Shape, bias: Shape, activation: str = "none") -> Shape:
    _require(len(weight) == 2 and x[-1:] == weight[:1] and bias == weight[1:] and activation in ACTIVATIONS)
    return (*x[:-1], weight[1])


def _product(a: Shape, b: Shape) -> Shape:
    _require(len(a) == len(b) == 2 and a[1] == b[0])
    return (a[0], b[1])


def _convolution(x: Shape, kernel: Shape, bias: Shape, stride: int, activation: str = "none") -> Shape:
    out, channels, height, width = kernel
    _require(len(x) == 3 and x[0] == channels and bias == (out,) and stride >= 1 and activation in ACTIVATIONS)
    rows, columns = (x[1] - height) // stride + 1, (x[2] - width) // stride + 1
    _require(0 < height <= x[1] and 0 < width <= x[2])
    return (out, rows, columns)


def _gates(count: int, after: int) -> Callable[..., Shape]:
    def gates(given: Shape, own: Shape, state: Shape) -> Shape:
        (width,) = state
        _require(given == own == (count * width,))
        return (after * width,)

    return gates


def _heard(message: Shape, weight: Shape) -> Shape:
    _require(len(message) == 2 and weight == message[:1])
    return message[1:]


def _attention(query: Shape, message: Shape, weight: Shape) -> Shape:
    _require(len(query) == 1 and weight == message[:1] and message[1] > query[0] > 0)
    return (message[1] - query[0],)


def _graph_attention(query: Shape, message: Shape, weight: Shape) -> Shape:
    _require(weight == message[:1] and query[0] > 0 and message[1] % query[0] == 0)
    return (message[1] - query[0],)


def _equal(*shapes: Shape) -> Shape:
    _require(len(set(shapes)) == 1)
    return shapes[0]


def _broadcast(*shapes: Shape) -> Shape:
    return np.broadcast_shapes(*shapes)


def _masked_bits(logits: Shape, mask: Shape) -> Shape:
    _require(len(logits) == 1 and mask == (2 * logits[0],))
    return logits


def _concat(*parts: Shape) -> Shape:
    _require(len({part[:-1] for part in parts}) == 1 and all(parts))
    return (*parts[0][:-1], sum(part[-1] for part in parts))


def _slice(x: Shape, start: int, stop: int) -> Shape:
    _require(0 <= start <= stop <= x[-1])
    return (*x[:-1], stop - start)


def _flatten(x: Shape, axes: int) -> Shape:
    _require(1 <= axes <= len(x))
    return (*x[: len(x) - axes], math.prod(x[len(x) - axes :]))


def _unflatten(x: Shape, shape: Sequence[int]) -> Shape:
    _require(all(size > 0 for size in shape) and math.prod(shape) == x[-1])
    return (*x[:-1], *shape)


def _mean(x: Shape, axis: int) -> Shape:
    _require(axis < 0 and x[axis] > 0)
    kept = list(x)
    kept[axis] = 1
    return tuple(kept)


def _network(x: Shape, number: int, size: int) -> Shape:
    _require(len(x) == 1 and number >= 0 and size > 0)
    return (size,)


RULES: dict[str, Callable[..., Shape]] = {
    "layer": _layer,
    "product": _product,
    "convolution": _convolution,
    "gru": _gates(3, 1),
    "lstm": _gates(4, 2),
    "mean_heard": _heard,
    "sum_heard": _heard,
    "attention": _attention,
    "graph_attention": _graph_attention,
    "clip": _broadcast,
    "concat": _concat,
    "slice": _slice,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "mean": _mean,
    "squeeze": lambda x: x[:-1] if x[-1] > 0 else _flatten((), 1),
    "choose": _broadcast,
    "mask": _equal,
    "mask_bits": _masked_bits,
    "gumbel": _equal,
    "argmax": lambda x: x[:-1] if x[-1] > 0 else _flatten((), 1),
    "network": _network,  # of a user's own, which the policy's ONNX graph has
    "stack": lambda *parts: (*_equal(*parts), len(parts)),
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "above"), _broadcast),
    **dict.fromkeys(("exp", "tanh", "sigmoid", "softmax", "image", "whole"), _equal),
}


def shapes_of(program: Program) -> dict[str, Shape]:
    """The shape of every value of a program, its action's by each head as ``"action"``.

    Raises:
        ProgramError: for an unknown operation, names that nothing computes, arrays that do not fit or are too large.
    """
    shapes = {name: tuple(shape) for name, shape in program.inputs.items()}
    shapes |= {name: np.shape(value) for name, value in program.constants.items()}
    for name, shape in shapes.items():
        if math.prod(shape) > LARGEST:
            raise ProgramError(f"{name!r} has the shape {shape!s:.80}; at most {LARGEST:,} numbers are taken")
    for stage in (*program.stages, *program.heads.values()):
        _add_stage(shapes, stage)
    actions = {shapes[head.results["action"]] for head in program.heads.values()}
    if len(actions) != 1:
        raise ProgramError(f"expected one shape of actions, got {sorted(actions)!s:.80}")
    return shapes | {"action": actions.pop()}


def _add_stage(shapes: dict[str, Shape], stage: Stage) -> None:
    for kind, out, inputs, settings in stage.operations:
        rule = RULES.get(kind)
        if rule is None:
            raise ProgramError(f"unknown operation {kind!r:.80}; a newer version may know it")
        missing = next((name for name in inputs if name not in shapes), None)
        if missing is not None:
            raise ProgramError(f"operation {kind!r} reads {missing!r:.80}, which nothing before it computes")
        given = [shapes[name] for name in inputs]
        try:
            shape = rule(*given, **settings)
        except (TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError):
            raise ProgramError(f"operation {kind!r}: shapes {given!s:.80} with {_brief(settings)} do not fit") from None
        if math.prod(shape) > LARGEST:
            raise ProgramError(f"operation {kind!r} makes the shape {shape!s:.80}; {LARGEST:,} numbers are the most")
        shapes[out] = shape
    missing = next((value for value in stage.results.values() if value not in shapes), None)
    if missing is not None:
        raise ProgramError(f"result {missing!r:.80} is computed by no operation")


def _brief(settings: Mapping[str, Any]) -> str:
    return f"settings {dict(settings)!s:.80}"
