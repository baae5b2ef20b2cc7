"""Policies as torch modules: the same programs, computed by torch, from the same files.

A bundle's arrays and names of operations are all that is read: no TorchScript, no pickle, no exported program. A module
takes a batch, a device and gradients as any other does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from marl_runtime.bundle import Bundle, BundleError
from marl_runtime.program import ILLEGAL, Array, Program, Stage

Values = dict[str, Tensor]
UNLIKELY = float(ILLEGAL)


def load_torch(bundle: Bundle, policy: int, bound: Mapping[str, Array]) -> Policy:
    """The module of one policy. Raises BundleError if it has an operation that only its ONNX graph has."""
    program = bundle.programs[policy]
    for stage in (*program.stages, *program.heads.values()):
        for step in stage.operations:
            if step.kind not in OPERATIONS:
                raise BundleError(f"operation {step.kind!r:.80} is not one of torch's here; load it with engine='onnx'")
    return Policy(program, bound)


class Policy(nn.Module):
    """A policy: ``forward(observation (B, *O), ...) -> {"action": (B, ...), "parameters": (B, K), ...}``.

    It is an engine of :class:`marl_runtime.Agent` too, which takes and returns numpy arrays without a batch axis.
    """

    def __init__(self, program: Program, bound: Mapping[str, Array]) -> None:
        """``bound``: inputs with a value for good, such as an agent's identity."""
        super().__init__()
        self.program, self.stages, self.heads = program, program.stages, program.heads
        self._bound = tuple(bound)
        for name, value in (*program.constants.items(), *bound.items()):
            self.register_buffer(name, torch.from_numpy(np.array(value)))

    def forward(self, observation: Tensor, head: str = "greedy", **inputs: Tensor) -> Values:
        """Results of all stages for a batch, and the action by one head; the program's ``inputs`` names the others.

        Where messages are exchanged between stages the same ones are heard in each; :meth:`run` goes stage by stage.
        """
        values: dict[str, Any] = {**self._buffers, "observation": observation, **inputs}
        results: Values = {}
        for stage in range(len(self.stages)):
            results |= self._results(values, self.stages[stage])
        return results | self._results(values, self.heads[head])

    @staticmethod
    def _results(values: dict[str, Any], stage: Stage) -> Values:
        for kind, out, inputs, settings in stage.operations:
            values[out] = OPERATIONS[kind](*[values[name] for name in inputs], **settings)
        return {name: values[value] for name, value in stage.results.items()}

    # --- as an engine -------------------------------------------------------------------------------------------------

    def begin(self, **inputs: Any) -> dict[str, Any]:
        """The values of one step."""
        values: dict[str, Any] = dict(self._buffers)
        self.give(values, **inputs)
        return values

    def give(self, values: dict[str, Any], **inputs: Any) -> None:
        """Set inputs of a step."""
        for name, value in inputs.items():
            if value is not None:
                values[name] = torch.from_numpy(np.array(value))

    def run(self, values: dict[str, Any], stage: int) -> dict[str, Array]:
        """The results of one stage."""
        with torch.inference_mode():
            return {name: value.numpy() for name, value in self._results(values, self.stages[stage]).items()}

    def head(self, values: dict[str, Any], name: str) -> Array:
        """The action by one head, from the last stage's parameters."""
        with torch.inference_mode():
            action: Array = self._results(values, self.heads[name])["action"].numpy()
        return action

    def step(self, head: str, **inputs: Any) -> tuple[Array, Array | None]:
        """One step of an agent that hears nobody: its action, and its next carry if it has one."""
        values = self.begin(**inputs)
        results = self.run(values, 0)
        return self.head(values, head), results.get("carry")


# --- operations: those of marl_runtime.program ------------------------------------------------------------------------


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


def _layer(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none") -> Tensor:
    return ACTIVATIONS[activation](x @ weight + bias)


def _convolution(x: Tensor, kernel: Tensor, bias: Tensor, stride: int, activation: str = "none") -> Tensor:
    y = functional.conv2d(x.reshape(-1, *x.shape[-3:]), kernel, bias, stride=stride)
    return ACTIVATIONS[activation](y.reshape(*x.shape[:-3], *y.shape[-3:]))


def _gru(given: Tensor, own: Tensor, hidden: Tensor) -> Tensor:
    width = hidden.shape[-1]
    gates = torch.sigmoid(given[..., : 2 * width] + own[..., : 2 * width])
    candidate = torch.tanh(given[..., 2 * width :] + gates[..., :width] * own[..., 2 * width :])
    return candidate + gates[..., width:] * (hidden - candidate)


def _lstm(given: Tensor, own: Tensor, cell: Tensor) -> Tensor:
    put, forget, value, out = (given + own).chunk(4, dim=-1)
    after = torch.sigmoid(forget) * cell + torch.sigmoid(put) * torch.tanh(value)
    return torch.cat((torch.sigmoid(out) * torch.tanh(after), after), dim=-1)


def _divided(x: Tensor, total: Tensor) -> Tensor:
    """By a total, where there is any."""
    return x / torch.where(total > 0, total, 1.0)


def _shares(score: Tensor, weight: Tensor) -> Tensor:
    heard = weight > 0
    top = torch.where(heard, score, -math.inf).amax(dim=-1, keepdim=True)
    power = torch.where(heard, score - torch.where(top > -math.inf, top, 0.0), 0.0).exp()
    share = weight * power
    return _divided(share, share.sum(dim=-1, keepdim=True))


def _mix(weight: Tensor, message: Tensor) -> Tensor:
    return (weight.unsqueeze(-2) @ message).squeeze(-2)


def _attention(query: Tensor, message: Tensor, weight: Tensor) -> Tensor:
    width = query.shape[-1]
    score = (message[..., :width] @ query.unsqueeze(-1)).squeeze(-1) / math.sqrt(width)
    return _mix(_shares(score, weight), message[..., width:])


def _graph_attention(query: Tensor, message: Tensor, weight: Tensor) -> Tensor:
    heads = query.shape[-1]
    values = message[..., :-heads].reshape(*message.shape[:-1], heads, -1)  # (N, H, F)
    score = functional.leaky_relu(message[..., -heads:] + query.unsqueeze(-2), 0.2).transpose(-1, -2)  # (H, N)
    share = _shares(score, weight.unsqueeze(-2))
    summed: Tensor = share.unsqueeze(-2) @ values.transpose(-2, -3)  # (H, 1, F)
    return summed.flatten(-3)


def _masked_bits(logits: Tensor, action_mask: Tensor) -> Tensor:
    pairs = action_mask.reshape(*logits.shape, 2)
    return torch.where(pairs[..., 1], torch.where(pairs[..., 0], logits, -UNLIKELY), UNLIKELY)


def _aligned(parts: tuple[Tensor, ...], kept: int) -> list[Tensor]:
    """Values of a batch beside constants that have no batch axis; ``kept``: last axes that stay as they are."""
    front = np.broadcast_shapes(*(part.shape[: part.dim() - kept] for part in parts))
    return [part.expand((*front, *part.shape[part.dim() - kept :])) for part in parts]


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "layer": _layer,
    "product": torch.matmul,
    "convolution": _convolution,
    "gru": _gru,
    "lstm": _lstm,
    "mean_heard": lambda message, weight: _mix(_divided(weight, weight.sum(dim=-1, keepdim=True)), message),
    "sum_heard": lambda message, weight: _mix(weight, message),
    "attention": _attention,
    "graph_attention": _graph_attention,
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "exp": torch.exp,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: torch.softmax(x, dim=-1),
    "clip": lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
    "concat": lambda *parts: torch.cat(_aligned(parts, 1), dim=-1),
    "slice": lambda x, start, stop: x[..., start:stop],
    "flatten": lambda x, axes: x.flatten(-axes),
    "unflatten": lambda x, shape: x.reshape(*x.shape[:-1], *shape),
    "mean": lambda x, axis: x.mean(dim=axis, keepdim=True),
    "squeeze": lambda x: x[..., 0],
    "image": lambda x: x.float() * (1 / 255),
    "above": lambda x, y: (x > y).float(),
    "choose": lambda which, x, y: torch.where(which > 0, x, y),
    "mask": lambda logits, action_mask: torch.where(action_mask, logits, UNLIKELY),
    "mask_bits": _masked_bits,
    "gumbel": lambda logits, uniform: logits - (-uniform.log()).log(),
    "argmax": lambda x: x.argmax(dim=-1),
    "stack": lambda *parts: torch.stack(_aligned(parts, 0), dim=-1),
    "whole": lambda x: x.long(),
}
