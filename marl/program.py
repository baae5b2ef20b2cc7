"""One agent's policy as a :class:`~marl_runtime.program.Program`: the same numbers without torch.

Every kind of network, message layer and action head of this library is written down by the function that is registered
for its exact class. A subclass, or a module of a user's own, has none: :func:`program_of` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from marl.channels import ChannelNet, speech
from marl.compiled import backend
from marl.nets import action_head, distributions, networks, q_head, recurrent
from marl.nets.agent_net import AgentNet
from marl.nets.normalizers import RunningNorm
from marl.nets.stacked import NoisyLinear, StackedLinear
from marl.types import Array, ConfigError
from marl_runtime.program import Operation, Program, Runner, Stage

Head = distributions.Distribution


class Writer:
    """Writes operations down, in order, with names for what they compute."""

    def __init__(self, shared: bool = False, own: list[nn.Module] | None = None) -> None:
        """Nothing is written yet.

        ``shared``: the agent's identity is an input, so that all write the same; ``own``: takes a user's modules, which
        the program then names by their number; None: there may be none.
        """
        self.shared, self.own = shared, own
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, Array] = {}
        self._operations: list[Operation] = []
        self._count = 0

    def input(self, name: str, *shape: int) -> str:
        """A value that is given from outside."""
        self.inputs[name] = shape
        return name

    def constant(self, value: Tensor | Array | float) -> str:
        """A value that never changes; a tensor on the CPU is shared, not copied."""
        name = f"c{len(self.constants)}"
        shared = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype=np.float32)
        self.constants[name] = shared
        return name

    def identity(self, ids: Tensor) -> str:
        """Which agent it is, ``(1, K)``."""
        return self.input("identity", ids.shape[1]) if self.shared else self.constant(ids[0])

    def write(self, kind: str, *inputs: str, **settings: Any) -> str:
        """An operation; returns the name of what it computes."""
        out = f"value_{self._count}"
        self._count += 1
        self._operations.append(Operation(kind, out, inputs, settings))
        return out

    def linear(self, layer: object, x: str, activation: str = "none") -> str:
        """A fully connected layer of one parameter set."""
        if type(layer) is NoisyLinear:
            weight, bias = layer.weight[0], layer.bias[0]
            noise = layer.noise_in[0].unsqueeze(1) * layer.noise_out[0]
            weight, bias = weight + layer.weight_scale[0] * noise, bias + layer.bias_scale[0] * layer.noise_out[0]
        elif type(layer) is StackedLinear:
            weight, bias = layer.weight[0], layer.bias[0]
        else:
            raise _unknown(layer)
        return self.write("layer", x, self.constant(weight), self.constant(bias), activation=activation)

    def stage(self, **results: str) -> Stage:
        """What was written since the last stage."""
        operations, self._operations = tuple(self._operations), []
        return Stage(operations, results)


def _unknown(thing: object) -> ConfigError:
    return ConfigError(f"{type(thing).__name__} cannot be written as a program; only networks of this library can")


def program_of(
    net: nn.Module | None,
    head: Head,
    *,
    shared: bool = False,
    start: Array | None = None,
    own: list[nn.Module] | None = None,
) -> Program:
    """The policy of a network of one agent, and of what its outputs mean.

    Args:
        net: of one agent; None: a policy that reads nothing, which always draws.
        head: what its outputs mean.
        shared: the agent's ``identity (K,)`` is an input instead of a constant.
        start: what choices of the environment are counted from, ``()`` or ``(A,)``; None: 0.
        own: modules of a user's own are put here, and the operation ``network`` names them by their number; None: they
            are refused.

    Inputs are ``observation (*O)`` as encoded for its team; ``carry (H,)`` where it remembers; ``message (N, M)`` and
    ``weight (N,)`` where it hears; ``uniform`` or ``normal`` numbers for heads that draw; ``action_mask (L,)`` for
    heads whose name ends on ``_masked``. Results are ``parameters`` and ``carry`` of the last stage, ``message`` and
    ``loudness`` of those that speak; an ``action`` of each head.

    Raises:
        ConfigError: for anything that holds code of a user's own.
    """
    writer = Writer(shared, own)
    if net is None:
        stages = [writer.stage(parameters=writer.constant(np.zeros(head.size)))]
    elif type(net) is ChannelNet:
        stages = _talking(writer, net)
    elif type(net) is AgentNet:
        features, carry = _features(writer, net)
        kept = {} if carry is None else {"carry": carry}
        stages = [writer.stage(parameters=_parameters(writer, net, features), **kept)]
    else:
        raise _unknown(net)
    found = stages[-1].results["parameters"]
    heads = {}
    for masked in (False, True):
        for name in ("greedy", "sample"):
            mask = None
            if masked:
                if isinstance(getattr(head, "box", None), distributions.Box):
                    continue
                mask = writer.input("action_mask", *_choices(head))
            action = _head_writer(head)(writer, head, found, mask, net is None or name == "sample")
            if start is not None:
                action = writer.write("whole", writer.write("add", action, writer.constant(start)))
            heads[f"{name}_masked" if masked else name] = writer.stage(action=action)
    return Program(writer.inputs, writer.constants, tuple(stages), heads)


class ChosenPolicy:
    """What computes one agent's policy, good until it is :attr:`stale`: its program, or torch where it has none."""

    __slots__ = ("_hooks", "_place", "_tensors", "_versions", "_weight", "_word", "runner")

    def __init__(self, net: nn.Module, head: Head) -> None:
        """Looks at the network as it is."""
        self._word, self._hooks = backend.word, RemovableHandle.next_id
        self._weight: Any = None
        self._place, self._versions = 0, list[int]()
        self._tensors: list[Tensor] = []
        self.runner: Runner | None = None
        if not isinstance(net, AgentNet) or not backend.enabled or backend.touched(net):
            return
        try:
            self.runner = Runner(program_of(net, head))
        except ConfigError:
            return
        self._weight, self._place = net.head.weight, net.head.weight.data_ptr()
        # What the program computed with; parameters it shares.
        derived = [module for module in net.modules() if isinstance(module, NoisyLinear | RunningNorm)]
        tensors = [tensor for module in derived for tensor in (*module.parameters(), *module.buffers())]
        self._tensors = [tensor for tensor in tensors if not tensor.is_inference()]
        self._versions = [tensor._version for tensor in self._tensors]

    def stale(self, net: nn.Module) -> bool:
        """Whether parameters lie elsewhere, statistics changed, somebody hooked in, or ``compiled.use`` was called."""
        if self._word is not backend.word or self._hooks != RemovableHandle.next_id:
            return True
        if self.runner is None:
            return False
        return (
            self._weight is not cast(Any, getattr(net.head, "weight", None))
            or self._place != self._weight.data_ptr()
            or self._versions != [tensor._version for tensor in self._tensors]
        )


# --- networks ---------------------------------------------------------------------------------------------------------


def _seen(writer: Writer, net: AgentNet) -> str:
    x = writer.input("observation", *net.shape)
    if net.norm is None:
        return x
    mean, std = net.norm.scale()
    x = writer.write("divide", writer.write("subtract", x, writer.constant(mean[0])), writer.constant(std[0]))
    return writer.write("clip", x, writer.constant(-net.norm.clip), writer.constant(net.norm.clip))


def _features(writer: Writer, net: AgentNet, summary: str | None = None) -> tuple[str, str | None]:
    """Features and the next carry; a summary of messages lies beside what is seen and the identity."""
    x = _seen(writer, net)
    beside = [] if not net.ids.shape[1] else [writer.identity(net.ids)]
    beside += [] if summary is None else [summary]
    if len(net.shape) == 1:
        x, beside = (writer.write("concat", x, *beside) if beside else x), []
    return _body(writer, net.body, x, beside)


def _body(writer: Writer, body: nn.Module, x: str, beside: list[str], axes: int = 3) -> tuple[str, str | None]:
    write = _BODIES.get(type(body))
    if write is None:
        raise _unknown(body)
    return write(writer, body, x, beside)


def _vector(writer: Writer, body_input: str, beside: list[str]) -> str:
    """An image as a vector, with more numbers beside it."""
    shape = writer.inputs["observation"]
    if len(shape) == 3 and body_input == "observation":
        body_input = writer.write("flatten", writer.write("image", body_input), axes=3)
    return writer.write("concat", body_input, *beside) if beside else body_input


def _mlp(writer: Writer, body: Any, x: str, beside: list[str]) -> tuple[str, None]:
    x = _vector(writer, x, beside)
    for layer in body.layers:
        x = writer.linear(layer, x, body.activation_name)
    return x, None


def _cnn(writer: Writer, body: Any, x: str, beside: list[str]) -> tuple[str, None]:
    x = writer.write("image", x)
    for kernel, bias, stride in zip(body.kernels, body.biases, body.strides, strict=True):
        constants = writer.constant(kernel[0]), writer.constant(bias[0])
        x = writer.write("convolution", x, *constants, stride=stride, activation=body.activation_name)
    x = writer.write("flatten", x, axes=3)
    return writer.linear(body.project, writer.write("concat", x, *beside) if beside else x, body.activation_name), None


def _recurrent(writer: Writer, body: Any, x: str, beside: list[str]) -> tuple[str, str]:
    x, _ = _body(writer, body.encoder, x, beside)
    width, kind = body.width, {recurrent.gru: "gru", recurrent.lstm: "lstm"}[body.unit]
    carry = writer.input("carry", *writer.inputs.get("carry", (body.carry_width,)))
    own = carry if writer.inputs["carry"] == (width,) else writer.write("slice", carry, start=0, stop=width)
    given, again = writer.linear(body.inputs, x), writer.linear(body.recurrent, own)
    if kind == "gru":
        after = writer.write("gru", given, again, own)
        return after, after
    cell = writer.write("slice", carry, start=width, stop=2 * width)
    after = writer.write("lstm", given, again, cell)
    return writer.write("slice", after, start=0, stop=width), after


def _custom(writer: Writer, body: Any, x: str, beside: list[str]) -> tuple[str, None]:
    module = body.copies[0].module
    if writer.own is None:
        raise _unknown(module)
    writer.own.append(module)
    return writer.write("network", _vector(writer, x, beside), number=len(writer.own) - 1, size=body.width), None


_BODIES: dict[type, Callable[[Writer, Any, str, list[str]], tuple[str, str | None]]] = {
    networks.CustomBody: _custom,
    networks.MLPBody: _mlp,
    networks.CNNBody: _cnn,
    recurrent.RecurrentBody: _recurrent,
}


def _parameters(writer: Writer, net: AgentNet, features: str) -> str:
    out = writer.linear(net.head, features)
    return out if net.log_std is None else writer.write("concat", out, writer.constant(net.log_std[0]))


# --- messages ---------------------------------------------------------------------------------------------------------


def _talking(writer: Writer, net: ChannelNet) -> list[Stage]:
    """One stage where messages of earlier steps are heard; else one for each round, and one more to speak first."""
    part, rounds, agents = net.speech, net.channel.rounds, net.weight.shape[0]
    hears = _HEARS.get(type(part))
    if hears is None:
        raise _unknown(part)
    hear = partial(hears, writer, part)
    if net.own_width:
        writer.input("carry", net.own_width)
    heard = writer.input("message", agents, part.size), writer.input("weight", agents)
    if not rounds:
        query = None
        if part.private:
            query = writer.write("slice", "carry", start=net.body.carry_width, stop=net.own_width)
        features, after = _features(writer, net, hear(query, *heard))
        said = _said(writer, part, features)
        kept = ([] if after is None else [after]) + ([writer.linear(part.query, features)] if part.private else [])
        carry = {"carry": writer.write("concat", *kept)} if kept else {}
        return [writer.stage(parameters=_parameters(writer, net, features), **said, **carry)]
    features, after = _features(writer, net)
    stages = [writer.stage(**_said(writer, part, features))]
    for turn in range(rounds):
        summary = hear(writer.linear(part.query, features) if part.private else None, *heard)
        own, others = writer.linear(part.own[turn], features), writer.linear(part.others[turn], summary)
        features = writer.write("tanh", writer.write("add", own, others))
        if turn + 1 < rounds:
            stages.append(writer.stage(**_said(writer, part, features)))
    carry = {} if after is None else {"carry": after}
    return [*stages, writer.stage(parameters=_parameters(writer, net, features), **carry)]


def _said(writer: Writer, part: Any, features: str) -> dict[str, str]:
    message = features if part.say is None else writer.linear(part.say, features)
    if part.noisy:  # it executes with signs
        above = writer.write("above", message, writer.constant(0.0))
        doubled = writer.write("multiply", above, writer.constant(2.0))
        message = writer.write("subtract", doubled, writer.constant(1.0))
    loudness = writer.constant(1.0)
    if getattr(part, "gate", None) is not None:
        chance = writer.write("sigmoid", writer.write("squeeze", writer.linear(part.gate, features)))
        loudness = writer.write("above", chance, writer.constant(0.5))
    return {"message": message, "loudness": loudness}


_HEARS: dict[type, Callable[..., str]] = {
    speech.Mean: lambda writer, part, query, *heard: writer.write("mean_heard", *heard),
    speech.Discretized: lambda writer, part, query, *heard: writer.write("sum_heard", *heard),
    speech.Targeted: lambda writer, part, query, *heard: writer.write("attention", query, *heard),
    speech.Attentive: lambda writer, part, query, *heard: writer.write("graph_attention", query, *heard),
}


# --- heads ------------------------------------------------------------------------------------------------------------

Written = Callable[[Writer, Any, str, str | None, bool], str]


def _head_writer(head: Head) -> Written:
    write = _HEADS.get(type(head))
    if write is None:
        raise _unknown(head)
    return write


def _choices(head: Any) -> tuple[int, ...]:
    """The shape of a head's mask."""
    if isinstance(head, q_head.QHead):
        return (head.actions,)
    return (2 * head.size if isinstance(head, distributions.Bernoulli) else head.size,)


def _allowed(writer: Writer, logits: str, mask: str | None) -> str:
    return logits if mask is None else writer.write("mask", logits, mask)


def _choice(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    logits = _allowed(writer, parameters, mask)
    if draws:
        logits = writer.write("gumbel", logits, writer.input("uniform", head.size))
    return writer.write("argmax", logits)


def _choice_of_constant(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    return _choice(writer, head, writer.constant(head.logits), mask, draws)


def _choices_of_each(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    logits = _allowed(writer, parameters, mask)
    if draws:
        logits = writer.write("gumbel", logits, writer.input("uniform", head.size))
    ends = np.cumsum(head.sizes).tolist()
    parts = [
        writer.write("argmax", writer.write("slice", logits, start=end - size, stop=end))
        for end, size in zip(ends, head.sizes, strict=True)
    ]
    return writer.write("stack", *parts)


def _bits(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    logits = parameters if mask is None else writer.write("mask_bits", parameters, mask)
    if not draws:
        return writer.write("whole", writer.write("above", logits, writer.constant(0.0)))
    uniform = writer.input("uniform", head.size)
    return writer.write("whole", writer.write("above", writer.write("sigmoid", logits), uniform))


def _placed(writer: Writer, box: distributions.Box, unit: str, own: bool = True) -> str:
    """Into the box of one agent; padded components are 0 before."""
    if own and box.padded:
        unit = writer.write("multiply", unit, writer.constant(box.real[0]))
    scaled = writer.write("multiply", unit, writer.constant(box.scale[0]))
    moved = writer.write("add", scaled, writer.constant(box.center[0]))
    return writer.write("clip", moved, writer.constant(box.low[0]), writer.constant(box.high[0]))


def _gaussian(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    size = head.size
    unit = writer.write("slice", parameters, start=0, stop=size)
    if draws:
        unit = _moved(writer, unit, writer.write("slice", parameters, start=size, stop=2 * size), size)
    if head.box.padded:
        unit = writer.write("multiply", unit, writer.constant(head.box.real[0]))
    if type(head) is distributions.SquashedGaussian:
        unit = writer.write("tanh", unit)
    return _placed(writer, head.box, unit, own=False)


def _moved(writer: Writer, mean: str, log_std: str, size: int) -> str:
    noise = writer.write("multiply", writer.write("exp", log_std), writer.input("normal", size))
    return writer.write("add", mean, noise)


def _squashed(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    unit = writer.write("slice", parameters, start=0, stop=head.width)
    if draws:
        raw = writer.write("slice", parameters, start=head.width, stop=2 * head.width)
        risen = writer.write("add", writer.write("tanh", raw), writer.constant(1.0))
        scaled = writer.write("multiply", risen, writer.constant(0.5 * (head.HIGH - head.LOW)))
        unit = _moved(writer, unit, writer.write("add", scaled, writer.constant(head.LOW)), head.width)
    unit = writer.write("tanh", unit)
    if draws:
        unit = writer.write("multiply", unit, writer.constant(head.box.real[0]))
    return _placed(writer, head.box, unit, own=not draws)


def _deterministic(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    if head.choice is not None:
        return _head_writer(head.choice)(writer, head.choice, parameters, mask, draws)
    return _placed(
        writer, head.box, writer.write("multiply", writer.write("tanh", parameters), writer.constant(head._own[0]))
    )


def _uniform_box(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    doubled = writer.write("multiply", writer.input("uniform", head.size), writer.constant(2.0))
    even, normal = writer.write("subtract", doubled, writer.constant(1.0)), writer.input("normal", head.size)
    bounded = writer.constant(head.box.bounded[0])
    return _placed(writer, head.box, writer.write("choose", bounded, even, normal), own=False)


def _values(writer: Writer, head: Any, parameters: str, mask: str | None, draws: bool) -> str:
    values = parameters
    if head.bins > 1 or head.dueling:
        rows = writer.write("unflatten", values, shape=[head.actions + head.dueling, head.bins])
        if head.dueling:
            flat = head.bins
            value = writer.write("slice", parameters, start=0, stop=flat)
            value = writer.write("unflatten", value, shape=[1, flat])
            rest = writer.write("slice", parameters, start=flat, stop=head.size)
            advantage = writer.write("unflatten", rest, shape=[head.actions, flat])
            centered = writer.write("subtract", advantage, writer.write("mean", advantage, axis=-2))
            rows = writer.write("add", value, centered)
        if isinstance(head.distribution, q_head.Atoms):
            support = writer.constant(head.distribution.support().unsqueeze(1))
            rows = writer.write("product", writer.write("softmax", rows), support)
        else:
            rows = writer.write("mean", rows, axis=-1)
        values = writer.write("squeeze", rows)
    return writer.write("argmax", _allowed(writer, values, mask))


_HEADS: dict[type, Written] = {
    distributions.Categorical: _choice,
    distributions.Constant: _choice_of_constant,
    distributions.MultiCategorical: _choices_of_each,
    distributions.Bernoulli: _bits,
    distributions.Gaussian: _gaussian,
    distributions.SquashedGaussian: _gaussian,
    distributions.UniformBox: _uniform_box,
    action_head.ActionHead: _deterministic,
    action_head.SquashedHead: _squashed,
    q_head.QHead: _values,
}
