"""Programs as ONNX graphs of elementary operations: opset 17, one file for each stage, a leading batch axis.

A network of a user's own is put in as torch exported it, which makes the opset 18.

A graph's inputs are those of the program's inputs that its stage reads, and values that an earlier stage computed. Its
outputs are the results of the stage (``said``, ``loudness``, ``next_carry``, ``parameters``); the last one's also
``greedy`` and ``sample``, which take an action mask where choices may be forbidden, and random numbers as inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from marl.deploy.own import OPSET as OWN_OPSET
from marl.deploy.quantize import INTEGERS, Ranges, packed
from marl.types import Array, ConfigError
from marl_runtime.onnx import OUTPUTS
from marl_runtime.program import ILLEGAL, Operation, Program, Stage
from marl_runtime.shapes import Shape, shapes_of

OPSET, IR = 17, 8
LOWEST = np.float32(-3.4e38)
WHOLE = ("argmax", "whole")  # operations that make whole numbers


def graphs_of(
    program: Program, quantize: str | None = None, own: Sequence[Any] = (), ranges: Ranges | None = None
) -> list[bytes]:
    """A serialized model for each stage.

    Args:
        program: what they compute.
        quantize: as of :func:`marl.deploy.export`.
        own: the models that the operation ``network`` names by number (:func:`marl.deploy.own.graph_of`).

        ranges: of what layers read, where ``quantize`` is ``"static"``.

    Raises:
        ConfigError: if onnx is not installed.
    """
    try:
        from onnx import checker
    except ImportError:
        raise ConfigError("onnx is not installed: pip install 'marl-system[export]'") from None
    shapes, stored = shapes_of(program), packed(program, quantize)
    outside = {*program.inputs, *program.constants}
    made: dict[str, int] = {}  # in which stage a value is computed
    graphs = []
    for place, stage in enumerate(program.stages):
        steps, results = list(stage.operations), {OUTPUTS.get(k, k): value for k, value in stage.results.items()}
        if place == len(program.stages) - 1:
            for name in ("greedy", "sample"):
                head: Stage = program.heads.get(f"{name}_masked", program.heads[name])
                steps += head.operations
                results[name] = head.results["action"]
        graph = Graph(program, shapes, stored, quantize, own, ranges or {})
        for step in steps:
            graph.add(step)
            made[step.out] = place
        graphs.append((graph, results))
        for name in graph.read - outside:
            if made[name] < place:
                graphs[made[name]][1].setdefault(name, name)
    models = [graph.model(results) for graph, results in graphs]
    for model in models:
        checker.check_model(model)
    return [model.SerializeToString() for model in models]


class Graph:
    """Operations of one stage, written down as ONNX nodes."""

    def __init__(
        self,
        program: Program,
        shapes: dict[str, Shape],
        stored: dict[str, Array],
        quantize: str | None,
        own: Sequence[Any],
        ranges: Ranges,
    ) -> None:
        """``stored``: the constants as they are kept, maybe as smaller numbers; the others as of :func:`graphs_of`."""
        self.program, self.shapes, self.stored, self.own = program, shapes, stored, own
        self.quantize, self.ranges = quantize, ranges
        self.opset = OWN_OPSET if own else OPSET
        self.read: set[str] = set()  # values that come from outside
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}
        self._own: set[str] = set()  # values with a batch axis that are computed here
        self._fixed: set[str] = set()  # values without one
        self._integers: set[str] = set()
        self._names: dict[bytes, str] = {}
        self._count = 0

    def add(self, step: Operation) -> None:
        """One operation of the program."""
        if step.inputs and all(name in self.program.constants or name in self._fixed for name in step.inputs):
            self._fixed.add(step.out)
        if step.kind == "layer" and self.quantize in INTEGERS and step.inputs[1] in self.program.constants:
            self._finish(step, self._integer_layer(*step.inputs, **step.settings))
            return
        inputs = [self._input(name) for name in step.inputs]
        shapes = [self.shapes[name] for name in step.inputs]
        if step.kind in ("concat", "stack"):
            fixed = step.out in self._fixed
            inputs = [
                name if fixed or given not in {*self.program.constants, *self._fixed} else self._batched(name, given)
                for name, given in zip(inputs, step.inputs, strict=True)
            ]
        if step.kind in WHOLE or (step.kind == "stack" and set(step.inputs) <= self._integers):
            self._integers.add(step.out)
        elif step.kind == "add":
            inputs = [
                self._node("Cast", name, to=1) if given in self._integers else name
                for name, given in zip(inputs, step.inputs, strict=True)
            ]
        found = getattr(self, f"_{step.kind}")(*inputs, shapes=shapes, **step.settings)
        self._finish(step, found)

    def _finish(self, step: Operation, found: str) -> None:
        self._nodes.append(_helper().make_node("Identity", [found], [step.out]))
        self._own.add(step.out)

    def model(self, results: dict[str, str]) -> Any:
        """The model, with outputs by their public names."""
        helper, types = _helper(), _types()
        outputs = []
        for name, value in results.items():
            source = self._input(value)
            if value in self.program.constants or value in self._fixed:
                source = self._batched(source, value)
            if source != name:
                self._nodes.append(helper.make_node("Identity", [source], [name]))
            kind = types.INT64 if value in self._integers else types.FLOAT
            outputs.append(helper.make_tensor_value_info(name, kind, ["N", *self.shapes[value]]))
        inputs = []
        for name in sorted(self.read):
            shape = self.shapes[name]
            kind = types.BOOL if name == "action_mask" else types.FLOAT
            kind = types.UINT8 if name == "observation" and len(shape) == 3 else kind
            inputs.append(helper.make_tensor_value_info(name, kind, ["N", *shape]))
        from onnx import numpy_helper

        arrays = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, "policy", inputs, outputs, arrays)
        return helper.make_model(
            graph, producer_name="marl", opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR
        )

    # --- names --------------------------------------------------------------------------------------------------------

    def _input(self, name: str) -> str:
        if name in self.program.constants:
            return self._stored(name)
        if name not in self._own:
            self.read.add(name)
        return name

    def _stored(self, name: str) -> str:
        """A constant, made float32 again from smaller numbers."""
        value = self.stored[self._kept(name)]
        if value.dtype not in (np.int8, np.float16):
            return name
        wide = self._node("Cast", name, to=1)
        if value.dtype == np.float16:
            return wide
        return self._node("Mul", wide, self._constant(self.stored[f"{name}/scale"]))

    def _kept(self, name: str) -> str:
        """A constant as it is stored."""
        if name not in self._constants:
            self._constants[name] = np.ascontiguousarray(self.stored[name])
        return name

    def _constant(self, value: Any, dtype: Any = np.float32) -> str:
        array = np.asarray(value, dtype)
        key = array.tobytes() + str((array.shape, array.dtype)).encode()
        if key not in self._names:
            self._names[key] = f"fixed_{len(self._names)}"
            self._constants[self._names[key]] = array
        return self._names[key]

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self._nodes_of(kind, *inputs, outputs=1, **attributes)[0]

    def _nodes_of(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        out = [f"node_{self._count + k}" for k in range(outputs)]
        self._count += outputs
        self._nodes.append(_helper().make_node(kind, list(inputs), out, **attributes))
        return out

    def _batched(self, source: str, name: str) -> str:
        """A value without a batch axis, repeated along that of whatever comes from outside."""
        outside = next(one for one in ("observation", *self.program.inputs) if one in self.program.inputs)
        self.read.add(outside)
        flat = self._reshape(self._node("Cast", outside, to=1), (-1,))
        column = self._cut(flat, 0, 1)
        never = self._node("Greater", column, column)  # (N, 1), nowhere true
        shape = self.shapes[name]
        never = self._squeezed(never, 1) if not shape else self._reshape(never, (1,) * len(shape))
        return self._node("Where", never, source, source)

    # --- what operations are made of ----------------------------------------------------------------------------------

    def _reshape(self, x: str, shape: Sequence[int]) -> str:
        return self._node("Reshape", x, self._constant([0, *shape], np.int64))

    def _cut(self, x: str, start: int, stop: int) -> str:
        """Along the last axis."""
        return self._node("Slice", x, *(self._constant([one], np.int64) for one in (start, stop, -1)))

    def _squeezed(self, x: str, axis: int) -> str:
        return self._node("Squeeze", x, self._constant([axis], np.int64))

    def _unsqueezed(self, x: str, axis: int) -> str:
        return self._node("Unsqueeze", x, self._constant([axis], np.int64))

    def _reduced(self, kind: str, x: str, axis: int) -> str:
        if self.opset < 18:  # from then on the axes are an input
            return self._node(kind, x, axes=[axis], keepdims=1)
        return self._node(kind, x, self._constant([axis], np.int64), keepdims=1)

    def _sum(self, x: str) -> str:
        return self._node("ReduceSum", x, self._constant([-1], np.int64), keepdims=1)

    def _divided(self, x: str, total: str) -> str:
        """By a total, where there is any."""
        some = self._node("Greater", total, self._constant(0.0))
        return self._node("Div", x, self._node("Where", some, total, self._constant(1.0)))

    def _activated(self, x: str, activation: str) -> str:
        match activation:
            case "tanh" | "relu" | "elu":
                return self._node(activation.capitalize(), x)
            case "gelu":
                error = self._node("Erf", self._node("Mul", x, self._constant(math.sqrt(0.5))))
                risen = self._node("Add", error, self._constant(1.0))
                return self._node("Mul", self._node("Mul", x, self._constant(0.5)), risen)
            case "silu":
                return self._node("Mul", x, self._node("Sigmoid", x))
        return x

    def _mix(self, weight: str, message: str) -> str:
        return self._squeezed(self._node("MatMul", self._unsqueezed(weight, -2), message), -2)

    def _shares(self, score: str, weight: str) -> str:
        zero, lowest = self._constant(0.0), self._constant(LOWEST)
        heard = self._node("Greater", weight, zero)
        top = self._reduced("ReduceMax", self._node("Where", heard, score, lowest), -1)
        safe = self._node("Where", self._node("Greater", top, lowest), top, zero)
        power = self._node("Exp", self._node("Where", heard, self._node("Sub", score, safe), zero))
        share = self._node("Mul", weight, power)
        return self._divided(share, self._sum(share))

    # --- operations of programs ---------------------------------------------------------------------------------------

    def _layer(self, x: str, weight: str, bias: str, shapes: list[Shape], activation: str = "none") -> str:
        return self._activated(self._node("Add", self._node("MatMul", x, weight), bias), activation)

    def _network(self, x: str, shapes: list[Shape], number: int, size: int) -> str:
        """A model of torch's, its values named after its number."""
        from onnx import numpy_helper

        graph, front = self.own[number].graph, f"network_{number}/"
        names = {graph.input[0].name: x}
        for tensor in graph.initializer:
            self._constants[front + tensor.name] = numpy_helper.to_array(tensor)
        for node in graph.node:
            node = type(node).FromString(node.SerializeToString())
            inside = [name and names.get(name, front + name) for name in node.input]
            outside = [name and front + name for name in node.output]
            del node.input[:], node.output[:]
            node.input.extend(inside)
            node.output.extend(outside)
            node.name = ""
            self._nodes.append(node)
        found: str = graph.output[0].name
        return names.get(found, front + found)

    def _integer_layer(self, x: str, weight: str, bias: str, activation: str = "none") -> str:
        """A layer in whole numbers; a batch shares the range of its inputs where it is dynamic."""
        whole, scale = self._kept(weight), self.stored[f"{weight}/scale"]
        if self.quantize == "static":
            step = np.float32(self.ranges.get(weight, 0.0) / 127 or 1.0)
            zero = self._constant(128, np.uint8)  # onnxruntime is slow where both are signed
            given = self._node("QuantizeLinear", self._input(x), self._constant(step), zero)
            product = self._node("MatMulInteger", given, whole, zero)
            factor = self._constant(scale * step)
        else:
            given, found, zero = self._nodes_of("DynamicQuantizeLinear", self._input(x), outputs=3)
            product = self._node("MatMulInteger", given, whole, zero)
            factor = self._node("Mul", found, self._constant(scale))
        y = self._node("Mul", self._node("Cast", product, to=1), factor)
        return self._activated(self._node("Add", y, self._input(bias)), activation)

    def _product(self, a: str, b: str, shapes: list[Shape]) -> str:
        return self._node("MatMul", a, b)

    def _convolution(
        self, x: str, kernel: str, bias: str, shapes: list[Shape], stride: int, activation: str = "none"
    ) -> str:
        return self._activated(self._node("Conv", x, kernel, bias, strides=[stride, stride]), activation)

    def _gru(self, given: str, own: str, hidden: str, shapes: list[Shape]) -> str:
        (width,) = shapes[2]
        both = [self._node("Add", self._cut(given, k, k + width), self._cut(own, k, k + width)) for k in (0, width)]
        reset, update = (self._node("Sigmoid", one) for one in both)
        recalled = self._node("Mul", reset, self._cut(own, 2 * width, 3 * width))
        candidate = self._node("Tanh", self._node("Add", self._cut(given, 2 * width, 3 * width), recalled))
        kept = self._node("Mul", update, self._node("Sub", hidden, candidate))
        return self._node("Add", candidate, kept)

    def _lstm(self, given: str, own: str, cell: str, shapes: list[Shape]) -> str:
        (width,) = shapes[2]
        gates = self._node("Add", given, own)
        put, forget, value, out = (self._cut(gates, k * width, (k + 1) * width) for k in range(4))
        put, forget, out = (self._node("Sigmoid", one) for one in (put, forget, out))
        kept = self._node("Mul", forget, cell)
        after = self._node("Add", kept, self._node("Mul", put, self._node("Tanh", value)))
        return self._node("Concat", self._node("Mul", out, self._node("Tanh", after)), after, axis=-1)

    def _mean_heard(self, message: str, weight: str, shapes: list[Shape]) -> str:
        return self._mix(self._divided(weight, self._sum(weight)), message)

    def _sum_heard(self, message: str, weight: str, shapes: list[Shape]) -> str:
        return self._mix(weight, message)

    def _attention(self, query: str, message: str, weight: str, shapes: list[Shape]) -> str:
        (width,), (_, size) = shapes[0], shapes[1]
        score = self._squeezed(self._node("MatMul", self._cut(message, 0, width), self._unsqueezed(query, -1)), -1)
        score = self._node("Div", score, self._constant(math.sqrt(width)))
        return self._mix(self._shares(score, weight), self._cut(message, width, size))

    def _graph_attention(self, query: str, message: str, weight: str, shapes: list[Shape]) -> str:
        (heads,), (agents, size) = shapes[0], shapes[1]
        each = (size - heads) // heads
        values = self._reshape(self._cut(message, 0, size - heads), (agents, heads, each))
        score = self._node("Add", self._cut(message, size - heads, size), self._unsqueezed(query, -2))
        leaking = self._node("Mul", score, self._constant(0.2))
        score = self._node("Where", self._node("Greater", score, self._constant(0.0)), score, leaking)
        score = self._node("Transpose", score, perm=[0, 2, 1])
        share = self._shares(score, self._unsqueezed(weight, -2))
        values = self._node("Transpose", values, perm=[0, 2, 1, 3])
        return self._reshape(self._node("MatMul", self._unsqueezed(share, -2), values), (heads * each,))

    def _add(self, x: str, y: str, shapes: list[Shape]) -> str:
        return self._node("Add", x, y)

    def _subtract(self, x: str, y: str, shapes: list[Shape]) -> str:
        return self._node("Sub", x, y)

    def _multiply(self, x: str, y: str, shapes: list[Shape]) -> str:
        return self._node("Mul", x, y)

    def _divide(self, x: str, y: str, shapes: list[Shape]) -> str:
        return self._node("Div", x, y)

    def _exp(self, x: str, shapes: list[Shape]) -> str:
        return self._node("Exp", x)

    def _tanh(self, x: str, shapes: list[Shape]) -> str:
        return self._node("Tanh", x)

    def _sigmoid(self, x: str, shapes: list[Shape]) -> str:
        return self._node("Sigmoid", x)

    def _softmax(self, x: str, shapes: list[Shape]) -> str:
        return self._node("Softmax", x, axis=-1)

    def _clip(self, x: str, low: str, high: str, shapes: list[Shape]) -> str:
        return self._node("Min", self._node("Max", x, low), high)

    def _concat(self, *parts: str, shapes: list[Shape]) -> str:
        return self._node("Concat", *parts, axis=-1)

    def _slice(self, x: str, shapes: list[Shape], start: int, stop: int) -> str:
        return self._cut(x, start, stop)

    def _flatten(self, x: str, shapes: list[Shape], axes: int) -> str:
        kept = len(shapes[0]) - axes
        return self._reshape(x, (*shapes[0][:kept], math.prod(shapes[0][kept:])))

    def _unflatten(self, x: str, shapes: list[Shape], shape: Sequence[int]) -> str:
        return self._reshape(x, (*shapes[0][:-1], *shape))

    def _mean(self, x: str, shapes: list[Shape], axis: int) -> str:
        return self._reduced("ReduceMean", x, axis)

    def _squeeze(self, x: str, shapes: list[Shape]) -> str:
        return self._squeezed(self._cut(x, 0, 1), -1)

    def _image(self, x: str, shapes: list[Shape]) -> str:
        return self._node("Mul", self._node("Cast", x, to=1), self._constant(1 / 255))

    def _above(self, x: str, y: str, shapes: list[Shape]) -> str:
        return self._node("Cast", self._node("Greater", x, y), to=1)

    def _choose(self, which: str, x: str, y: str, shapes: list[Shape]) -> str:
        return self._node("Where", which, x, y)

    def _mask(self, logits: str, action_mask: str, shapes: list[Shape]) -> str:
        return self._node("Where", action_mask, logits, self._constant(ILLEGAL))

    def _mask_bits(self, logits: str, action_mask: str, shapes: list[Shape]) -> str:
        pairs = self._reshape(action_mask, (shapes[0][0], 2))
        zero, one = (self._squeezed(self._cut(pairs, k, k + 1), -1) for k in (0, 1))
        free = self._node("Where", zero, logits, self._constant(-ILLEGAL))
        return self._node("Where", one, free, self._constant(ILLEGAL))

    def _gumbel(self, logits: str, uniform: str, shapes: list[Shape]) -> str:
        return self._node("Sub", logits, self._node("Log", self._node("Neg", self._node("Log", uniform))))

    def _argmax(self, x: str, shapes: list[Shape]) -> str:
        return self._node("ArgMax", x, axis=-1, keepdims=0)

    def _stack(self, *parts: str, shapes: list[Shape]) -> str:
        return self._node("Concat", *(self._unsqueezed(one, -1) for one in parts), axis=-1)

    def _whole(self, x: str, shapes: list[Shape]) -> str:
        return self._node("Cast", x, to=7)


def _helper() -> Any:
    from onnx import helper

    return helper


def _types() -> Any:
    from onnx import TensorProto

    return TensorProto
