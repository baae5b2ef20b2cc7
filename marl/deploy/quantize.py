"""Smaller numbers: weights of a program as int8 with a scale for each output channel, or as float16.

Only weights that something is multiplied with are changed; biases, normalizers and everything that is computed stay
float32. A weight's output channel is its last axis, a kernel's its first: ``w = q s``, ``s = max |w| / 127``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from marl.types import Array
from marl_runtime.program import Program

PRECISIONS = {"int8": "int8", "fp16": "float16", "dynamic": "dynamic int8", "static": "static int8"}
INTEGERS = ("dynamic", "static")  # layers are computed in whole numbers, by ONNX graphs alone
Ranges = Mapping[str, float]  # the largest number that a layer read, by the name of its weights
CHANNEL = {"layer": -1, "convolution": 0}  # which axis of the weight is the output's


def weights_of(program: Program) -> dict[str, int]:
    """The constants that are weights, with the axis of their output channels."""
    stages = (*program.stages, *program.heads.values())
    steps = [step for stage in stages for step in stage.operations if step.kind in CHANNEL]
    return {step.inputs[1]: CHANNEL[step.kind] for step in steps if step.inputs[1] in program.constants}


def numbers_of(program: Program) -> dict[str, Array]:
    """The constants of a single finite number that are no weights: they are written beside the operations."""
    weights = weights_of(program)
    return {
        name: value
        for name, value in program.constants.items()
        if value.size == 1 and value.dtype == np.float32 and np.isfinite(value) and name not in weights
    }


def packed(program: Program, quantize: str | None) -> dict[str, Array]:
    """The constants of a program as they are stored."""
    found = dict(program.constants)
    for name, axis in weights_of(program).items() if quantize else ():
        weight = found[name]
        if quantize == "fp16":
            most = float(np.finfo(np.float16).max)
            found[name] = np.clip(weight, -most, most).astype(np.float16)
            continue
        found[name], found[f"{name}/scale"] = int8(weight, axis)
    return found


def int8(weight: Array, axis: int) -> tuple[Array, Array]:
    """Whole numbers from -127 to 127, and the scale of each output channel (all other axes have size 1).

    Scales are float16 where its precision of 11 bits holds for all of them: the numbers are rounded with these.
    """
    others = tuple(k for k in range(weight.ndim) if k != axis % weight.ndim)
    scale = (np.abs(weight).max(axis=others, keepdims=True) / 127).astype(np.float32)
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    half = np.where(half < scale, np.nextafter(half, np.float16(np.inf)), half)  # no weight leaves its range
    if np.all((half >= np.finfo(np.float16).tiny) | (scale == 0)) and np.all(np.isfinite(half)):
        scale = half
    whole = np.rint(weight / np.where(scale > 0, scale, 1).astype(np.float32))
    return np.clip(whole, -127, 127).astype(np.int8), scale


def rounded(program: Program, quantize: str | None) -> Program:
    """The program as the runtime computes it: with weights that went through their smaller numbers."""
    stored = packed(program, quantize)
    constants = {}
    for name in program.constants:
        value = stored[name]
        if value.dtype == np.int8:
            value = value.astype(np.float32) * stored[f"{name}/scale"].astype(np.float32)
        constants[name] = value.astype(np.float32) if value.dtype == np.float16 else value
    return program._replace(constants=constants)
