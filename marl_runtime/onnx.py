"""Policies as ONNX graphs, run by onnxruntime on one thread.

A graph has a leading batch axis, inputs of the program's names, and the last stage's actions by each head. Before
onnxruntime sees a file, its parts are walked: nothing outside of it may be named, and every operation is an elementary
one of ONNX itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from marl_runtime.bundle import Bundle, BundleError
from marl_runtime.program import Array

Session = Any
OPERATIONS = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Neg", "Min", "Max", "Exp", "Log", "Tanh", "Sigmoid", "Relu", "Elu", "Erf"),
        *("Greater", "Where", "Cast", "MatMul", "Conv", "Softmax", "ArgMax", "ReduceMax", "ReduceMean", "ReduceSum"),
        *("Concat", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity"),
        # In whole numbers.
        *("DynamicQuantizeLinear", "QuantizeLinear", "MatMulInteger"),
        # Of users' own networks; none that makes an array of any size of a few numbers.
        *("Abs", "Sign", "Sqrt", "Pow", "Reciprocal", "Sin", "Cos", "Floor", "Ceil", "Round", "Mod", "Clip", "CumSum"),
        *("LeakyRelu", "PRelu", "Selu", "Celu", "Softplus", "HardSigmoid", "HardSwish", "Gelu", "Mish", "LogSoftmax"),
        *("Gemm", "LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "Flatten"),
        *("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMin", "ReduceL1", "ReduceL2", "Split"),
        *("Less", "LessOrEqual", "GreaterOrEqual", "Equal", "And", "Or", "Not", "Constant", "Shape", "Gather"),
    )
)
OUTPUTS = {"carry": "next_carry", "message": "said"}  # results that have the name of an input
# Fields of ONNX messages that hold messages, by number; what is not here is not entered.
PARTS = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
}
REFUSED = {
    "model": {20: "training", 25: "functions of its own"},
    "graph": {15: "sparse arrays"},
    "attribute": {6: "an inner graph", 11: "inner graphs", 22: "sparse arrays", 23: "sparse arrays"},
    "tensor": {13: "data outside of its file", 14: "data outside of its file"},
}


def load_onnx(bundle: Bundle, policy: int, bound: Mapping[str, Array]) -> GraphEngine:
    """The engine of one policy. Raises BundleError if its graphs are missing or refused, or onnxruntime is missing."""
    names = bundle.manifest["policies"][policy]["onnx"]
    if not names:
        raise BundleError("it has no ONNX graphs; export with --format onnx, or load it with engine='numpy'")
    return GraphEngine(bundle, policy, [bundle.contents[name] for name in names], bound)


class GraphEngine:
    """The same as :class:`~marl_runtime.program.Runner`, by onnxruntime."""

    def __init__(self, bundle: Bundle, policy: int, graphs: list[bytes], bound: Mapping[str, Array]) -> None:
        """``graphs``: one file for each stage; ``bound``: inputs with a value for good."""
        program, shapes = bundle.programs[policy], bundle.shapes[policy]
        self.heads = program.heads
        if len(graphs) != len(program.stages):
            raise BundleError(f"policy {policy}: {len(graphs)} graphs for {len(program.stages)} stages")
        self._idle: dict[str, Array] = {name: value[None] for name, value in bound.items()}
        for name, value in (("uniform", 0.5), ("normal", 0.0)):
            if name in program.inputs:
                self._idle[name] = np.full((1, *program.inputs[name]), value, np.float32)
        if "action_mask" in program.inputs:
            self._idle["action_mask"] = np.ones((1, *program.inputs["action_mask"]), bool)
        self.stages = []
        for stage, data in zip(program.stages, graphs, strict=True):
            session = session_of(data)
            reads = [one.name for one in session.get_inputs()]
            writes = [one.name for one in session.get_outputs()]
            for one in session.get_inputs():
                if one.name not in shapes or tuple(one.shape[1:]) != shapes[one.name]:
                    raise BundleError(f"policy {policy}: its graph reads {one.name!r:.80} of shape {one.shape!s:.80}")
            results = {name: OUTPUTS.get(name, name) for name in stage.results}
            if not {*results.values(), *(("greedy", "sample") if "parameters" in results else ())} <= {*writes}:
                raise BundleError(f"policy {policy}: its graph computes {writes!s:.80} alone")
            self.stages.append((session, reads, writes, results))

    def begin(self, **inputs: Any) -> dict[str, Any]:
        """The values of one step."""
        values = self._idle.copy()
        self.give(values, **inputs)
        return values

    def give(self, values: dict[str, Any], **inputs: Any) -> None:
        """Set inputs of a step."""
        for name, value in inputs.items():
            if value is not None:
                values[name] = value[None]

    def run(self, values: dict[str, Any], stage: int) -> dict[str, Array]:
        """The results of one stage."""
        session, reads, writes, results = self.stages[stage]
        values |= zip(writes, session.run(writes, {name: values[name] for name in reads}), strict=True)
        return {name: values[output][0] for name, output in results.items()}

    def head(self, values: dict[str, Any], name: str) -> Array:
        """The action by one head, which the last stage computed."""
        action: Array = values[name.removesuffix("_masked")][0]
        return action

    def step(self, head: str, **inputs: Any) -> tuple[Array, Array | None]:
        """One step of an agent that hears nobody: its action, and its next carry if it has one."""
        values = self.begin(**inputs)
        results = self.run(values, 0)
        return self.head(values, head), results.get("carry")


def session_of(data: bytes) -> Session:
    """What runs a graph, which is checked before. Raises BundleError."""
    try:
        import onnxruntime
    except ImportError:
        raise BundleError("onnxruntime is not installed: pip install 'marl-system[export]'") from None
    try:
        check_graph(data)
    except (IndexError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError("its ONNX graph is cut off or damaged") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        what = " ".join(str(error).split())
        raise BundleError(f"onnxruntime does not take its graph ({what:.200})") from None


# --- what a file holds, before onnxruntime sees it --------------------------------------------------------------------


def check_graph(data: bytes) -> None:
    """Raise BundleError for a graph that names anything outside its file, or operations that are not elementary."""
    _walk("model", memoryview(data))


def _walk(kind: str, data: memoryview) -> None:
    for number, value in _fields(data):
        if number in REFUSED.get(kind, ()) and (value != 0 or number != 14):
            raise BundleError(f"its ONNX graph has {REFUSED[kind][number]}, which no bundle may")
        inner = PARTS.get(kind, {}).get(number)
        if inner is not None:
            if not isinstance(value, memoryview):
                raise ValueError
            _walk(inner, value)
        if kind == "node" and isinstance(value, memoryview):
            text = bytes(value[:100]).decode(errors="replace")
            if (number == 4 and text not in OPERATIONS) or (number == 7 and text not in ("", "ai.onnx")):
                raise BundleError(f"its ONNX graph has the operation {text!r:.80}, which no bundle may")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: numbers and values."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, place = _varint(data, place)
            case 5:
                size = 4
            case _:
                raise ValueError
        if place + size > len(data):
            raise ValueError
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError
