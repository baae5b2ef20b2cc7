"""Networks with a recurrent unit from inputs to outputs in one compiled call, with their gradient: float32 on a CPU.

Encoder, products with the inputs, recurrent unit and output layer go through time together, ``ROWS`` rows at a time
and rows first: what one step leaves is in the first-level cache when the next one reads it, and weights lie in panels
in the second-level one. Whatever the owners of parameters are, rows are read and written where they lie. The gradient
goes back in the same way and sums that of the weights on its way. The numbers are those of ``AgentNet.read``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled import backend
from marl.compiled.backend import RecurrentLayers, require_equal
from marl.compiled.cells import gru, gru_back, lstm, lstm_back
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
from marl.compiled.recurrent import Unit
from marl.compiled.tiles import ACTIVATIONS, TANH, Net, fast_kernel, flat_matrix, layer_table, passed, spans, tanh
from marl.compiled.vectors import KEEP, ZERO, copy
from marl.types import Array

GRU_GATES = 3  # a unit with so many gates is a GRU, one with more an LSTM
# What the rooms for ROWS rows hold: inputs, products with them, gates, hidden state, cell, outputs; of the
# gradient those of gates, of products with the inputs, of the hidden state and of the outputs; four of the encoder.
X, FROM, OUT, H, C, SAID, ONE, TWO, THREE, FOUR = range(10)

_ZERO, _ONE = np.float32(0), np.float32(1)
_NOTHING = np.zeros((0, 0, 0, 0), dtype=np.float32)


class Passage(NamedTuple):
    """What a network reads in ``T`` steps of ``B`` rows of ``N`` agents, and what it says."""

    x: Array  # (T, B, N, F)
    ids: Array  # (N, I) what is read beside it
    carry: Array  # (B, N, C) before the first step
    start: Array  # (T, B) the carry is emptied before the step
    acting: Array  # (T, B, N) others keep their carry
    out: Array  # (T, B, N, O)
    after: Array  # (T, B, N, C) carries
    hidden: Array  # (T, B, N, widths of the encoder's layers) or nothing
    kept: Array  # (T, B, N, K H) what the unit's gradient needs, or nothing


class Slopes(NamedTuple):
    """The gradient of what was said, and what follows from it."""

    out: Array  # (T, B, N, O)
    after: Array  # (T, B, N, C) or nothing
    x: Array  # (T, B, N, F) or nothing
    carry: Array  # (B, N, C)


_NET, _PASSAGE, _WORKROOM, _REST = spans(Net, Passage, Workroom)
_SLOPES, _BACK_WORKROOM, _BACK_REST = spans(Net, Passage, Slopes, Workroom)[2:]


class CompiledRecurrent:
    """One network; takes what lies in its parameters at the time of the call."""

    def __init__(self, layers: RecurrentLayers, flat: Array) -> None:
        """See :meth:`maybe`."""
        self.unit: Unit = layers.unit
        self.parameters, self.plain = layers.parameters, layers.plain
        shapes = [(int(weight.shape[1]), int(weight.shape[2])) for weight in layers.weights]
        places = [
            (int(weight.storage_offset()), int(bias.storage_offset()))
            for weight, bias in zip(layers.weights, layers.biases, strict=True)
        ]
        self.layers = layer_table(shapes, places)
        self.net = Net(flat, self.layers, ACTIVATIONS[layers.activation], layers.members, layers.sizes)
        self.units, self.outputs = shapes[-2][0], shapes[-1][1]
        self.state, self.hidden = self.unit.state * self.units, sum(outputs for _, outputs in shapes[:-3])
        # Of one set alone, so that an agent of many learns, to the last bit, what it learns alone.
        self.work = int(layers.sizes.max()) * sum(inputs * outputs for inputs, outputs in shapes)
        self._ids: Array = layers.ids.detach().numpy()
        self._no_ids = self._ids[:, :0]
        self._rooms = Workrooms(self.layers, FOUR + 1)

    @classmethod
    def maybe(cls, layers: RecurrentLayers | None) -> Self | None:
        """For a network of known layers whose parameters lie in a flat matrix on the CPU; else None."""
        if layers is None or layers.activation not in ACTIVATIONS:
            return None
        flat = flat_matrix(layers.parameters, len(layers.sizes))
        return None if flat is None else cls(layers, flat)

    def __call__(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(T, B, N, O)`` and carries ``(T, B, N, C)``, with a gradient to inputs, carry and parameters.

        Args:
            x: (T, B, N, F) inputs.
            carry: (B, N, C) before the first step.
            start: (T, B) the carry is emptied before the step.
            acting: (T, B, N) others keep their carry.
        """
        if torch.is_grad_enabled():
            out, after = _Passing.apply(self, x, carry, start, acting, *self.parameters)  # type: ignore[no-untyped-call]
        else:
            found = self.forward(x, carry, start, acting, keep=False)
            out, after = torch.from_numpy(found.out), torch.from_numpy(found.after)
            if backend.checking:
                plain = self.plain(x, carry, start, acting, self.parameters)
                require_equal("a recurrent network", *zip((out, after), plain, strict=True))
        return out, after

    def once(self, obs: Tensor, carry: Tensor, started: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """One step of play: outputs ``(E, N, O)`` and the next carry of observations ``(E, N, F)`` without ids."""
        copies, agents, _ = obs.shape
        out = np.empty((1, copies, agents, self.outputs), dtype=np.float32)
        after = np.empty((1, copies, agents, self.state), dtype=np.float32)
        rows, before, begins, acts = map(_array, (obs, carry, started, acting))
        room = self._rooms.borrow()
        _forward(
            *self.net, rows[None], self._ids, before, begins[None], acts[None], out, after, _NOTHING, _NOTHING,
            *room, self.unit.gates, 0, copies,
        )  # fmt: skip
        self._rooms.give_back(room)
        said = torch.from_numpy(out[0]), torch.from_numpy(after[0])
        if backend.checking:
            x = torch.cat((obs, torch.from_numpy(self._ids).expand(copies, -1, -1)), dim=-1).unsqueeze(0)
            plain = self.plain(x, carry, started.unsqueeze(0), acting.unsqueeze(0), self.parameters)
            require_equal("a recurrent network", *((one, other[0]) for one, other in zip(said, plain, strict=True)))
        return said

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, keep: bool) -> Passage:
        """What was read and what is said; with what the gradient needs if that is to be kept."""
        time, batch, agents, _ = x.shape
        shape, (rows, before, begins, acts) = (time, batch, agents), map(_array, (x, carry, start, acting))
        hidden, kept = _NOTHING, _NOTHING
        if keep:
            hidden, kept = fresh(*shape, self.hidden), fresh(*shape, self.unit.kept * self.units)
        out, after = fresh(*shape, self.outputs), fresh(*shape, self.state)
        found = Passage(rows, self._no_ids, before, begins, acts, out, after, hidden, kept)

        def some(low: int, high: int) -> None:
            room = self._rooms.borrow()
            _forward(*self.net, *found, *room, self.unit.gates, low, high)
            self._rooms.give_back(room)

        in_halves(some, batch, time * batch * self.work)
        return found

    def backward(
        self, found: Passage, slope: Tensor | None, carry_slope: Tensor | None, to_x: bool
    ) -> tuple[Array, Slopes]:
        """The gradient of the flat matrix, and those of inputs (if ``to_x``) and carry, from those of what was said."""
        time, batch, agents, inputs = found.x.shape
        slopes = Slopes(
            np.zeros(found.out.shape, dtype=np.float32) if slope is None else slope.contiguous().numpy(),
            _NOTHING if carry_slope is None else carry_slope.contiguous().numpy(),
            fresh(time, batch, agents, inputs) if to_x else _NOTHING,
            fresh(*found.carry.shape),
        )
        parts: list[Array] = []

        def some(low: int, high: int) -> None:
            room, gradient = self._rooms.borrow(), np.zeros(self.net.flat.shape, dtype=np.float32)
            _backward(*self.net, *found, *slopes, *room, self.unit.gates, low, high, gradient)
            self._rooms.give_back(room)
            parts.append(gradient)

        in_halves(some, batch, time * batch * self.work)
        return sum(parts[1:], parts[0]), slopes


def _array(x: Tensor) -> Array:
    return (x.detach() if x.requires_grad else x).contiguous().numpy()


class _Passing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, net: CompiledRecurrent, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        wants = any(ctx.needs_input_grad)
        found = net.forward(x, carry, start, acting, keep=wants)
        out, after = torch.from_numpy(found.out), torch.from_numpy(found.after)
        if backend.checking:
            plain = net.plain(x, carry, start, acting, parameters)
            require_equal("a recurrent network", *zip((out, after), plain, strict=True))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, carry, start, acting, *parameters)
        ctx.net, ctx.found = net, found
        return out, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor | None, carry_slope: Tensor | None) -> tuple[Tensor | None, ...]:
        x, carry, start, acting, *parameters = ctx.saved_tensors
        net, found, to_x = ctx.net, ctx.found, ctx.needs_input_grad[1]
        gradient, slopes = net.backward(found, slope, carry_slope, to_x)
        flat = torch.from_numpy(gradient)
        columns = [
            flat[:, place : place + parameter[0].numel()].view(parameter.shape)
            for place, parameter in zip(net.layers[:, 2:].reshape(-1).tolist(), parameters, strict=True)
        ]
        to_inputs = torch.from_numpy(slopes.x) if to_x else None
        ours = [to_inputs, torch.from_numpy(slopes.carry), None, None, *columns]
        if backend.checking:
            _compare(net, (x, carry, start, acting, *parameters), (slope, carry_slope), ours)
        return None, *ours


def _compare(
    net: CompiledRecurrent,
    inputs: tuple[Tensor, ...],
    slopes: tuple[Tensor | None, Tensor | None],
    ours: list[Tensor | None],
) -> None:
    """Raise MismatchError unless torch finds the same gradients."""
    wanted = [part is not None for part in ours]
    with torch.enable_grad():
        leaves = [part.detach().requires_grad_(want) for part, want in zip(inputs, wanted, strict=True)]
        x, carry, start, acting, *parameters = leaves
        said = net.plain(x, carry, start, acting, parameters)
        chosen = [(part, slope) for part, slope in zip(said, slopes, strict=True) if slope is not None]
        found = torch.autograd.grad(
            [part for part, _ in chosen],
            [leaf for leaf in leaves if leaf.requires_grad],
            [slope for _, slope in chosen],
            allow_unused=True,
        )
    pairs = [
        (one, torch.zeros_like(one) if other is None else other)
        for one, other in zip([part for part in ours if part is not None], found, strict=True)
    ]
    largest = max(float(other.abs().max()) for _, other in pairs)
    if largest > 0:
        scaled = [(one / largest, other / largest) for one, other in pairs]
        require_equal("the gradient of a recurrent network", *scaled, tolerance=0.1)


@fast_kernel
def _gather(room: Array, source: Array, at: int, lines: Array, rows: int, across: int, start: int, width: int) -> None:
    """``width`` numbers from ``start`` on of rows ``at + lines`` of ``source``, which are ``across`` wide."""
    for i in range(rows):
        copy(room, i * room.shape[1], source, (at + lines[i]) * across + start, width)


@fast_kernel
def _place(lines: Array, agents: int, members: Array, size: int, low: int, first: int, rows: int) -> None:
    """Which of all rows those of a set are, from its row ``first`` on, counted from the batch's ``low`` on."""
    for i in range(rows):
        lines[i] = (low + (first + i) // size) * agents + members[(first + i) % size]


@fast_kernel
def _forward(*arguments: Any) -> None:
    """:func:`_said` of a :class:`Net`, :class:`Passage`, :class:`Workroom` and the rest, end to end."""
    _said(
        Net(*arguments[_NET]), Passage(*arguments[_PASSAGE]), Workroom(*arguments[_WORKROOM]), *arguments[_REST]
    )  # fmt: skip


@fast_kernel
def _said(net: Net, data: Passage, work: Workroom, gates: int, low: int, high: int) -> None:
    """Outputs and carries of the batch's rows ``low`` to ``high``."""
    layers, sizes, lines, rooms = net.layers, net.sizes, work.lines, work.rooms
    time, batch, agents, inputs = data.x.shape
    encoders, states, keeps = layers.shape[0] - 3, data.after.shape[3], data.kept.size > 0
    units, outputs, widths = layers[encoders + 1, 0], layers[encoders + 2, 1], data.hidden.shape[3]
    across, wide = 5 * units if gates == GRU_GATES else 7 * units, rooms.shape[2]
    for which in range(sizes.size):
        flat, size = net.flat[which], sizes[which]
        bias = layers[encoders + 1, 3]
        pack(work.panels, flat, layers)
        for first in range(0, (high - low) * size, ROWS):
            rows = min(ROWS, (high - low) * size - first)
            _place(lines, agents, net.members[which], size, low, first, rows)
            _gather(rooms[H], data.carry, 0, lines, rows, states, 0, units)
            if states > units:
                _gather(rooms[C], data.carry, 0, lines, rows, states, units, units)
            for t in range(time):
                start = t * batch * agents
                _gather(rooms[X], data.x, start, lines, rows, inputs, 0, inputs)
                for i in range(rows):
                    for j in range(data.ids.shape[1]):
                        rooms[X, i, inputs + j] = data.ids[lines[i] % agents, j]
                a, origin, place = rooms[X], 0, 0
                for layer in range(encoders):
                    y, width = rooms[ONE + layer % 2], layers[layer, 1]
                    affine(y, a, flat, layers[layer], work.panels, origin, rows)
                    for i in range(rows):
                        if net.activation == TANH:
                            for j in range(width):
                                y[i, j] = tanh(y[i, j])
                        else:
                            for j in range(width):
                                y[i, j] = _ZERO if y[i, j] < 0 else y[i, j]  # NaN stays NaN
                        if keeps:
                            copy(data.hidden, (start + lines[i]) * widths + place, y, i * y.shape[1], width)
                    a, origin, place = y, origin + layers[layer, 0] * whole(width), place + width
                affine(rooms[FROM], a, flat, layers[encoders], work.panels, origin, rows)
                origin += layers[encoders, 0] * whole(layers[encoders, 1])
                h, other, out, from_x = rooms[H], rooms[C], rooms[OUT], rooms[FROM]
                for i in range(rows):
                    if data.start[t, lines[i] // agents]:
                        for j in range(units):
                            h[i, j] = _ZERO
                        if states > units:
                            for j in range(units):
                                other[i, j] = _ZERO
                times(out, h, work.panels, origin, rows, units, gates * units, ZERO)
                for i in range(rows):
                    line = start + lines[i]
                    acting = data.acting[t, lines[i] // agents, lines[i] % agents]
                    at, kept = i * wide, line * across
                    if gates == GRU_GATES:
                        gru(out, at, from_x, at, flat, bias, h, at, data.kept, kept, units, acting, keeps)
                    else:
                        lstm(out, at, from_x, at, flat, bias, h, at, other, at, data.kept, kept, units, acting, keeps)
                    copy(data.after, line * states, h, i * h.shape[1], units)
                    if states > units:
                        copy(data.after, line * states + units, other, i * other.shape[1], units)
                origin += units * whole(gates * units)
                affine(rooms[SAID], h, flat, layers[encoders + 2], work.panels, origin, rows)
                for i in range(rows):
                    copy(data.out, (start + lines[i]) * outputs, rooms[SAID], i * rooms.shape[2], outputs)


@fast_kernel
def _backward(*arguments: Any) -> None:
    """:func:`_derived` of a :class:`Net`, :class:`Passage`, :class:`Slopes`, :class:`Workroom` and the rest."""
    _derived(
        Net(*arguments[_NET]), Passage(*arguments[_PASSAGE]), Slopes(*arguments[_SLOPES]),
        Workroom(*arguments[_BACK_WORKROOM]), *arguments[_BACK_REST],
    )  # fmt: skip


@fast_kernel
def _derived(
    net: Net, data: Passage, slopes: Slopes, work: Workroom, gates: int, low: int, high: int, gradient: Array
) -> None:
    """Add to ``gradient (P, D)``, and fill those of inputs and carries, of the batch's rows ``low`` to ``high``."""
    layers, sizes, lines, rooms, sums = net.layers, net.sizes, work.lines, work.rooms, work.sums
    time, batch, agents, inputs = data.x.shape
    encoders, states = layers.shape[0] - 3, data.after.shape[3]
    units, outputs, widths = layers[encoders + 1, 0], layers[encoders + 2, 1], data.hidden.shape[3]
    across = 5 * units if gates == GRU_GATES else 7 * units
    h, c, d, g, f, s = rooms[H], rooms[C], rooms[TWO], rooms[OUT], rooms[FROM], rooms[SAID]
    for which in range(sizes.size):
        flat, size = net.flat[which], sizes[which]
        pack_turned(work.turned, flat, layers)
        sums[:] = _ZERO
        for first in range(0, (high - low) * size, ROWS):
            rows = min(ROWS, (high - low) * size - first)
            _place(lines, agents, net.members[which], size, low, first, rows)
            d[:] = _ZERO
            c[:] = _ZERO
            for t in range(time - 1, -1, -1):
                at = t * batch * agents
                # Layers from the last to the first; origins of panels, sums of weights and of biases go back with them.
                origin = work.turned.size
                total, ends = sum_places(layers)
                _gather(s, slopes.out, at, lines, rows, outputs, 0, outputs)
                _gather(h, data.after, at, lines, rows, states, 0, units)
                origin -= outputs * whole(units)
                total -= units * whole(outputs)
                ends -= outputs
                add_outer(sums, total, ends, h, s, rows, units, outputs)
                times(d, s, work.turned, origin, rows, outputs, units, KEEP)
                if slopes.after.size > 0:
                    for i in range(rows):
                        b, n = lines[i] // agents, lines[i] % agents
                        for j in range(units):
                            d[i, j] += slopes.after[t, b, n, j]
                        if states > units:
                            for j in range(units):
                                c[i, j] += slopes.after[t, b, n, units + j]
                for i in range(rows):
                    own, kept = i * g.shape[1], (at + lines[i]) * across
                    if not data.acting[t, lines[i] // agents, lines[i] % agents]:
                        for j in range(gates * units):
                            g[i, j] = f[i, j] = _ZERO
                    elif gates == GRU_GATES:
                        gru_back(g, own, f, own, d, own, data.kept, kept, units)
                    else:
                        lstm_back(g, own, d, own, c, own, data.kept, kept, units)
                        copy(f, own, g, own, 4 * units)
                _gather(h, data.kept, at, lines, rows, across, across - units, units)
                origin -= gates * units * whole(units)
                total -= units * whole(gates * units)
                ends -= gates * units
                add_outer(sums, total, ends, h, g, rows, units, gates * units)
                times(d, g, work.turned, origin, rows, gates * units, units, KEEP)
                for i in range(rows):
                    if data.start[t, lines[i] // agents]:
                        for j in range(units):
                            d[i, j] = _ZERO
                        if states > units:
                            for j in range(units):
                                c[i, j] = _ZERO
                z, place = f, widths
                for layer in range(encoders, -1, -1):
                    inner, outer = layers[layer, 0], layers[layer, 1]
                    origin -= outer * whole(inner)
                    total -= inner * whole(outer)
                    ends -= outer
                    a = rooms[X]
                    if layer > 0:
                        place -= inner
                        _gather(a, data.hidden, at, lines, rows, widths, place, inner)
                    else:
                        _gather(a, data.x, at, lines, rows, inputs, 0, inner)
                    add_outer(sums, total, ends, a, z, rows, inner, outer)
                    if layer > 0 or slopes.x.size > 0:
                        to = rooms[THREE + layer % 2]
                        times(to, z, work.turned, origin, rows, outer, inner, ZERO)
                        if layer == 0:
                            for i in range(rows):
                                copy(slopes.x, (at + lines[i]) * inputs, to, i * to.shape[1], inner)
                        elif net.activation == TANH:
                            for i in range(rows):
                                for j in range(inner):
                                    to[i, j] *= _ONE - a[i, j] * a[i, j]
                        else:
                            for i in range(rows):
                                for j in range(inner):
                                    to[i, j] = passed(to[i, j], a[i, j])
                        z = to
            for i in range(rows):
                copy(slopes.carry, lines[i] * states, d, i * d.shape[1], units)
                if states > units:
                    copy(slopes.carry, lines[i] * states + units, c, i * c.shape[1], units)
        add_sums(gradient[which], sums, layers)
