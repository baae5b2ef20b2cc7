"""Several small networks that read the same rows, in one compiled call, with their gradient: float32 on a CPU.

A mixer makes its weights from the state by several networks of one or two layers each. Here ``ROWS`` rows at a time go
through all of them, rows first. The numbers are those of the layers one by one in ``marl/nets/side_by_side.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled import backend
from marl.compiled.backend import SmallNets, require_equal
from marl.compiled.panels import (
    ROWS,
    Workroom,
    Workrooms,
    add_outer,
    add_sums,
    affine,
    fresh,
    in_halves,
    pack,
    pack_turned,
    sum_places,
    times,
    whole,
)
from marl.compiled.tiles import fast_kernel, flat_matrix, layer_table, passed, spans
from marl.compiled.vectors import ZERO, copy
from marl.types import Array

X, ONE, TWO, THREE = range(4)  # rooms: what is read, and what passes from layer to layer

_ZERO = np.float32(0)
_NOTHING = np.zeros((0, 0), dtype=np.float32)


class Nets(NamedTuple):
    """Networks as kernels take them."""

    flat: Array  # (1, D) their parameters are columns of it
    layers: Array  # (depth of all, 4)
    ends: Array  # (nets,) how many layers there are up to the end of each


_NETS, _WORKROOM, _REST = spans(Nets, Workroom)


class CompiledNets:
    """The networks of a mixer; takes what lies in their parameters at the time of the call."""

    def __init__(self, nets: SmallNets, flat: Array) -> None:
        """See :meth:`maybe`."""
        self.parameters, self.plain = nets.parameters, nets.plain
        weights, biases = self.parameters[::2], self.parameters[1::2]
        shapes = [(int(weight.shape[0]), int(weight.shape[1])) for weight in weights]
        places = [
            (int(weight.storage_offset()), int(bias.storage_offset()))
            for weight, bias in zip(weights, biases, strict=True)
        ]
        layers, ends = layer_table(shapes, places), np.cumsum(nets.depths)
        self.nets = Nets(flat, layers, ends)
        last = set((ends - 1).tolist())
        self.outputs = sum(outputs for place, (_, outputs) in enumerate(shapes) if place in last)
        self.hidden = sum(outputs for place, (_, outputs) in enumerate(shapes) if place not in last)
        self.work = sum(inputs * outputs for inputs, outputs in shapes)
        self._rooms = Workrooms(layers, THREE + 1)

    @classmethod
    def maybe(cls, nets: SmallNets) -> Self | None:
        """For networks whose parameters lie in a flat matrix on the CPU; else None."""
        flat = flat_matrix(nets.parameters, 1)
        return None if flat is None else cls(nets, flat)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs ``(..., widths of all)`` of inputs ``(..., F)``, with a gradient to inputs and parameters."""
        rows = x.reshape(-1, x.shape[-1])
        if torch.is_grad_enabled():
            out: Tensor = _Passing.apply(self, rows, *self.parameters)  # type: ignore[no-untyped-call]
        else:
            out = torch.from_numpy(self.forward(rows, keep=False)[0])
            if backend.checking:
                require_equal("networks side by side", (out, self.plain(rows, self.parameters)))
        return out.view(*x.shape[:-1], self.outputs)

    def forward(self, x: Tensor, keep: bool) -> tuple[Array, Array]:
        """Outputs ``(R, widths of all)``, and hidden activations, if they are to be kept."""
        rows = x.detach().contiguous().numpy()
        out = fresh(len(rows), self.outputs)
        hidden = fresh(len(rows), self.hidden) if keep else _NOTHING

        def some(low: int, high: int) -> None:
            room = self._rooms.borrow()
            _forward(*self.nets, *room, rows, out, hidden, keep, low, high)
            self._rooms.give_back(room)

        in_halves(some, len(rows), len(rows) * self.work)
        return out, hidden

    def backward(self, x: Tensor, hidden: Array, slope: Tensor, to_x: bool) -> tuple[Array, Array]:
        """The gradients of the flat matrix and, if ``to_x``, of the inputs from that of the outputs."""
        rows, slopes = x.detach().contiguous().numpy(), slope.contiguous().numpy()
        to_rows = fresh(*rows.shape) if to_x else _NOTHING
        parts: list[Array] = []

        def some(low: int, high: int) -> None:
            room, gradient = self._rooms.borrow(), np.zeros(self.nets.flat.shape, dtype=np.float32)
            _backward(*self.nets, *room, rows, hidden, slopes, to_rows, to_x, low, high, gradient)
            self._rooms.give_back(room)
            parts.append(gradient)

        in_halves(some, len(rows), len(rows) * self.work)
        return sum(parts[1:], parts[0]), to_rows


class _Passing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, nets: CompiledNets, x: Tensor, *parameters: Tensor) -> Tensor:
        array, hidden = nets.forward(x, keep=any(ctx.needs_input_grad))
        out = torch.from_numpy(array)
        if backend.checking:
            require_equal("networks side by side", (out, nets.plain(x, parameters)))
        ctx.save_for_backward(x, *parameters)
        ctx.nets, ctx.hidden = nets, hidden
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        nets, to_x = ctx.nets, ctx.needs_input_grad[1]
        gradient, to_rows = nets.backward(x, ctx.hidden, slope, to_x)
        flat = torch.from_numpy(gradient)[0]
        columns = [
            flat[place : place + parameter.numel()].view(parameter.shape)
            for place, parameter in zip(nets.nets.layers[:, 2:].reshape(-1).tolist(), parameters, strict=True)
        ]
        found = [torch.from_numpy(to_rows), *columns] if to_x else columns
        if backend.checking:
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_(to_x), *(part.detach().requires_grad_() for part in parameters)]
                out = nets.plain(leaves[0], leaves[1:])
                wanted = torch.autograd.grad(out, leaves if to_x else leaves[1:], slope)
            largest = max(max(float(part.abs().max()) for part in wanted), 1e-12)
            pairs = [(one / largest, other / largest) for one, other in zip(found, wanted, strict=True)]
            require_equal("the gradient of networks side by side", *pairs, tolerance=0.1)
        return None, (found[0] if to_x else None), *columns


@fast_kernel
def _forward(*arguments: Any) -> None:
    """:func:`_outputs` of :class:`Nets`, a :class:`Workroom` and the rest, end to end."""
    _outputs(Nets(*arguments[_NETS]), Workroom(*arguments[_WORKROOM]), *arguments[_REST])


@fast_kernel
def _outputs(nets: Nets, work: Workroom, x: Array, out: Array, hidden: Array, keeps: bool, low: int, high: int) -> None:
    """``out (R, widths of all)``, and the activations within ``hidden``, of rows ``low`` to ``high``."""
    flat, layers, rooms, inputs = nets.flat[0], nets.layers, work.rooms, x.shape[1]
    pack(work.panels, flat, layers)
    for first in range(low, high, ROWS):
        rows = min(ROWS, high - first)
        for i in range(rows):
            copy(rooms[X], i * rooms.shape[2], x, (first + i) * inputs, inputs)
        begin = origin = place = within = 0
        for net in range(nets.ends.size):
            a = rooms[X]
            for layer in range(begin, nets.ends[net]):
                y, width = rooms[ONE + layer % 2], layers[layer, 1]
                affine(y, a, flat, layers[layer], work.panels, origin, rows)
                last = layer == nets.ends[net] - 1
                for i in range(rows):
                    if last:
                        copy(out, (first + i) * out.shape[1] + place, y, i * y.shape[1], width)
                        continue
                    for j in range(width):
                        y[i, j] = _ZERO if y[i, j] < 0 else y[i, j]  # NaN stays NaN
                    if keeps:
                        copy(hidden, (first + i) * hidden.shape[1] + within, y, i * y.shape[1], width)
                if last:
                    place += width
                else:
                    within += width
                origin += layers[layer, 0] * whole(width)
                a = y
            begin = nets.ends[net]


@fast_kernel
def _backward(*arguments: Any) -> None:
    """:func:`_slopes` of :class:`Nets`, a :class:`Workroom` and the rest, end to end."""
    _slopes(Nets(*arguments[_NETS]), Workroom(*arguments[_WORKROOM]), *arguments[_REST])


@fast_kernel
def _slopes(
    nets: Nets, work: Workroom, x: Array, hidden: Array, slope: Array, to_x: Array, wanted: bool, low: int, high: int,
    gradient: Array,
) -> None:  # fmt: skip
    """Add to ``gradient (1, D)``, and fill ``to_x`` if that is wanted, of rows ``low`` to ``high``."""
    flat, layers, rooms, sums, inputs = nets.flat[0], nets.layers, work.rooms, work.sums, x.shape[1]
    pack_turned(work.turned, flat, layers)
    sums[:] = _ZERO
    for first in range(low, high, ROWS):
        rows = min(ROWS, high - first)
        if wanted:
            for i in range(rows):
                for j in range(inputs):
                    to_x[first + i, j] = _ZERO
        origin, place, within = work.turned.size, slope.shape[1], hidden.shape[1]
        total, ends = sum_places(layers)
        for net in range(nets.ends.size - 1, -1, -1):
            begin = nets.ends[net - 1] if net > 0 else 0
            z, width = rooms[ONE], layers[nets.ends[net] - 1, 1]
            place -= width
            for i in range(rows):
                copy(z, i * z.shape[1], slope, (first + i) * slope.shape[1] + place, width)
            for layer in range(nets.ends[net] - 1, begin - 1, -1):
                inner, outer, a = layers[layer, 0], layers[layer, 1], rooms[X]
                origin -= outer * whole(inner)
                total -= inner * whole(outer)
                ends -= outer
                if layer > begin:
                    within -= inner
                for i in range(rows):
                    if layer > begin:
                        copy(a, i * a.shape[1], hidden, (first + i) * hidden.shape[1] + within, inner)
                    else:
                        copy(a, i * a.shape[1], x, (first + i) * inputs, inner)
                add_outer(sums, total, ends, a, z, rows, inner, outer)
                if layer == begin and not wanted:
                    continue
                to = rooms[TWO + layer % 2]
                times(to, z, work.turned, origin, rows, outer, inner, ZERO)
                for i in range(rows):
                    if layer == begin:
                        for j in range(inner):
                            to_x[first + i, j] += to[i, j]
                    else:
                        for j in range(inner):
                            to[i, j] = passed(to[i, j], a[i, j])
                z = to
    add_sums(gradient[0], sums, layers)
