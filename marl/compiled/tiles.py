"""Fully connected networks in compiled tiles: products, activations, forward and backward of some rows at a time.

A tile holds up to ``TILE`` rows with *features first*, ``(width, columns)``, so that every loop runs along columns and
fills vector registers, and a whole network's tile stays in the second-level cache from its inputs to its gradients.
On AVX-512 (Zen 5, one core) products reach 200 GFLOP/s at layers of 64 and 260 at layers of 256, where the matrix
products of torch and numpy reach 100; Python is left once for all layers.

A kernel takes what belongs together as one ``NamedTuple``. numba takes three times as long to look at such arguments as
at arrays one by one, so Python hands over the arrays and a line of compiled code puts the tuples together.

Parameters are one row of a flat matrix; ``layers (depth, 4)`` says of each layer its inputs, its outputs, and where its
weight ``(inputs, outputs)`` and its bias begin. Everything here is called by compiled code; float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from marl.compiled.cache import jit
from marl.compiled.vectors import BLOCK, KEEP, LANES, PANEL, ZERO, copy, product, turn
from marl.types import Array

TILE = 512  # columns of a tile: fewer, and starting loops costs a third; more, and the second-level cache is too small
TANH, RELU = 0, 1
ACTIVATIONS = {"tanh": TANH, "relu": RELU}
DEEP = 256  # terms of a sum between two visits of memory: their panel fits into the first-level cache
LARGEST = float(np.finfo(np.float32).max)
COLUMNS = 32  # what is computed is a multiple of it: whole panels

_block, _four, _two, _one = (product(rows) for rows in (BLOCK, 4, 2, 1))

# All of fast maths but "there is no NaN, no infinity"; without numpy's error model divisions do not vectorize.
FAST = {"contract", "arcp", "afn", "nsz", "reassoc"}
KernelFunction = TypeVar("KernelFunction", bound=Callable[..., Any])


def exact_kernel(function: KernelFunction) -> KernelFunction:
    """As :func:`fast_kernel`, every operation rounded for itself, as torch does."""
    return jit(nogil=True, error_model="numpy")(function)


def fast_kernel(function: KernelFunction) -> KernelFunction:
    """Compile on the first call, kept on disk; the call lets other threads run."""
    return jit(fastmath=FAST, nogil=True, error_model="numpy")(function)


def only_row(x: Tensor) -> Array:
    """The only row of ``(1, B, N, ...)``, without gaps; numpy takes it out in half of the time that torch takes."""
    return np.ascontiguousarray(x.numpy()[0])


def number(value: float) -> Tensor:
    """One float32, infinite where it holds no more, in a fifth of the time that ``torch.tensor`` takes."""
    return torch.from_numpy(np.array(value if abs(value) <= LARGEST else value * math.inf, dtype=np.float32))


# Rational approximation of tanh on [-8, 8] (the float32 result is 1 beyond), largest error 2.4e-7: odd numerator and
# even denominator in Horner form. 8 times as fast as torch.tanh_ on AVX-512 (0.24 against 1.97 ms for 12,288 x 64).
LIMIT = np.float32(7.99881172180175781)
NUMERATOR = tuple(
    np.float32(c)
    for c in (
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    )
)
DENOMINATOR = tuple(
    np.float32(c) for c in (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
)
_P0, _P1, _P2, _P3, _P4, _P5, _P6 = NUMERATOR
_Q0, _Q1, _Q2, _Q3 = DENOMINATOR
_ZERO, _ONE = np.float32(0), np.float32(1)

# exp(x) = 2^n p(r) with x = n ln 2 + r (Cephes); largest relative error 2.9e-7, a vector at a time.
_LOG2E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504088896341), np.float32(0.693359375), np.float32(-2.12194440e-4)
_E0, _E1, _E2, _E3, _E4, _E5 = (
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_LEAST, _MOST = np.float32(-87.0), np.float32(88.0)


@fast_kernel
def tanh(value: Any) -> Any:
    """``tanh`` of one number; NaN stays NaN."""
    v = LIMIT if value > LIMIT else value
    v = -LIMIT if v < -LIMIT else v
    s = v * v
    p = (((((_P0 * s + _P1) * s + _P2) * s + _P3) * s + _P4) * s + _P5) * s + _P6
    q = ((_Q0 * s + _Q1) * s + _Q2) * s + _Q3
    return v * p / q


@fast_kernel
def tanh_all(x: Array) -> None:
    """``tanh`` in place, ``(n,)``."""
    for i in range(x.size):
        x[i] = tanh(x[i])


@fast_kernel
def exp(value: Any) -> Any:
    """``exp`` of one number; 0 below -87."""
    v = _LEAST if value < _LEAST else value
    v = _MOST if v > _MOST else v
    n = np.rint(v * _LOG2E)
    r = v - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    p = p * r * r + r + _ONE
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
    return p * power.view(np.float32) if value > _LEAST else value * _ZERO


@fast_kernel
def passed(slope: Any, output: Any) -> Any:
    """A rectifier's gradient. Both numbers are read whatever they are, so that loops fill vectors and never branch."""
    return _ZERO if output <= 0 else slope


@fast_kernel
def padded(columns: int) -> int:
    """Columns that are computed: whole panels."""
    return (columns + COLUMNS - 1) // COLUMNS * COLUMNS


@fast_kernel
def _room(size: int) -> Array:
    """Room for some numbers that begins with a cache line."""
    room = np.empty(size + 16, dtype=np.float32)
    start = (-room.ctypes.data % 64) // 4
    return room[start : start + size]


@fast_kernel
def strip(
    out: Array, at: int, across: int, a: Array, start: int, step: int, skip: int, x: Array, origin: int, below: int,
    rows: int, inner: int, bias: int,
) -> None:  # fmt: skip
    """:func:`marl.compiled.vectors.product` for any number of rows."""
    i = 0
    while i < rows:
        to, of, constant = at + i * across, start + i * step, bias + i if bias >= 0 else bias
        if rows - i >= BLOCK:
            _block(out, to, across, a, of, step, skip, x, origin, below, inner, constant)
            i += BLOCK
        elif rows - i >= 4:
            _four(out, to, across, a, of, step, skip, x, origin, below, inner, constant)
            i += 4
        elif rows - i >= 2:
            _two(out, to, across, a, of, step, skip, x, origin, below, inner, constant)
            i += 2
        else:
            _one(out, to, across, a, of, step, skip, x, origin, below, inner, constant)
            i += 1


@fast_kernel
def _times(
    out: Array, a: Array, at: int, step: int, skip: int, x: Array, rows: int, inner: int, columns: int, bias: int
) -> None:
    """``out[i] = a[bias + i] + sum_k a[at + i step + k skip] x[k]``; or ``bias`` is ZERO."""
    across, wide = out.shape[1], x.shape[1]
    if rows <= BLOCK and inner <= DEEP:  # read once: not worth gathering
        for j in range(0, columns, PANEL):
            strip(out, j, across, a, at, step, skip, x, j, wide, rows, inner, bias)
        return
    panel = _room(min(inner, DEEP) * PANEL)
    for j in range(0, columns, PANEL):
        for first in range(0, inner, DEEP):
            count = min(inner - first, DEEP)
            for k in range(count):
                for c in range(PANEL):
                    panel[k * PANEL + c] = x[first + k, j + c]
            begin = KEEP if first else bias
            strip(out, j, across, a, at + first * skip, step, skip, panel, 0, PANEL, rows, count, begin)


@fast_kernel
def _outer(gradient: Array, at: int, bias: int, x: Array, z: Array, inner: int, rows: int, columns: int) -> None:
    """``gradient[at + k rows + i] += sum_j x[k, j] z[i, j]`` and ``gradient[bias + i] += sum_j z[i, j]``."""
    for i in range(rows):
        total = _ZERO
        for j in range(columns):
            total += z[i, j]
        gradient[bias + i] += total
    whole = rows // PANEL * PANEL if inner >= BLOCK else 0
    panel = _room(min(columns, DEEP) * PANEL)
    for first in range(0, columns, DEEP):
        count = min(columns - first, DEEP)
        for i in range(0, whole, PANEL):
            flip(panel, 0, PANEL, z, i * z.shape[1] + first, z.shape[1], PANEL, count)
            strip(gradient, at + i, rows, x, first, x.shape[1], 1, panel, 0, PANEL, inner, count, KEEP)
    # What is left of the outputs, or all of a narrow layer: sums along columns.
    for i in range(whole, rows - 1, 2):
        for k in range(0, inner - 3, 4):
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = _ZERO
            for j in range(columns):
                x0, x1, x2, x3 = x[k, j], x[k + 1, j], x[k + 2, j], x[k + 3, j]
                z0, z1 = z[i, j], z[i + 1, j]
                s00 += x0 * z0
                s01 += x1 * z0
                s02 += x2 * z0
                s03 += x3 * z0
                s10 += x0 * z1
                s11 += x1 * z1
                s12 += x2 * z1
                s13 += x3 * z1
            p = at + k * rows + i
            gradient[p] += s00
            gradient[p + 1] += s10
            p += rows
            gradient[p] += s01
            gradient[p + 1] += s11
            p += rows
            gradient[p] += s02
            gradient[p + 1] += s12
            p += rows
            gradient[p] += s03
            gradient[p + 1] += s13
    for i in range(whole, rows):
        last = i >= whole + (rows - whole) // 2 * 2
        for k in range(0 if last else inner // 4 * 4, inner):
            total = _ZERO
            for j in range(columns):
                total += x[k, j] * z[i, j]
            gradient[at + k * rows + i] += total


@fast_kernel
def flip(out: Array, at: int, across: int, x: Array, start: int, step: int, rows: int, columns: int) -> None:
    """``out[at + j across + i] = x[start + i step + j]`` for ``i < rows``, ``j < columns``.

    Squares at the far ends overlap the ones before. Few columns go through a square of their own, which reads what lies
    behind them; number by number goes only what has nothing behind it.
    """
    if rows < LANES or (columns < LANES and (step < 0 or start + (rows - 1) * step + LANES > x.size)):
        for i in range(rows):
            for j in range(columns):
                out.flat[at + j * across + i] = x.flat[start + i * step + j]
        return
    square = _room(LANES * LANES) if columns < LANES else out.reshape(-1)
    for i in range(0, rows, LANES):
        row = min(i, rows - LANES)
        if columns < LANES:
            turn(square, 0, LANES, x, start + row * step, step)
            for j in range(columns):
                copy(out, at + j * across + row, square, j * LANES, LANES)
        else:
            for j in range(0, columns, LANES):
                column = min(j, columns - LANES)
                turn(out, at + column * across + row, across, x, start + row * step + column, step)


@fast_kernel
def spread(place: Array, members: Array, agents: int, size: int, start: int, first: int, columns: int) -> None:
    """Which of all agents of all rows each column is: ``size`` members of a set from each row, from ``start`` on."""
    for j in range(columns):
        place[j] = (start + (first + j) // size) * agents + members[(first + j) % size]


@fast_kernel
def gather_columns(x: Array, source: Array, places: Array, columns: int) -> None:
    """Rows ``places`` of ``source (R, F)`` as columns of ``x``; zeros beyond the last."""
    width, across = source.shape[1], x.shape[1]
    if width < LANES:
        for j in range(columns):
            for f in range(width):
                x[f, j] = source[places[j], f]
    else:
        room = _room(LANES * width)
        for first in range(0, columns, LANES):
            for i in range(min(LANES, columns - first)):
                copy(room, i * width, source, places[first + i] * width, width)
            flip(x, first, across, room, 0, width, LANES, width)
    for f in range(width):
        for j in range(columns, padded(columns)):
            x[f, j] = 0


@fast_kernel
def _activate(x: Array, rows: int, columns: int, activation: int) -> None:
    for i in range(rows):
        if activation == TANH:
            for j in range(columns):
                x[i, j] = tanh(x[i, j])
        else:
            for j in range(columns):
                x[i, j] = _ZERO if x[i, j] < 0 else x[i, j]  # NaN stays NaN


@fast_kernel
def _derive(z: Array, output: Array, rows: int, columns: int, activation: int) -> None:
    """Multiply by the activation's derivative, from its output alone."""
    for i in range(rows):
        if activation == TANH:
            for j in range(columns):
                z[i, j] *= _ONE - output[i, j] * output[i, j]
        else:
            for j in range(columns):
                z[i, j] = passed(z[i, j], output[i, j])


@fast_kernel
def forward(flat: Array, layers: Array, activation: int, x: Array, hidden: Array, columns: int) -> None:
    """``hidden[l, :outputs_l, :columns]`` of every layer ``l`` from inputs ``x``; the last is not activated."""
    depth = layers.shape[0]
    source = x
    for layer in range(depth):
        inputs, outputs, weight, bias = layers[layer]
        target = hidden[layer]
        _times(target, flat, weight, 1, outputs, source, outputs, inputs, columns, bias)
        if layer < depth - 1:
            _activate(target, outputs, columns, activation)
        source = target


@fast_kernel
def backward(
    flat: Array,
    layers: Array,
    activation: int,
    x: Array,
    hidden: Array,
    z: Array,
    columns: int,
    gradient: Array,
    parameters: bool,
    low: int,
    high: int,
) -> int:
    """Add the gradient of the parameters to ``gradient``, leave that of inputs ``low`` to ``high`` in ``z[place]``.

    ``z (2, width, columns)``: ``z[0]`` holds the gradient of the outputs and is overwritten. Returns ``place``.
    """
    place = 0
    for layer in range(layers.shape[0] - 1, -1, -1):
        inputs, outputs, weight, bias = layers[layer]
        source = hidden[layer - 1] if layer else x
        if parameters:
            _outer(gradient, weight, bias, source, z[place], inputs, outputs, columns)
        first, last = (0, inputs) if layer else (low, high)
        if first < last:
            _times(
                z[1 - place], flat, weight + first * outputs, outputs, 1, z[place], last - first, outputs, columns, ZERO
            )
            place = 1 - place
            if layer:
                _derive(z[place], source, inputs, columns, activation)
    return place


@fast_kernel
def split(rows: int, most: int) -> tuple[int, int]:
    """Into how many tiles rows go, and how many rows each but the last takes: about equal, whole panels."""
    tiles = max(1, (rows + most - 1) // most)
    size = (rows + tiles - 1) // tiles
    return tiles, min(most, padded(size))


def tile_size(inputs: int) -> int:
    """Columns of a tile for networks that read so much: less for wide ones, which would leave the cache."""
    return TILE if inputs <= 128 else max(128, TILE * 128 // inputs // COLUMNS * COLUMNS)


def aligned(*shape: int) -> Array:
    """Zeros that begin with a cache line: otherwise every vector crosses two, and products lose a quarter."""
    size = math.prod(shape)
    room = np.zeros(size + 16, dtype=np.float32)
    start = -room.ctypes.data % 64 // 4
    return room[start : start + size].reshape(shape)


class Net(NamedTuple):
    """A network as kernels take it."""

    flat: Array  # (P, D) its parameters are columns of it
    layers: Array  # (depth, 4)
    activation: int
    members: Array  # (P, most) the agents of each parameter set
    sizes: Array  # (P,) how many


class Room(NamedTuple):
    """Room for one tile, which kernels overwrite."""

    x: Array  # (inputs, columns)
    hidden: Array  # (depth, widest, columns)
    z: Array  # (2, widest, columns)
    rows: Array  # (8, columns)
    places: Array  # (2, columns)


def spans(*kinds: type[NamedTuple]) -> list[slice]:
    """Where each kind of tuple stands in arguments laid end to end, and what comes after them."""
    ends = [0]
    for kind in kinds:
        ends.append(ends[-1] + len(kind._fields))
    return [slice(*pair) for pair in zip(ends, [*ends[1:], None], strict=True)]


class Scratch:
    """Room for one tile of networks up to some size; one for each thread."""

    def __init__(self, *nets: Array) -> None:
        """``nets``: the layers of each."""
        inputs = max(int(layers[0, 0]) for layers in nets)
        widest = max(int(layers[:, 1].max()) for layers in nets)
        self.size = tile_size(inputs)
        depth = max(len(layers) for layers in nets)
        self.x = aligned(inputs, self.size)
        self.hidden = aligned(depth, widest, self.size)
        self.z = aligned(2, max(widest, inputs), self.size)
        self.rows = aligned(8, self.size)
        self.places = np.zeros((2, self.size), dtype=np.int64)
        self.room = Room(self.x, self.hidden, self.z, self.rows, self.places)


def layer_table(shapes: list[tuple[int, int]], places: list[tuple[int, int]]) -> Array:
    """``layers`` of weights ``(inputs, outputs)`` and the places of weights and biases."""
    rows = [(*shape, *place) for shape, place in zip(shapes, places, strict=True)]
    return np.array(rows, dtype=np.int64)


def flat_matrix(parameters: Sequence[Tensor], sets: int) -> Array | None:
    """The matrix ``(P, D)`` whose columns all these parameters are; None if there is no such."""
    first = parameters[0]
    if first.device.type != "cpu" or first.dtype != torch.float32:
        return None
    storage = first.untyped_storage()
    size = storage.nbytes() // 4
    if size % sets or any(parameter.untyped_storage().data_ptr() != storage.data_ptr() for parameter in parameters):
        return None
    if any(not p[0].is_contiguous() or (sets > 1 and p.stride(0) != size // sets) for p in parameters):
        return None
    matrix: Array = torch.empty(0, dtype=torch.float32).set_(storage).view(sets, size // sets).numpy()
    return matrix
