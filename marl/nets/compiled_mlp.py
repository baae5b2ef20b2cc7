"""A network of fully connected layers in compiled tiles: float32 on a CPU, parameters in a flat matrix.

All agents of all rows in one call, which reads its inputs where they lie, whatever views and expansions they are, side
by side as they come. With gradients it is one autograd step whose activations are kept in arrays that are used again;
where only some of the inputs want a gradient (the action that a critic judges) only theirs is computed. Large networks
go in two halves on two threads. :mod:`marl.nets.fused` serves everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.nets.networks import MLPBody, is_plain
from marl.nets.owner import Owner
from marl.nets.stacked import StackedLinear
from marl.nets.tiles import aligned, backward, compiled, flat_matrix, flip, forward, padded, tile_size
from marl.nets.vectors import LANES, copy
from marl.parallel import both, threads
from marl.types import Array

WORTH = 1.5e7  # multiplications from which a second thread pays for the meeting
PARTS = 3  # inputs that may come side by side
_NOTHING = np.zeros(0, dtype=np.float32)


class CompiledMLP:
    """One network; takes what lies in its parameters at the time of the call."""

    KEPT = 4  # arrays kept for each shape

    def __init__(self, owner: Owner, body: MLPBody, head: StackedLinear, flat: Array) -> None:
        """See :meth:`of`."""
        self.flat = flat  # (P, D)
        self.parameters = [parameter for layer in (*body.layers, head) for parameter in layer.parameters()]
        self._weight, self._place = head.weight, head.weight.data_ptr()
        self.layers, self.activation = body.table(head), body.activation_code
        self.members, self.sizes = owner.table
        self.agents = owner.num_agents
        self.inputs, self.outputs = int(self.layers[0, 0]), int(self.layers[-1, 1])
        self.widest = int(self.layers[:, 1].max())
        self.work = int((self.layers[:, 0] * self.layers[:, 1]).sum()) * self.agents
        self._kept: dict[tuple[int, ...], list[Array]] = {}
        self._tables: dict[tuple[int, bool], tuple[Array, int]] = {}

    @classmethod
    def of(cls, owner: Owner, body: Any, head: StackedLinear) -> Self | None:
        """For a network that can be had this way; else None."""
        if not is_plain(body, head):
            return None
        flat = flat_matrix([*body.parameters(), *head.parameters()], owner.num_sets)
        return None if flat is None else cls(owner, body, head, flat)

    def __deepcopy__(self, memo: Any) -> None:
        """A copied network has other parameters to look at, and finds them when it is first asked."""

    @property
    def stale(self) -> bool:
        """Whether the parameters lie elsewhere by now: when they are gathered into a matrix, or change the device."""
        return self._weight.data_ptr() != self._place

    def __call__(self, *parts: Tensor) -> Tensor:
        """Outputs ``(T, B, N, O)`` of inputs ``(T, B, N, F)`` side by side, with a gradient to all of these and to the
        parameters."""
        if torch.is_grad_enabled():
            y: Tensor = _Step.apply(self, len(parts), *parts, *self.parameters)  # type: ignore[no-untyped-call]
            return y
        return self.forward(parts, keep=False)[0]

    def forward(self, parts: Sequence[Tensor], keep: bool) -> tuple[Tensor, Array | None]:
        """Outputs, and the outputs of all layers ``(tiles, depth, widest, columns)`` if they are to be kept."""
        time, batch = parts[0].shape[:2]
        assert all(part.shape[:3] == (time, batch, self.agents) for part in parts)
        layout, lines = _lines(parts)
        table, most, two = self._plan(time * batch)
        out = torch.empty(time, batch, self.agents, self.outputs, dtype=torch.float32)
        rows = out.view(-1, self.outputs).numpy()
        shape = len(self.layers), self.widest, most
        hidden = self._borrow(len(table), *shape) if keep else None

        def part(start: int, stop: int) -> None:
            room = self._borrow(self.inputs, most)
            own = self._borrow(1, *shape) if hidden is None else hidden
            _forward(
                self.flat, self.layers, self.activation, self.members, self.sizes, table, layout, *lines, time, batch,
                own, rows, room, start, stop,
            )  # fmt: skip
            self._give_back(room)
            if hidden is None:
                self._give_back(own)

        _in_halves(part, len(table), two)
        return out, hidden

    def backward(
        self, parts: Sequence[Tensor], wanted: Sequence[bool], hidden: Array, slope: Tensor, parameters: bool
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The gradients of the flat matrix, if ``parameters``, and of the ``wanted`` inputs from the outputs' one."""
        time, batch = parts[0].shape[:2]
        layout, lines = _lines(parts)
        slope_layout, slopes = _lines([slope])
        table, most, two = self._plan(time * batch)
        ends = np.cumsum([0, *(part.shape[-1] for part in parts)])
        places = [which for which, want in enumerate(wanted) if want]
        low, high = (int(ends[places[0]]), int(ends[places[-1] + 1])) if places else (0, 0)
        to_inputs = torch.empty(time, batch, self.agents, high - low, dtype=torch.float32)
        rows = to_inputs.view(-1, high - low).numpy() if places else np.zeros((0, 0), dtype=np.float32)
        sums: list[Array] = []

        def part(start: int, stop: int) -> None:
            room = self._borrow(self.inputs, most)
            z = self._borrow(2, max(self.widest, self.inputs), most)
            gradient = np.zeros(self.flat.shape if parameters else (len(self.flat), 1), dtype=np.float32)
            _backward(
                self.flat, self.layers, self.activation, self.members, self.sizes, table, layout, *lines, time, batch,
                hidden, slope_layout, slopes[0], low, high, rows, room, z, gradient, parameters, start, stop,
            )  # fmt: skip
            self._give_back(room)
            self._give_back(z)
            sums.append(gradient)

        _in_halves(part, len(table), two)
        self._give_back(hidden)
        total = sums[0] if len(sums) == 1 else np.add(sums[0], sums[1], out=sums[0])
        found = [
            to_inputs[..., ends[which] - low : ends[which + 1] - low] if want else None
            for which, want in enumerate(wanted)
        ]
        return torch.from_numpy(total) if parameters else None, found

    def _plan(self, rows: int) -> tuple[Array, int, bool]:
        """The tiles ``(set, first row, rows)``, their columns, and whether two threads share them."""
        two = threads() > 1 and self.work * rows > WORTH
        if (rows, two) not in self._tables:
            if len(self._tables) > 64:  # numbers of rows that come and go must not pile up
                self._tables.clear()
            counts = [rows * int(size) for size in self.sizes]
            tiles = -(-max(counts) // tile_size(self.inputs))
            if two and len(counts) == 1:
                tiles += tiles % 2
            most = padded(-(-max(counts) // tiles))
            places = [
                (which, first, min(most, count - first))
                for which, count in enumerate(counts)
                for first in range(0, count, most)
            ]
            self._tables[rows, two] = np.array(places, dtype=np.int64), most
        return *self._tables[rows, two], two

    def _borrow(self, *shape: int) -> Array:
        """An array with anything in it."""
        try:
            return self._kept[shape].pop()  # two threads may ask at once
        except (KeyError, IndexError):
            return aligned(*shape)

    def _give_back(self, array: Array) -> None:
        """Let the next one have it."""
        if len(self._kept) > 32:  # shapes that come and go (last pieces, evaluation) must not pile up
            self._kept.clear()
        kept = self._kept.setdefault(array.shape, [])
        if len(kept) < self.KEPT:
            kept.append(array)


def _in_halves(part: Callable[[int, int], None], tiles: int, two: bool) -> None:
    """All tiles, the second half of them on the other thread."""
    if two and tiles > 1:
        both(lambda: part(0, tiles // 2), lambda: part(tiles // 2, tiles))
    else:
        part(0, tiles)


def _lines(parts: Sequence[Tensor]) -> tuple[Array, tuple[Array, Array, Array]]:
    """Strides and width ``(PARTS, 4)`` of some ``(T, B, N, F)``, and the memory of each.

    Nothing is copied unless a last axis is strewn.
    """
    layout, lines = np.zeros((PARTS, 4), dtype=np.int64), [_NOTHING] * PARTS
    for which, part in enumerate(parts):
        x = part.detach()
        if not x.shape[3]:
            continue
        if x.stride(3) != 1 and x.shape[3] > 1:
            x = x.contiguous()
        (time, batch, agents, width), strides = x.shape, x.stride()
        layout[which] = strides[0], strides[1], strides[2], width
        length = width + (time - 1) * strides[0] + (batch - 1) * strides[1] + (agents - 1) * strides[2]
        lines[which] = torch.as_strided(x, (length,), (1,)).numpy()
    return layout, (lines[0], lines[1], lines[2])


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, net: CompiledMLP, count: int, *tensors: Tensor) -> Tensor:
        parts = tensors[:count]
        out, hidden = net.forward(parts, keep=True)
        ctx.save_for_backward(*parts)
        ctx.net, ctx.hidden = net, hidden
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        net, hidden, wanted = ctx.net, ctx.hidden, ctx.needs_input_grad[2:]
        if hidden is None:
            raise RuntimeError("backward through a network a second time: its buffers are gone; run the forward again")
        # A critic that an actor learns through passes the gradient on and needs none itself.
        gradient, found = net.backward(parts, wanted[: len(parts)], hidden, slope, any(wanted[len(parts) :]))
        ctx.hidden = None
        if gradient is None:
            return (None, None, *found, *[None for _ in net.parameters])
        places = net.layers[:, 2:].reshape(-1).tolist()  # of W_1, b_1, W_2, ...
        shapes = [parameter.shape for parameter in net.parameters]
        columns = [
            gradient[:, place : place + shape[1:].numel()].view(shape)
            for place, shape in zip(places, shapes, strict=True)
        ]
        return (None, None, *found, *columns)


@compiled
def _even(layout: Array, times: int, batch: int, members: Array, size: int) -> int:
    """The distance of a set's rows in memory; -1 if it is not the same from each to the next."""
    step, rows = 0, 1
    if size > 1:
        if members[size - 1] - members[0] != size - 1:
            return -1
        step, rows = layout[2], size
    if batch > 1:
        if rows > 1 and layout[1] != step * rows:
            return -1
        step, rows = (step if rows > 1 else layout[1]), rows * batch
    if times > 1 and rows > 1 and layout[0] != step * rows:
        return -1
    return step if rows > 1 else layout[0]


@compiled
def _load_part(
    x: Array, layout: Array, line: Array, times: int, batch: int, members: Array, size: int, first: int, columns: int
) -> None:
    """:func:`_load` of one part: a transposition, of rows that are first laid together where they are uneven."""
    width, across = layout[3], x.shape[1]
    if width == 0:
        return
    row, member = first // size, first % size
    time, place = row // batch, row % batch
    step = _even(layout, times, batch, members, size)
    if step >= 0:
        start = time * layout[0] + place * layout[1] + members[member] * layout[2]
        flip(x, 0, across, line, start, step, columns, width)
        return
    room = np.empty(LANES * max(width, LANES), dtype=np.float32)
    for group in range(0, columns, LANES):
        many = min(LANES, columns - group)
        for i in range(many):
            start = time * layout[0] + place * layout[1] + members[member] * layout[2]
            copy(room, i * width, line, start, width)
            member += 1
            if member == size:
                member, place = 0, place + 1
                if place == batch:
                    place, time = 0, time + 1
        flip(x, group, across, room, 0, width, many, width)


@compiled
def _load(
    x: Array, layout: Array, one: Array, two: Array, three: Array, times: int, batch: int, members: Array, size: int,
    first: int, columns: int,
) -> None:  # fmt: skip
    """Rows ``first, first + 1, ...`` of a set, counting its agents within rows, as columns; zeros beyond the last."""
    before = layout[0, 3], layout[0, 3] + layout[1, 3]
    _load_part(x, layout[0], one, times, batch, members, size, first, columns)
    _load_part(x[before[0] :], layout[1], two, times, batch, members, size, first, columns)
    _load_part(x[before[1] :], layout[2], three, times, batch, members, size, first, columns)
    for f in range(before[1] + layout[2, 3]):
        for j in range(columns, padded(columns)):
            x[f, j] = 0


@compiled
def _spread(out: Array, z: Array, agents: int, members: Array, size: int, first: int, columns: int) -> None:
    """The other way: columns of ``z`` to rows of ``out (T * B * N, F)``."""
    width = out.shape[1]
    row, member = first // size, first % size
    room = np.empty(LANES * max(width, LANES), dtype=np.float32)
    for group in range(0, columns, LANES):
        many = min(LANES, columns - group)
        flip(room, 0, width, z, group, z.shape[1], width, many if width < LANES else LANES)
        for i in range(many):
            copy(out, (row * agents + members[member]) * width, room, i * width, width)
            member += 1
            if member == size:
                member, row = 0, row + 1


@compiled
def _forward(
    flat: Array, layers: Array, activation: int, members: Array, sizes: Array, table: Array,
    layout: Array, one: Array, two: Array, three: Array, times: int, batch: int,
    hidden: Array, out: Array, x: Array, start: int, stop: int,
) -> None:  # fmt: skip
    """``out (T * B * N, O)`` for some of all tiles."""
    depth, agents = layers.shape[0], sizes.sum()
    for tile in range(start, stop):
        which, first, columns = table[tile]
        own = hidden[tile if hidden.shape[0] > 1 else 0]
        _load(x, layout, one, two, three, times, batch, members[which], sizes[which], first, columns)
        forward(flat[which], layers, activation, x, own, padded(columns))
        _spread(out, own[depth - 1], agents, members[which], sizes[which], first, columns)


@compiled
def _backward(
    flat: Array, layers: Array, activation: int, members: Array, sizes: Array, table: Array,
    layout: Array, one: Array, two: Array, three: Array, times: int, batch: int,
    hidden: Array, slope_layout: Array, slope: Array,
    low: int, high: int, to_inputs: Array, x: Array, z: Array, gradient: Array, parameters: bool, start: int, stop: int,
) -> None:  # fmt: skip
    """Add to ``gradient (P, D)`` and fill ``to_inputs (T * B * N, high - low)`` from some of all tiles."""
    agents = sizes.sum()
    for tile in range(start, stop):
        which, first, columns = table[tile]
        if parameters:
            _load(x, layout, one, two, three, times, batch, members[which], sizes[which], first, columns)
        _load(
            z[0], slope_layout, slope, slope[:0], slope[:0], times, batch, members[which], sizes[which], first, columns
        )
        place = backward(
            flat[which], layers, activation, x, hidden[tile], z, padded(columns), gradient[which], parameters, low, high
        )  # fmt: skip
        if low < high:
            _spread(to_inputs, z[place], agents, members[which], sizes[which], first, columns)
