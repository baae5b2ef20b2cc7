"""A whole stacked MLP as one autograd step, with its backward written out and its buffers reused.

Autograd allocates every activation and every gradient anew; on a CPU the page faults of those megabytes cost as much as
the arithmetic. Here hidden activations live in buffers that a forward borrows and its backward returns, so two forwards
before a backward simply borrow two sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled.kernels import tanh_


def _tanh_backward(gradient: Tensor, output: Tensor) -> None:
    torch.ops.aten.tanh_backward.grad_input(gradient, output, grad_input=gradient)


def _relu(x: Tensor) -> None:
    x.relu_()


def _relu_backward(gradient: Tensor, output: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)


# In-place activation, and in-place derivative from the output alone.
FUSABLE: dict[str, tuple[Callable[[Tensor], None], Callable[[Tensor, Tensor], None]]] = {
    "tanh": (tanh_, _tanh_backward),
    "relu": (_relu, _relu_backward),
}


class Buffers:
    """Sets of hidden-layer buffers, by shape: borrowed by a forward, given back by its backward."""

    KEPT = 4  # sets kept for each shape

    def __init__(self) -> None:
        """None yet."""
        self._free: dict[tuple[int, ...], list[list[Tensor]]] = {}

    def borrow(self, sets: int, rows: int, widths: tuple[int, ...], device: torch.device) -> list[Tensor]:
        """An activation and a gradient buffer ``(S, rows, width)`` for each hidden layer."""
        if device.type != "cpu":  # where allocating costs nothing, and a recording must have its own
            return [torch.empty(sets, rows, width, device=device, dtype=torch.float32) for width in (*widths, *widths)]
        free = self._free.setdefault((sets, rows, *widths), [])
        try:
            return free.pop()  # two threads may ask at once
        except IndexError:
            pass
        with torch.inference_mode(False):
            return [torch.empty(sets, rows, width, device=device, dtype=torch.float32) for width in (*widths, *widths)]

    def give_back(self, buffers: list[Tensor]) -> None:
        """Let the next forward of that shape have them."""
        if buffers[0].device.type != "cpu":
            return
        hidden = buffers[: len(buffers) // 2]
        key = (hidden[0].shape[0], hidden[0].shape[1], *(buffer.shape[2] for buffer in hidden))
        free = self._free.setdefault(key, [])
        if len(free) < self.KEPT:
            free.append(buffers)
        # Shapes that come and go (last pieces, evaluation) must not pile up.
        while len(self._free) > 16:
            self._free.pop(next(iter(self._free)))


def _affine(bias: Tensor, x: Tensor, weight: Tensor, out: Tensor | None) -> Tensor:
    """``x W + b`` for ``(S, rows, in)``; a plain product where there is one set."""
    if x.shape[0] == 1:
        y = torch.addmm(bias[0], x[0], weight[0], out=None if out is None else out[0])
        return y.unsqueeze(0) if out is None else out
    return torch.baddbmm(bias.unsqueeze(1), x, weight, out=out)


NARROW = 16  # outputs below which products are several times faster the other way round


def _head(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The last layer, ``(S, rows, out)``; few outputs as ``(W^T x^T)^T`` (1.12 to 0.35 ms at 12,288 x 64 x 5)."""
    if x.shape[0] == 1 and weight.shape[2] < NARROW:
        y = torch.mm(weight[0].t(), x[0].t()).t().contiguous()
        return y.add_(bias[0]).unsqueeze(0)
    return _affine(bias, x, weight, None)


def _weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """``x^T g``, ``(S, in, out)``; with few outputs as ``(g^T x)^T`` (1.57 to 0.21 ms at 12,288 x 64 x 5)."""
    if x.shape[0] == 1 and gradient.shape[2] < NARROW:
        return torch.mm(gradient[0].t(), x[0]).t().unsqueeze(0)
    return _product(x.transpose(1, 2), gradient)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    if a.shape[0] == 1:
        y = torch.mm(a[0], b[0], out=None if out is None else out[0])
        return y.unsqueeze(0) if out is None else out
    return torch.bmm(a, b, out=out)


class _FusedMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: str, pool: Buffers, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[0::2], parameters[1::2]
        act = FUSABLE[activation][0]
        widths = tuple(weight.shape[2] for weight in weights[:-1])
        buffers = pool.borrow(x.shape[0], x.shape[1], widths, x.device)
        hidden = x
        for weight, bias, buffer in zip(weights[:-1], biases[:-1], buffers[: len(widths)], strict=True):
            hidden = _affine(bias, hidden, weight, buffer)
            act(hidden)
        ctx.save_for_backward(x, *weights)
        ctx.activation, ctx.pool, ctx.buffers = activation, pool, buffers
        return _head(biases[-1], hidden, weights[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        buffers = ctx.buffers
        if buffers is None:
            raise RuntimeError("backward through a network a second time: its buffers are gone; run the forward again")
        derivative = FUSABLE[ctx.activation][1]
        depth = len(weights) - 1
        inputs = [x, *buffers[:depth]]
        out: list[Tensor | None] = []
        for layer in range(depth, -1, -1):
            # A critic that an actor learns through passes the gradient on and needs none itself.
            wanted = ctx.needs_input_grad[3 + 2 * layer]
            out += [gradient.sum(1), _weight_gradient(inputs[layer], gradient)] if wanted else [None, None]
            if layer:
                gradient = _product(gradient, weights[layer].transpose(1, 2), out=buffers[depth + layer - 1])
                derivative(gradient, inputs[layer])
        input_gradient = _product(gradient, weights[0].transpose(1, 2)) if ctx.needs_input_grad[0] else None
        ctx.pool.give_back(buffers)
        ctx.buffers = None
        return (input_gradient, None, None, *reversed(out))


def fused_mlp(x: Tensor, activation: str, pool: Buffers, parameters: list[Tensor]) -> Tensor:
    """``(S, rows, in)`` to ``(S, rows, out)`` through ``[W_1, b_1, ..., W_k, b_k]``, activated between layers.

    Raises:
        RuntimeError: if a backward runs twice through one forward.
    """
    y: Tensor
    if torch.is_grad_enabled() and (x.requires_grad or any(parameter.requires_grad for parameter in parameters)):
        y = _FusedMLP.apply(x, activation, pool, *parameters)  # type: ignore[no-untyped-call]
        return y
    act = FUSABLE[activation][0]
    widths = tuple(weight.shape[2] for weight in parameters[0:-2:2])
    buffers = pool.borrow(x.shape[0], x.shape[1], widths, x.device)
    for weight, bias, buffer in zip(parameters[0:-2:2], parameters[1:-2:2], buffers, strict=False):
        x = _affine(bias, x, weight, buffer)
        act(x)
    y = _head(parameters[-1], x, parameters[-2])
    pool.give_back(buffers)
    return y
