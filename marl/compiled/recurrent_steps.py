"""One step of time of a network with a recurrent unit, for some rows, and back: what passages through time are made of.

Encoder, products with the inputs, recurrent unit and output layer, ``ROWS`` rows at a time and rows first, from rooms
that hold what the step before left. Whoever calls these owns the loop over time and says what stands in the rooms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from marl.compiled.cells import gru, gru_back, lstm, lstm_back
from marl.compiled.panels import Workroom, add_outer, affine, sum_places, times, whole
from marl.compiled.tiles import TANH, Net, fast_kernel, passed, tanh
from marl.compiled.vectors import KEEP, ZERO, copy
from marl.types import Array

GRU_GATES = 3  # a unit with so many gates is a GRU, one with more an LSTM
# What the rooms for ROWS rows hold: inputs, products with them, gates, hidden state, cell, outputs; of the
# gradient those of gates, of products with the inputs, of the hidden state and of the outputs; four of the encoder.
X, FROM, OUT, H, C, SAID, ONE, TWO, THREE, FOUR = range(10)

_ZERO, _ONE = np.float32(0), np.float32(1)
NOTHING = np.zeros((0, 0, 0, 0), dtype=np.float32)


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


@fast_kernel
def gather(room: Array, source: Array, at: int, lines: Array, rows: int, across: int, start: int, width: int) -> None:
    """``width`` numbers from ``start`` on of rows ``at + lines`` of ``source``, which are ``across`` wide."""
    for i in range(rows):
        copy(room, i * room.shape[1], source, (at + lines[i]) * across + start, width)


@fast_kernel
def place(lines: Array, agents: int, members: Array, size: int, low: int, first: int, rows: int) -> None:
    """Which of all rows those of a set are, from its row ``first`` on, counted from the batch's ``low`` on."""
    for i in range(rows):
        lines[i] = (low + (first + i) // size) * agents + members[(first + i) % size]


@fast_kernel
def empty_where_begun(
    hidden: Array, cell: Array, start: Array, lines: Array, agents: int, rows: int, units: int, gates: int
) -> None:
    """Nothing passes between episodes: zeros in the rows of copies that begin one, ``start (B,)``."""
    for i in range(rows):
        if start[lines[i] // agents]:
            for j in range(units):
                hidden[i, j] = _ZERO
            if gates != GRU_GATES:
                for j in range(units):
                    cell[i, j] = _ZERO


@fast_kernel
def step(net: Net, which: int, data: Passage, work: Workroom, gates: int, t: int, rows: int) -> None:
    """Outputs and units' carries of rows ``work.lines`` at step ``t``, from the carries in ``rooms[H]``, ``rooms[C]``.

    ``rooms[H]``, ``rooms[C]`` hold those after it at the end.
    """
    layers, lines, rooms, flat = net.layers, work.lines, work.rooms, net.flat[which]
    _, batch, agents, inputs = data.x.shape
    encoders, states, keeps = layers.shape[0] - 3, data.after.shape[3], data.kept.size > 0
    units, outputs, widths = layers[encoders + 1, 0], layers[encoders + 2, 1], data.hidden.shape[3]
    across, wide = 5 * units if gates == GRU_GATES else 7 * units, rooms.shape[2]
    bias = layers[encoders + 1, 3]
    start = t * batch * agents
    gather(rooms[X], data.x, start, lines, rows, inputs, 0, inputs)
    for i in range(rows):
        for j in range(data.ids.shape[1]):
            rooms[X, i, inputs + j] = data.ids[lines[i] % agents, j]
    a, origin, at = rooms[X], 0, 0
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
                copy(data.hidden, (start + lines[i]) * widths + at, y, i * y.shape[1], width)
        a, origin, at = y, origin + layers[layer, 0] * whole(width), at + width
    affine(rooms[FROM], a, flat, layers[encoders], work.panels, origin, rows)
    origin += layers[encoders, 0] * whole(layers[encoders, 1])
    h, other, out, from_x = rooms[H], rooms[C], rooms[OUT], rooms[FROM]
    empty_where_begun(h, other, data.start[t], lines, agents, rows, units, gates)
    times(out, h, work.panels, origin, rows, units, gates * units, ZERO)
    for i in range(rows):
        line = start + lines[i]
        acting = data.acting[t, lines[i] // agents, lines[i] % agents]
        own, kept = i * wide, line * across
        if gates == GRU_GATES:
            gru(out, own, from_x, own, flat, bias, h, own, data.kept, kept, units, acting, keeps)
        else:
            lstm(out, own, from_x, own, flat, bias, h, own, other, own, data.kept, kept, units, acting, keeps)
        copy(data.after, line * states, h, own, units)
        if gates != GRU_GATES:
            copy(data.after, line * states + units, other, own, units)
    origin += units * whole(gates * units)
    affine(rooms[SAID], h, flat, layers[encoders + 2], work.panels, origin, rows)
    for i in range(rows):
        copy(data.out, (start + lines[i]) * outputs, rooms[SAID], i * wide, outputs)


@fast_kernel
def step_back(net: Net, data: Passage, slopes: Slopes, work: Workroom, gates: int, t: int, rows: int) -> None:
    """Add to ``work.sums``, and fill the inputs' gradient, for rows ``work.lines`` at step ``t``.

    ``rooms[TWO]`` holds the gradient of the hidden state after the step, ``rooms[C]`` that of the cell; at the end
    those before it.
    """
    layers, lines, rooms, sums = net.layers, work.lines, work.rooms, work.sums
    _, batch, agents, inputs = data.x.shape
    encoders, states = layers.shape[0] - 3, data.after.shape[3]
    units, outputs, widths = layers[encoders + 1, 0], layers[encoders + 2, 1], data.hidden.shape[3]
    across = 5 * units if gates == GRU_GATES else 7 * units
    h, c, d, g, f, s = rooms[H], rooms[C], rooms[TWO], rooms[OUT], rooms[FROM], rooms[SAID]
    at = t * batch * agents
    # Layers from the last to the first; origins of panels, sums of weights and of biases go back with them.
    origin = work.turned.size
    total, ends = sum_places(layers)
    gather(s, slopes.out, at, lines, rows, outputs, 0, outputs)
    gather(h, data.after, at, lines, rows, states, 0, units)
    origin -= outputs * whole(units)
    total -= units * whole(outputs)
    ends -= outputs
    add_outer(sums, total, ends, h, s, rows, units, outputs)
    times(d, s, work.turned, origin, rows, outputs, units, KEEP)
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
    gather(h, data.kept, at, lines, rows, across, across - units, units)
    origin -= gates * units * whole(units)
    total -= units * whole(gates * units)
    ends -= gates * units
    add_outer(sums, total, ends, h, g, rows, units, gates * units)
    times(d, g, work.turned, origin, rows, gates * units, units, KEEP)
    empty_where_begun(d, c, data.start[t], lines, agents, rows, units, gates)
    z, where = f, widths
    for layer in range(encoders, -1, -1):
        inner, outer = layers[layer, 0], layers[layer, 1]
        origin -= outer * whole(inner)
        total -= inner * whole(outer)
        ends -= outer
        a = rooms[X]
        if layer > 0:
            where -= inner
            gather(a, data.hidden, at, lines, rows, widths, where, inner)
        else:
            gather(a, data.x, at, lines, rows, inputs, 0, inner)
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
