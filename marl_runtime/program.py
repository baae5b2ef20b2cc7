"""A policy as a program: named operations in order, computed with numpy.

Arrays have no batch axis or any number of them in front: an operation works on the last axes. The same program becomes
an ONNX graph and runs in a browser; an operation is added here, in ``marl.deploy.onnx`` and in ``runtime.js``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
ILLEGAL = np.float32(-1e9)  # what a logit of an illegal choice becomes
HALF = np.float32(0.5)
Compiled = tuple[list[tuple[Callable[..., Array], int, tuple[int, ...]]], dict[str, int]]  # steps, places of results


class Operation(NamedTuple):
    """One step of a program: ``out = kind(*inputs, **settings)``."""

    kind: str
    out: str
    inputs: tuple[str, ...]
    settings: Mapping[str, Any]


class Stage(NamedTuple):
    """Operations up to a point where results leave the program: ``results`` maps their public names to values."""

    operations: tuple[Operation, ...]
    results: Mapping[str, str]


class Program(NamedTuple):
    """A policy of one agent: inputs with their shapes, constants, stages between which messages are exchanged, heads.

    Heads make an action of the last stage's ``parameters``: ``"greedy"``, ``"sample"``, and ``"..._masked"`` of both.
    """

    inputs: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Array]
    stages: tuple[Stage, ...]
    heads: Mapping[str, Stage]


class ProgramError(ValueError):
    """A program that cannot be run: an unknown operation, a missing name, arrays that do not fit."""


# --- operations -------------------------------------------------------------------------------------------------------


def _erf(x: Array) -> Array:
    """Error function to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26), computed in doubles."""
    wide = np.abs(x).astype(np.float64)
    t = 1 / (1 + 0.3275911 * wide)
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    found: Array = (np.sign(x) * (1 - tail * np.exp(-wide * wide))).astype(np.float32)
    return found


def _sigmoid(x: Array) -> Array:
    y: Array = np.tanh(x * HALF) * HALF + HALF  # which does not overflow
    return y


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "tanh": lambda x: np.tanh(x, x),
    "relu": lambda x: np.maximum(x, np.float32(0), out=x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * HALF * (1 + _erf(x * np.float32(math.sqrt(0.5)))),
    "silu": lambda x: x * _sigmoid(x),
}


def _layer(activation: str = "none") -> Callable[..., Array]:
    activate = ACTIVATIONS[activation]

    def layer(x: Array, weight: Array, bias: Array) -> Array:
        y = x.dot(weight)
        y += bias
        return activate(y)

    return layer


def _convolution(x: Array, kernel: Array, bias: Array, stride: int, activation: str = "none") -> Array:
    out, channels, height, width = kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(-2, -1))
    windows = np.moveaxis(windows[..., ::stride, ::stride, :, :], -5, -3)  # (..., H', W', C, h, w)
    rows = windows.reshape(*windows.shape[:-3], channels * height * width)
    y = np.moveaxis(rows @ kernel.reshape(out, -1).T + bias, -1, -3)
    return ACTIVATIONS[activation](np.ascontiguousarray(y))


def _gru(given: Array, own: Array, hidden: Array) -> Array:
    """``given`` and ``own``: products of the input and of the hidden state with the gates' weights, ``r z n``."""
    width = hidden.shape[-1]
    gates = _sigmoid(given[..., : 2 * width] + own[..., : 2 * width])
    candidate = np.tanh(given[..., 2 * width :] + gates[..., :width] * own[..., 2 * width :])
    after: Array = candidate + gates[..., width:] * (hidden - candidate)
    return after


def _lstm(given: Array, own: Array, cell: Array) -> Array:
    """The next ``[h, c]``; gates in the order ``i f g o``."""
    width = cell.shape[-1]
    gates = given + own
    opened = _sigmoid(gates)
    after = opened[..., width : 2 * width] * cell
    after += opened[..., :width] * np.tanh(gates[..., 2 * width : 3 * width])
    return np.concatenate((opened[..., 3 * width :] * np.tanh(after), after), axis=-1)


def _shares(score: Array, weight: Array) -> Array:
    """Softmax over those heard, each counted by its weight; zeros where nobody is."""
    heard = weight > 0
    top = np.where(heard, score, -np.inf).max(axis=-1, keepdims=True)
    share = weight * np.exp(np.where(heard, score - np.where(top > -np.inf, top, 0), 0))
    total = share.sum(axis=-1, keepdims=True)
    found: Array = share / np.where(total > 0, total, 1)
    return found


def _mix(weight: Array, message: Array) -> Array:
    """``sum_j w_j m_j``: ``(N,)`` and ``(N, M)`` to ``(M,)``."""
    mixed: Array = (weight[..., None, :] @ message)[..., 0, :]
    return mixed


def _mean_heard(message: Array, weight: Array) -> Array:
    total = weight.sum(axis=-1, keepdims=True)
    return _mix(weight / np.where(total > 0, total, np.float32(1)), message)


def _attention(query: Array, message: Array, weight: Array) -> Array:
    """Messages are keys as wide as the query, and values."""
    width = query.shape[-1]
    score = (message[..., :width] @ query[..., None])[..., 0] / np.float32(math.sqrt(width))
    return _mix(_shares(score, weight), message[..., width:])


def _graph_attention(query: Array, message: Array, weight: Array) -> Array:
    """One score a head in the query ``(H,)``; messages are ``H`` values and ``H`` scores."""
    heads = query.shape[-1]
    values = message[..., :-heads].reshape(*message.shape[:-1], heads, -1)  # (N, H, F)
    score = message[..., -heads:] + query[..., None, :]  # (N, H)
    score = np.swapaxes(np.where(score > 0, score, score * np.float32(0.2)), -1, -2)  # (H, N)
    share = _shares(score, weight[..., None, :])
    summed = share[..., None, :] @ np.swapaxes(values, -2, -3)  # (H, 1, F)
    return summed.reshape(*query.shape[:-1], -1)


def _masked_bits(logits: Array, action_mask: Array) -> Array:
    """Logits of a one; the mask says ``(zero, one)`` for each bit."""
    pairs = action_mask.reshape(*logits.shape, 2)
    return np.where(pairs[..., 1], np.where(pairs[..., 0], logits, -ILLEGAL), ILLEGAL)


def _softmax(x: Array) -> Array:
    y: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


OPERATIONS: dict[str, Callable[..., Array]] = {
    "product": np.matmul,
    "convolution": _convolution,
    "gru": _gru,
    "lstm": _lstm,
    "mean_heard": _mean_heard,
    "sum_heard": lambda message, weight: _mix(weight, message),
    "attention": _attention,
    "graph_attention": _graph_attention,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "concat": lambda *parts: np.concatenate(parts, axis=-1),
    "slice": lambda x, start, stop: x[..., start:stop],
    "flatten": lambda x, axes: x.reshape(*x.shape[: x.ndim - axes], -1),
    "unflatten": lambda x, shape: x.reshape(*x.shape[:-1], *shape),
    "mean": lambda x, axis: x.mean(axis=axis, keepdims=True),
    "squeeze": lambda x: x[..., 0],
    "image": lambda x: x.astype(np.float32) * np.float32(1 / 255),
    "above": lambda x, y: (x > y).astype(np.float32),
    "choose": np.where,
    "mask": lambda logits, action_mask: np.where(action_mask, logits, ILLEGAL),
    "mask_bits": _masked_bits,
    "gumbel": lambda logits, uniform: logits - np.log(-np.log(uniform)),
    "argmax": lambda x: x.argmax(axis=-1),
    "stack": lambda *parts: np.stack(parts, axis=-1),
    "whole": lambda x: x.astype(np.int64),
}


# --- running ----------------------------------------------------------------------------------------------------------


class Runner:
    """Runs a program whose constants, and inputs that never change, are bound once."""

    def __init__(self, program: Program, bound: Mapping[str, Array] | None = None) -> None:
        """``bound``: inputs with a value for good, such as an agent's identity. Raises ProgramError."""
        self.program = program
        self._places: dict[str, int] = {}
        self._values: list[Any] = []
        for name, value in (*program.constants.items(), *(bound or {}).items()):
            self._place(name, value)
        known = set(self._places)
        for name in program.inputs:
            self._place(name)
        self.stages = [self._compiled(stage, known) for stage in program.stages]
        self.heads = {name: self._compiled(stage, known) for name, stage in program.heads.items()}

    def _place(self, name: str, value: Any = None) -> int:
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = len(self._values)
            self._values.append(value)
        return place

    def _compiled(self, stage: Stage, known: set[str]) -> Compiled:
        """Operations as functions of places; what follows from constants alone is computed here."""
        steps = []
        for kind, out, inputs, settings in stage.operations:
            function = _function(kind, settings)
            missing = [name for name in inputs if name not in self._places]
            if missing:
                raise ProgramError(f"operation {kind!r} reads {missing[0]!r}, which nothing before it computes")
            places = tuple(self._places[name] for name in inputs)
            out_place = self._place(out)
            if known.issuperset(inputs):
                _run(self._values, [(function, out_place, places)])
                known.add(out)
            else:
                steps.append((function, out_place, places))
        missing = [value for value in stage.results.values() if value not in self._places]
        if missing:
            raise ProgramError(f"result {missing[0]!r} is computed by no operation")
        return steps, {name: self._places[value] for name, value in stage.results.items()}

    def begin(self, **inputs: Any) -> list[Any]:
        """All values of one step, with some inputs: steps of several copies may go on side by side."""
        values = self._values.copy()
        self.give(values, **inputs)
        return values

    def give(self, values: list[Any], **inputs: Any) -> None:
        """Set inputs of a step; those that the program does not read are left out."""
        for name, value in inputs.items():
            place = self._places.get(name)
            if place is not None:
                values[place] = value

    def run(self, values: list[Any], stage: int) -> dict[str, Array]:
        """The results of one stage."""
        steps, results = self.stages[stage]
        _run(values, steps)
        return {name: values[place] for name, place in results.items()}

    def head(self, values: list[Any], name: str) -> Array:
        """The action by one head, from the last stage's parameters."""
        steps, results = self.heads[name]
        _run(values, steps)
        action: Array = values[results["action"]]
        return action

    def step(self, head: str, **inputs: Any) -> tuple[Array, Array | None]:
        """One step of an agent that hears nobody: its action by one head, and its next carry if it has one."""
        values = self.begin(**inputs)
        results = self.run(values, 0)
        return self.head(values, head), results.get("carry")


def _function(kind: str, settings: Mapping[str, Any]) -> Callable[..., Array]:
    """An operation with its settings. Raises ProgramError for an unknown one."""
    if kind == "layer":
        return _layer(**settings)
    function = OPERATIONS.get(kind)
    if function is None:
        raise ProgramError(f"operation {kind!r:.80} is not known here; engine='onnx', or a newer version, may know it")
    return partial(function, **settings) if settings else function


def _run(values: list[Any], steps: Iterable[tuple[Callable[..., Array], int, tuple[int, ...]]]) -> None:
    with np.errstate(all="ignore"):  # numbers that are not finite go their way, as in torch
        for function, out, places in steps:
            values[out] = function(*[values[place] for place in places])
