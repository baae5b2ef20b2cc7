"""A whole stacked MLP as one autograd step in compiled tiles: float32 on a CPU, parameters in a flat matrix.

As :mod:`marl.nets.fused`, which serves everything else, with activations kept as tiles in arrays that are used again.
Large networks go in two halves on two threads: tiles of rows, or parameter sets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.nets.tiles import aligned, backward, compiled, flip, forward, padded, tile_size
from marl.parallel import both, threads
from marl.types import Array

WORTH = 1.5e7  # multiplications from which a second thread pays for the meeting


class CompiledMLP:
    """The layers of one network in the rows of ``flat (S, D)``."""

    KEPT = 4  # arrays kept for each shape

    def __init__(self, flat: Array, layers: Array, activation: int) -> None:
        """``layers``: see :mod:`marl.nets.tiles`."""
        self.flat, self.layers, self.activation = flat, layers, activation
        self.widest = int(layers[:, 1].max())
        self.work = int((layers[:, 0] * layers[:, 1]).sum())
        self._kept: dict[tuple[int, ...], list[Array]] = {}

    def __deepcopy__(self, memo: Any) -> None:
        """A copied network has other parameters to look at, and finds them when it is first asked."""

    def borrow(self, *shape: int) -> Array:
        """An array with anything in it."""
        try:
            return self._kept[shape].pop()  # two threads may ask at once
        except (KeyError, IndexError):
            return aligned(*shape)

    def give_back(self, array: Array) -> None:
        """Let the next one have it."""
        if len(self._kept) > 16:  # shapes that come and go (last pieces, evaluation) must not pile up
            self._kept.clear()
        kept = self._kept.setdefault(array.shape, [])
        if len(kept) < self.KEPT:
            kept.append(array)

    def plan(self, sets: int, rows: int) -> tuple[int, bool]:
        """Columns of a tile, and whether two threads share the tiles."""
        two = threads() > 1 and self.work * sets * rows > WORTH
        parts = 2 if two and sets == 1 else 1
        return min(tile_size(int(self.layers[0, 0])), padded((rows + parts - 1) // parts)), two

    def forward(self, x: Tensor) -> tuple[Tensor, Array]:
        """Outputs ``(S, R, O)`` of ``x (S, R, F)``, and all layers' outputs ``(S * tiles, depth, widest, columns)``."""
        sets, rows, _ = x.shape
        columns, two = self.plan(sets, rows)
        tiles = sets * -(-rows // columns)
        hidden = self.borrow(tiles, len(self.layers), self.widest, columns)
        out = torch.empty(sets, rows, int(self.layers[-1, 1]))
        base, strides = _as_line(x)

        def part(start: int, stop: int) -> None:
            room = self.borrow(int(self.layers[0, 0]), columns)
            _forward(
                self.flat, self.layers, self.activation, base, strides, hidden, out.numpy(), room, start, stop
            )  # fmt: skip
            self.give_back(room)

        _in_halves(part, tiles, two)
        return out, hidden

    def backward(
        self, x: Tensor, hidden: Array, slope: Tensor, parameters: bool, inputs: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the flat matrix and of ``x`` from that of the outputs, ``slope (S, R, O)``."""
        sets, rows, width = x.shape
        tiles, _, _, columns = hidden.shape
        _, two = self.plan(sets, rows)
        base, strides = _as_line(x)
        slopes = slope.contiguous().numpy()
        to_x = np.empty((sets, rows, width) if inputs else (0, 0, 0), dtype=np.float32)
        sums: list[Array] = []

        def part(start: int, stop: int) -> None:
            room = self.borrow(int(self.layers[0, 0]), columns)
            z = self.borrow(2, max(self.widest, width), columns)
            gradient = np.zeros(self.flat.shape if parameters else (sets, 1), dtype=np.float32)
            _backward(
                self.flat, self.layers, self.activation, base, strides, hidden, slopes, to_x, room, z, gradient,
                parameters, inputs, start, stop,
            )  # fmt: skip
            self.give_back(room)
            self.give_back(z)
            sums.append(gradient)

        _in_halves(part, tiles, two)
        total = sums[0] if len(sums) == 1 else np.add(sums[0], sums[1], out=sums[0])
        self.give_back(hidden)
        return torch.from_numpy(total) if parameters else None, torch.from_numpy(to_x) if inputs else None

    def __call__(self, x: Tensor, parameters: list[Tensor]) -> Tensor:
        """Outputs with a gradient to ``x`` and to ``[W_1, b_1, ..., W_k, b_k]``."""
        if not torch.is_grad_enabled():
            out, hidden = self.forward(x)
            self.give_back(hidden)
            return out
        y: Tensor = _Step.apply(x, self, *parameters)  # type: ignore[no-untyped-call]
        return y


def _in_halves(part: Any, tiles: int, two: bool) -> None:
    """All tiles, the second half of them on the other thread."""
    if two and tiles > 1:
        both(lambda: part(0, tiles // 2), lambda: part(tiles // 2, tiles))
    else:
        part(0, tiles)


def _as_line(x: Tensor) -> tuple[Array, tuple[int, int, int]]:
    """The memory of ``x (S, R, F)`` and its strides: whatever views and expansions it is made of, nothing is copied."""
    strides = x.stride()
    length = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides, strict=True))
    line: Array = torch.as_strided(x.detach(), (length,), (1,)).numpy()
    return line, (int(strides[0]), int(strides[1]), int(strides[2]))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, net: CompiledMLP, *parameters: Tensor) -> Tensor:
        out, hidden = net.forward(x)
        ctx.save_for_backward(x)
        ctx.net, ctx.hidden, ctx.shapes = net, hidden, [parameter.shape for parameter in parameters]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        net, hidden = ctx.net, ctx.hidden
        if hidden is None:
            raise RuntimeError("backward through a network a second time: its buffers are gone; run the forward again")
        # A critic that an actor learns through passes the gradient on and needs none itself.
        wanted = any(ctx.needs_input_grad[2:])
        gradient, to_x = net.backward(x, hidden, slope, wanted, ctx.needs_input_grad[0])
        ctx.hidden = None
        if gradient is None:
            return (to_x, None, *[None for _ in ctx.shapes])
        places = net.layers[:, 2:].reshape(-1).tolist()  # of W_1, b_1, W_2, ...
        parts = [
            gradient[:, place : place + shape[1:].numel()].view(shape)
            for place, shape in zip(places, ctx.shapes, strict=True)
        ]
        return (to_x, None, *parts)


@compiled
def _load(x: Array, base: Array, strides: Any, which: int, first: int, width: int, columns: int) -> None:
    """Rows ``first, first + 1, ...`` of a set as columns; zeros beyond the last."""
    begin = which * strides[0] + first * strides[1]
    if strides[2] == 1:
        flip(x, 0, x.shape[1], base, begin, strides[1], columns, width)
    else:
        for j in range(columns):
            for f in range(width):
                x[f, j] = base[begin + j * strides[1] + f * strides[2]]
    for f in range(width):
        for j in range(columns, padded(columns)):
            x[f, j] = 0


@compiled
def _forward(
    flat: Array, layers: Array, activation: int, base: Array, strides: Any, hidden: Array, out: Array, x: Array,
    start: int, stop: int,
) -> None:  # fmt: skip
    """``out (S, R, O)`` for some of all sets' tiles."""
    each = hidden.shape[0] // out.shape[0]
    depth, outputs, most = layers.shape[0], layers[-1, 1], hidden.shape[3]
    for tile in range(start, stop):
        which, first = tile // each, tile % each * most
        columns = min(most, out.shape[1] - first)
        _load(x, base, strides, which, first, layers[0, 0], columns)
        forward(flat[which], layers, activation, x, hidden[tile], padded(columns))
        for j in range(columns):
            for a in range(outputs):
                out[which, first + j, a] = hidden[tile, depth - 1, a, j]


@compiled
def _backward(
    flat: Array, layers: Array, activation: int, base: Array, strides: Any, hidden: Array, slope: Array, to_x: Array,
    x: Array, z: Array, gradient: Array, parameters: bool, inputs: bool, start: int, stop: int,
) -> None:  # fmt: skip
    """Add to ``gradient (S, D)`` and fill ``to_x (S, R, F)`` from some of all sets' tiles."""
    each = hidden.shape[0] // slope.shape[0]
    outputs, most = layers[-1, 1], hidden.shape[3]
    for tile in range(start, stop):
        which, first = tile // each, tile % each * most
        columns = min(most, slope.shape[1] - first)
        full = padded(columns)
        _load(x, base, strides, which, first, layers[0, 0], columns)
        for a in range(outputs):
            for j in range(columns):
                z[0, a, j] = slope[which, first + j, a]
            for j in range(columns, full):
                z[0, a, j] = 0
        place = backward(
            flat[which], layers, activation, x, hidden[tile], z, full, gradient[which], parameters, inputs
        )  # fmt: skip
        if inputs:
            flip(to_x[which, first:], 0, layers[0, 0], z[place], 0, most, layers[0, 0], columns)
