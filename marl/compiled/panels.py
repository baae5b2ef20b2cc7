"""Products of a few rows at a time, rows first, with weights in panels.

Where a row has to wait for another, as time steps do, or where rows are few, networks go row by row and not feature by
feature as in :mod:`marl.compiled.tiles`: ``out[i] = b + sum_k a[i, k] W[k]``, as many outputs at once as fill two
vector registers. ``W`` lies in panels of so many columns, ``(outputs / PANEL, inputs, PANEL)``, so that a product reads
it from end to end; its columns are filled up with zeros. Every number is one chain of sums in the order of ``k``,
whatever rows stand beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from marl.compiled.tiles import aligned, fast_kernel, strip
from marl.compiled.vectors import KEEP, PANEL, copy
from marl.parallel import both, threads
from marl.types import Array

ROWS = 32  # rows that go through all layers and steps together: what they need stays in the first-level cache
WORTH = 4e6  # multiplications from which a second thread pays for the meeting

_ZERO = np.float32(0)
_ONES = np.ones(1, dtype=np.float32)


class Workroom(NamedTuple):
    """Room for one thread, which kernels overwrite."""

    panels: Array  # weights of one parameter set in panels, layer after layer
    turned: Array  # the same of transposed weights
    sums: Array  # the gradient of one set: weights, columns filled up to whole panels, then biases
    rooms: Array  # (K, ROWS, widest) for some rows
    lines: Array  # (ROWS,) which of all rows each one is


class Workrooms:
    """Rooms for networks of some layers, lent to whoever computes."""

    def __init__(self, layers: Array, count: int, sets: int = 1) -> None:
        """``layers (depth, 4)``: inputs, outputs, where weight and bias begin; ``count``: rooms for ``ROWS`` rows.

        ``sets``: parameter sets whose panels and sums lie one behind the other.
        """
        shapes = [(int(inputs), int(outputs)) for inputs, outputs, *_ in layers]
        self._widest = max(_filled(width) for shape in shapes for width in shape)
        self._panels = sets * sum(inputs * _filled(outputs) for inputs, outputs in shapes)
        self._turned = sets * sum(_filled(inputs) * outputs for inputs, outputs in shapes)
        self._biases = sets * sum(outputs for _, outputs in shapes)
        self._count = count
        self._free: list[Workroom] = []

    def borrow(self) -> Workroom:
        """One that nobody else has, with anything in it."""
        try:
            return self._free.pop()  # two threads may ask at once
        except IndexError:
            sums, rooms = aligned(self._panels + self._biases), aligned(self._count, ROWS, self._widest)
            lines = np.zeros(ROWS, dtype=np.int64)
            return Workroom(aligned(self._panels), aligned(self._turned), sums, rooms, lines)

    def give_back(self, room: Workroom) -> None:
        """Let the next one have it."""
        self._free.append(room)


def _filled(width: int) -> int:
    return -(-width // PANEL) * PANEL


def fresh(*shape: int) -> Array:
    """Numbers to be filled, which begin with a cache line, as torch makes them."""
    return torch.empty(shape, dtype=torch.float32).numpy()


def in_halves(some: Callable[[int, int], None], rows: int, work: float) -> None:
    """All rows, the second half of them on the other thread where that pays."""
    if rows < 2 or work < WORTH or threads() == 1:
        some(0, rows)
        return
    middle = rows // 2
    both(lambda: some(0, middle), lambda: some(middle, rows))


@fast_kernel
def whole(width: int) -> int:
    """Columns of whole panels."""
    return (width + PANEL - 1) // PANEL * PANEL


@fast_kernel
def pack(panels: Array, flat: Array, layers: Array) -> None:
    """Weights of one set in panels."""
    to = 0
    for which in range(layers.shape[0]):
        inner, outer, weight, _ = layers[which]
        for first in range(0, outer, PANEL):
            count = min(PANEL, outer - first)
            for k in range(inner):
                if count == PANEL:
                    copy(panels, to, flat, weight + k * outer + first, PANEL)  # of known size: two registers
                else:
                    for j in range(PANEL):
                        panels[to + j] = flat[weight + k * outer + first + j] if j < count else _ZERO
                to += PANEL


@fast_kernel
def pack_turned(panels: Array, flat: Array, layers: Array) -> None:
    """The same of transposed weights."""
    to = 0
    for which in range(layers.shape[0]):
        inner, outer, weight, _ = layers[which]
        for first in range(0, inner, PANEL):
            count = min(PANEL, inner - first)
            for k in range(outer):
                for j in range(count):
                    panels[to + j] = flat[weight + (first + j) * outer + k]
                for j in range(count, PANEL):
                    panels[to + j] = _ZERO
                to += PANEL


@fast_kernel
def times(out: Array, a: Array, panels: Array, origin: int, rows: int, inner: int, outer: int, begin: int) -> None:
    """``out[i] = sum_k a[i, k] W[k]``, or added to what is there: ``begin`` is ZERO or KEEP."""
    across = out.shape[1]
    for first in range(0, outer, PANEL):
        strip(out, first, across, a, 0, across, 1, panels, origin + first * inner, PANEL, rows, inner, begin)


@fast_kernel
def affine(out: Array, a: Array, flat: Array, layer: Array, panels: Array, origin: int, rows: int) -> None:
    """``out[i] = b + sum_k a[i, k] W[k]`` of one layer, whose panels begin at ``origin``."""
    inner, outer, _, bias = layer
    for i in range(rows):
        copy(out, i * out.shape[1], flat, bias, outer)
    times(out, a, panels, origin, rows, inner, outer, KEEP)


@fast_kernel
def add_outer(sums: Array, weight: int, bias: int, a: Array, z: Array, rows: int, inner: int, outer: int) -> None:
    """``sums[weight + k whole(outer) + j] += sum_i a[i, k] z[i, j]`` and ``sums[bias + j] += sum_i z[i, j]``."""
    across, wide = a.shape[1], whole(outer)
    for first in range(0, outer, PANEL):
        strip(sums, weight + first, wide, a, 0, 1, across, z, first, across, inner, rows, KEEP)
    whole_panels = outer // PANEL * PANEL
    for first in range(0, whole_panels, PANEL):  # one row of ones times all of z
        strip(sums, bias + first, wide, _ONES, 0, 0, 0, z, first, across, 1, rows, KEEP)
    for i in range(rows):
        for j in range(whole_panels, outer):
            sums[bias + j] += z[i, j]


@fast_kernel
def sum_places(layers: Array) -> tuple[int, int]:
    """Where the sums of weights end and those of biases begin, and where these end."""
    weights, biases = 0, 0
    for which in range(layers.shape[0]):
        weights += layers[which, 0] * whole(layers[which, 1])
        biases += layers[which, 1]
    return weights, weights + biases


@fast_kernel
def turned_size(layers: Array) -> int:
    """Numbers of the panels of transposed weights."""
    size = 0
    for which in range(layers.shape[0]):
        size += layers[which, 1] * whole(layers[which, 0])
    return size


@fast_kernel
def add_sums(gradient: Array, sums: Array, layers: Array) -> None:
    """Add what was summed of one set to its row of the flat matrix."""
    total = 0
    ends, _ = sum_places(layers)
    for which in range(layers.shape[0]):
        inner, outer, weight, bias = layers[which]
        wide = whole(outer)
        for k in range(inner):
            for j in range(outer):
                gradient[weight + k * outer + j] += sums[total + k * wide + j]
        for j in range(outer):
            gradient[bias + j] += sums[ends + j]
        total, ends = total + inner * wide, ends + outer
