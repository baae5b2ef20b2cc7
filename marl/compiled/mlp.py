"""A network of fully connected layers in compiled tiles: float32 on a CPU, parameters in a flat matrix.

All agents of all rows in one call, which reads its inputs where they lie, whatever views and expansions they are, side
by side as they come. With gradients it is one autograd step whose activations are kept in arrays that are used again;
where only some of the inputs want a gradient (the action that a critic judges) only theirs is computed. Large networks
go in two halves on two threads. Torch computes everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled.backend import PARTS, DenseLayers
from marl.compiled.tiles import (
    ACTIVATIONS,
    Net,
    aligned,
    backward,
    fast_kernel,
    flat_matrix,
    flip,
    forward,
    layer_table,
    padded,
    spans,
    tile_size,
)
from marl.compiled.vectors import LANES, copy
from marl.parallel import both, threads
from marl.types import Array

WORTH = 1.5e7  # multiplications from which a second thread pays for the meeting
_NOTHING = np.zeros(0, dtype=np.float32)


class CompiledMLP:
    """One network; takes what lies in its parameters at the time of the call."""

    KEPT = 4  # arrays kept for each shape

    def __init__(self, dense: DenseLayers, flat: Array) -> None:
        """See :meth:`maybe`."""
        weights, biases = dense.weights, dense.biases
        self.parameters = dense.parameters
        shapes = [(int(weight.shape[1]), int(weight.shape[2])) for weight in weights]
        places = [
            (int(weight.storage_offset()), int(bias.storage_offset()))
            for weight, bias in zip(weights, biases, strict=True)
        ]
        self.layers = layer_table(shapes, places)
        self.net = Net(flat, self.layers, ACTIVATIONS[dense.activation], dense.members, dense.sizes)
        self._weight, self._place = weights[-1], weights[-1].data_ptr()
        self.sizes = dense.sizes
        self.agents = int(dense.sizes.sum())
        self.inputs, self.outputs = int(self.layers[0, 0]), int(self.layers[-1, 1])
        self.widest = int(self.layers[:, 1].max())
        self.work = int((self.layers[:, 0] * self.layers[:, 1]).sum()) * self.agents
        self._kept: dict[tuple[int, ...], list[Array]] = {}
        self._tables: dict[tuple[int, bool], tuple[Array, int, bool]] = {}

    @classmethod
    def maybe(cls, dense: DenseLayers | None) -> Self | None:
        """For a network of known layers whose parameters lie in a flat matrix on the CPU; else None."""
        if dense is None or dense.activation not in ACTIVATIONS:
            return None
        flat = flat_matrix(dense.parameters, len(dense.sizes))
        return None if flat is None else cls(dense, flat)

    @property
    def stale(self) -> bool:
        """Whether the parameters lie elsewhere by now: when they are gathered into a matrix, or change the device."""
        return self._weight.data_ptr() != self._place

    def __call__(self, *parts: Tensor) -> Tensor:
        """Outputs ``(T, B, N, O)`` of inputs ``(T, B, N, F)`` side by side, with a gradient to all of these and to the
        parameters."""
        if torch.is_grad_enabled():
            return self.step(parts, self.parameters)
        return self.forward(parts, keep=False)[0]

    def step(self, parts: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
        """One step of autograd, which gives ``parameters`` the gradient of the ones that were computed with."""
        y: Tensor = _Step.apply(self, len(parts), *parts, *parameters)  # type: ignore[no-untyped-call]
        return y

    def forward(self, parts: Sequence[Tensor], keep: bool) -> tuple[Tensor, Array | None]:
        """Outputs, and the outputs of all layers ``(tiles, depth, widest, columns)`` if they are to be kept."""
        time, batch, agents, _ = parts[0].shape
        for part in parts:
            assert part.shape[:3] == (time, batch, agents)
        assert agents == self.agents
        inputs = _lines(parts)
        table, most, two = self._plan(time * batch)
        out = torch.empty(time, batch, agents, self.outputs, dtype=torch.float32)
        rows = out.numpy().reshape(-1, self.outputs)
        shape = len(self.layers), self.widest, most
        hidden = self._borrow(len(table), *shape) if keep else None

        def some(start: int, stop: int) -> None:
            room = self._borrow(self.inputs, most)
            own = self._borrow(1, *shape) if hidden is None else hidden
            _forward(*self.net, *inputs, table, own, rows, room, start, stop)
            self._give_back(room)
            if hidden is None:
                self._give_back(own)

        _in_halves(some, len(table), two)
        return out, hidden

    def backward(
        self, parts: Sequence[Tensor], wanted: Sequence[bool], hidden: Array, slope: Tensor, parameters: bool
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The gradients of the flat matrix, if ``parameters``, and of the ``wanted`` inputs from the outputs' one."""
        time, batch = parts[0].shape[:2]
        inputs, slopes = _lines(parts), _lines([slope])
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
            flat = self.net.flat
            gradient = np.zeros(flat.shape if parameters else (len(flat), 1), dtype=np.float32)
            _backward(
                *self.net, *inputs, *slopes, table, hidden, low, high, rows, room, z, gradient, parameters, start, stop
            )
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
        two = self.work * rows > WORTH and threads() > 1
        plan = self._tables.get((rows, two))
        if plan is None:
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
            plan = self._tables[rows, two] = np.array(places, dtype=np.int64), most, two
        return plan

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
        kept = self._kept.get(array.shape)
        if kept is None:
            kept = self._kept.setdefault(array.shape, [])
        if len(kept) < self.KEPT:
            kept.append(array)


def rest_together(flats: Sequence[Any]) -> tuple[Array, Array]:
    """Lay parameter matrices ``(P, D)`` below each other in one, ``(M P, D)``, and likewise their gradients.

    Each goes on with its own rows, as memory of its own that happens to lie there.
    """
    rows, width = flats[0].values.shape
    values, gradients = (np.empty((rows * len(flats), width), dtype=np.float32) for _ in range(2))
    for which, flat in enumerate(flats):
        own = slice(rows * which, rows * (which + 1))
        flat.rest_in(torch.from_numpy(values[own]), torch.from_numpy(gradients[own]))
    return values, gradients


def stacked_net(net: Net, flat: Array, count: int, agents: int = 0) -> Net:
    """``count`` networks of one shape as one, whose parameters lie in ``flat``.

    ``agents``: how many each has, where those of all stand side by side; 0: each has rows of its own.
    """
    members = np.concatenate([net.members + which * agents for which in range(count)])
    return net._replace(flat=flat, members=members, sizes=np.tile(net.sizes, count))


def _in_halves(part: Callable[[int, int], None], tiles: int, two: bool) -> None:
    """All tiles, the second half of them on the other thread."""
    if two and tiles > 1:
        both(lambda: part(0, tiles // 2), lambda: part(tiles // 2, tiles))
    else:
        part(0, tiles)


class Lines(NamedTuple):
    """Up to three arrays of rows ``(T, B, N, F)`` side by side, where they lie in memory."""

    layout: Array  # (PARTS, 4) strides and width of each
    one: Array
    two: Array
    three: Array
    times: int
    batch: int


_NET, _INPUTS, _REST = spans(Net, Lines)
_SLOPES, _AFTER = spans(Net, Lines, Lines)[2:]


def _lines(parts: Sequence[Tensor]) -> Lines:
    """Nothing is copied unless a last axis is strewn."""
    layout, lines = np.zeros((PARTS, 4), dtype=np.int64), [_NOTHING] * PARTS
    for which, part in enumerate(parts):
        x = part.detach() if part.requires_grad else part
        time, batch, agents, width = x.shape
        if not width:
            continue
        if width > 1 and x.stride(3) != 1:
            x = x.contiguous()
        strides = x.stride()
        layout[which] = strides[0], strides[1], strides[2], width
        if x.is_contiguous():
            lines[which] = x.numpy().reshape(-1)
        else:
            length = width + (time - 1) * strides[0] + (batch - 1) * strides[1] + (agents - 1) * strides[2]
            lines[which] = torch.as_strided(x, (length,), (1,)).numpy()
    return Lines(layout, lines[0], lines[1], lines[2], parts[0].shape[0], parts[0].shape[1])


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


@fast_kernel
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


@fast_kernel
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


@fast_kernel
def _load(x: Array, lines: Lines, members: Array, size: int, first: int, columns: int) -> None:
    """Rows ``first, first + 1, ...`` of a set, counting its agents within rows, as columns; zeros beyond the last."""
    layout, times, batch = lines.layout, lines.times, lines.batch
    before = layout[0, 3], layout[0, 3] + layout[1, 3]
    _load_part(x, layout[0], lines.one, times, batch, members, size, first, columns)
    _load_part(x[before[0] :], layout[1], lines.two, times, batch, members, size, first, columns)
    _load_part(x[before[1] :], layout[2], lines.three, times, batch, members, size, first, columns)
    for f in range(before[1] + layout[2, 3]):
        for j in range(columns, padded(columns)):
            x[f, j] = 0


@fast_kernel
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


@fast_kernel
def _forward(*arguments: Any) -> None:
    """:func:`_outputs` of a :class:`Net`, :class:`Lines` and the rest, end to end."""
    _outputs(Net(*arguments[_NET]), Lines(*arguments[_INPUTS]), *arguments[_REST])


@fast_kernel
def _outputs(net: Net, inputs: Lines, table: Array, hidden: Array, out: Array, x: Array, start: int, stop: int) -> None:
    """``out (T * B * N, O)`` for some of all tiles."""
    flat, layers, members, sizes = net.flat, net.layers, net.members, net.sizes
    depth, agents = layers.shape[0], sizes.sum()
    for tile in range(start, stop):
        which, first, columns = table[tile]
        own = hidden[tile if hidden.shape[0] > 1 else 0]
        _load(x, inputs, members[which], sizes[which], first, columns)
        forward(flat[which], layers, net.activation, x, own, padded(columns))
        _spread(out, own[depth - 1], agents, members[which], sizes[which], first, columns)


@fast_kernel
def _backward(*arguments: Any) -> None:
    """:func:`_slopes` of a :class:`Net`, :class:`Lines` twice and the rest, end to end."""
    _slopes(
        Net(*arguments[_NET]), Lines(*arguments[_INPUTS]), Lines(*arguments[_SLOPES]), *arguments[_AFTER]
    )  # fmt: skip


@fast_kernel
def _slopes(
    net: Net, inputs: Lines, slope: Lines, table: Array, hidden: Array, low: int, high: int, to_inputs: Array,
    x: Array, z: Array, gradient: Array, parameters: bool, start: int, stop: int,
) -> None:  # fmt: skip
    """Add to ``gradient (P, D)`` and fill ``to_inputs (T * B * N, high - low)`` from some of all tiles."""
    flat, layers, members, sizes = net.flat, net.layers, net.members, net.sizes
    agents = sizes.sum()
    for tile in range(start, stop):
        which, first, columns = table[tile]
        if parameters:
            _load(x, inputs, members[which], sizes[which], first, columns)
        _load(z[0], slope, members[which], sizes[which], first, columns)
        place = backward(
            flat[which], layers, net.activation, x, hidden[tile], z, padded(columns), gradient[which], parameters, low,
            high,
        )  # fmt: skip
        if low < high:
            _spread(to_inputs, z[place], agents, members[which], sizes[which], first, columns)
