"""Recurrent units number by number: from products to the next carry, and back, a vector of units at a time.

A vector of units goes through all equations in registers: every number is read once and written once, where plain code
has a loop for each equation. The equations are written once; units that fill no vector go through them one by one.
Numbers are read from and written to places counted from an array's first one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import llvmlite.ir as ir
from numba import types
from numba.extending import intrinsic

from marl.compiled.tiles import DENOMINATOR, FAST, LIMIT, NUMERATOR, fast_kernel
from marl.compiled.vectors import FLOAT, LANES, VECTOR, begin, beyond, load, store
from marl.types import Array

_FLAGS = tuple(sorted(FAST))


class Numbers:
    """A vector of numbers, or one, with the operators of arithmetic."""

    def __init__(self, builder: Any, value: Any) -> None:
        """``value``: LLVM's."""
        self.builder, self.value = builder, value

    def _of(self, other: Numbers | float) -> Any:
        if isinstance(other, Numbers):
            return other.value
        kind = self.value.type
        return ir.Constant(kind, [float(other)] * kind.count if isinstance(kind, ir.VectorType) else float(other))

    def _with(self, operation: str, other: Numbers | float, turned: bool = False) -> Numbers:
        pair = (self._of(other), self.value) if turned else (self.value, self._of(other))
        return Numbers(self.builder, getattr(self.builder, operation)(*pair, flags=_FLAGS))

    def __add__(self, other: Numbers | float) -> Numbers:
        """Sum."""
        return self._with("fadd", other)

    def __sub__(self, other: Numbers | float) -> Numbers:
        """Difference."""
        return self._with("fsub", other)

    def __rsub__(self, other: float) -> Numbers:
        """Difference from a number."""
        return self._with("fsub", other, turned=True)

    def __mul__(self, other: Numbers | float) -> Numbers:
        """Product."""
        return self._with("fmul", other)

    def __truediv__(self, other: Numbers | float) -> Numbers:
        """Quotient."""
        return self._with("fdiv", other)

    def within(self, limit: float) -> Numbers:
        """Between ``-limit`` and ``limit``; NaN stays NaN."""
        builder, value = self.builder, self.value
        for word, bound in ((">", self._of(limit)), ("<", self._of(-limit))):
            value = builder.select(builder.fcmp_ordered(word, value, bound), bound, value)
        return Numbers(builder, value)

    def zero(self) -> Numbers:
        """As many zeros."""
        return Numbers(self.builder, self._of(0.0))

    def tanh(self) -> Numbers:
        """As :func:`marl.compiled.tiles.tanh`."""
        v = self.within(float(LIMIT))
        s = v * v
        return v * _polynomial(NUMERATOR, s) / _polynomial(DENOMINATOR, s)

    def sigmoid(self) -> Numbers:
        """``1 / (1 + exp(-x))``."""
        return (self * 0.5).tanh() * 0.5 + 0.5


def _polynomial(coefficients: Sequence[Any], s: Numbers) -> Numbers:
    total = s * float(coefficients[0]) + float(coefficients[1])
    for coefficient in coefficients[2:]:
        total = total * s + float(coefficient)
    return total


class Row:
    """What lies at a place of an array and ``units`` numbers further on, and twice as many, and so on."""

    def __init__(self, builder: Any, kind: Any, first: Any, units: Any) -> None:
        """``kind``: a vector or one number."""
        self._builder, self._kind, self._first, self._units = builder, kind, first, units

    def _place(self, times: int) -> Any:
        return beyond(self._builder, self._first, self._builder.mul(self._units, ir.Constant(self._units.type, times)))

    def __getitem__(self, times: int) -> Numbers:
        """The numbers there."""
        return Numbers(self._builder, load(self._builder, self._place(times), self._kind))

    def __setitem__(self, times: int, numbers: Numbers) -> None:
        """Write them there."""
        store(self._builder, numbers.value, self._place(times))


def _gru(builder: Any, out: Row, x: Row, bias: Row, h: Row, kept: Row, acting: Any, keeps: Any) -> None:
    before = h[0]
    r, z = (out[0] + (x[0] + bias[0])).sigmoid(), (out[1] + (x[1] + bias[1])).sigmoid()
    part = out[2] + bias[2]
    n = (x[2] + r * part).tanh()
    with builder.if_then(keeps):
        for which, numbers in enumerate((r, z, part, n, before)):
            kept[which] = numbers
    with builder.if_then(acting):
        h[0] = n + z * (before - n)


def _gru_back(builder: Any, gates: Row, to_x: Row, d: Row, kept: Row) -> None:
    r, z, part, n, before = (kept[which] for which in range(5))
    into = d[0]
    to_n = into * (1 - z) * (1 - n * n)
    to_z = into * (before - n) * z * (1 - z)
    to_r = to_n * part * r * (1 - r)
    for row, last in ((gates, to_n * r), (to_x, to_n)):
        row[0], row[1], row[2] = to_r, to_z, last
    d[0] = into * z


def _lstm(builder: Any, out: Row, x: Row, bias: Row, h: Row, c: Row, kept: Row, acting: Any, keeps: Any) -> None:
    before, cell = h[0], c[0]
    i, f, g, o = (out[which] + (x[which] + bias[which]) for which in range(4))
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * cell + i * g
    with builder.if_then(keeps):
        for which, numbers in enumerate((i, f, g, o, cell, after, before)):
            kept[which] = numbers
    with builder.if_then(acting):
        c[0], h[0] = after, o * after.tanh()


def _lstm_back(builder: Any, gates: Row, d: Row, c: Row, kept: Row) -> None:
    i, f, g, o, before, cell = (kept[which] for which in range(6))
    into, squashed = d[0], cell.tanh()
    to_cell = c[0] + into * o * (1 - squashed * squashed)
    gates[0] = to_cell * g * i * (1 - i)
    gates[1] = to_cell * before * f * (1 - f)
    gates[2] = to_cell * i * (1 - g * g)
    gates[3] = into * squashed * o * (1 - o)
    c[0] = to_cell * f
    d[0] = into.zero()


def _generated(equations: Callable[..., None], arrays: int, kind: Any, types_of: Sequence[Any]) -> Any:
    """What numba asks of an intrinsic: its types, and what generates code for arrays, their places, and the rest."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        units = arguments[2 * arrays]
        rows = []
        for which in range(arrays):
            first = beyond(
                builder,
                begin(context, builder, signature.args[2 * which], arguments[2 * which]),
                arguments[2 * which + 1],
            )
            rows.append(Row(builder, kind, first, units))
        equations(builder, *rows, *arguments[2 * arrays + 1 :])
        return context.get_dummy_value()

    fixed = [one if isinstance(one, types.Array | types.Boolean) else types.intp for one in types_of]
    return types.void(*fixed), generate


def _cell(equations: Callable[..., None]) -> tuple[Callable[..., None], Callable[..., None]]:
    """The equations for a vector of units and for one: ``(array, place, ..., units, switches)``."""
    given = list(inspect.signature(equations).parameters.values())[1:]
    arrays = sum(parameter.annotation == "Row" for parameter in given)

    def made(kind: Any) -> Callable[..., None]:
        def call(typing: Any, *kinds: Any) -> Any:
            return _generated(equations, arrays, kind, kinds)

        # numba asks for the names of arguments, and knows no lists of them.
        names = ["typing", *(f"a{which}" for which in range(len(given) + arrays + 1))]
        words = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        call.__signature__ = inspect.Signature(words)  # type: ignore[attr-defined]
        return cast(Callable[..., None], intrinsic(call))

    return made(VECTOR), made(FLOAT)


_gru_vector, _gru_one = _cell(_gru)
_gru_back_vector, _gru_back_one = _cell(_gru_back)
_lstm_vector, _lstm_one = _cell(_lstm)
_lstm_back_vector, _lstm_back_one = _cell(_lstm_back)


@fast_kernel
def gru(
    out: Array, o: int, x: Array, i: int, bias: Array, b: int, h: Array, p: int, kept: Array, k: int, units: int,
    acting: bool, keeps: bool,
) -> None:  # fmt: skip
    """A row's next carry in place of ``h[p:]``, from products ``out[o:]`` with it and ``x[i:]`` with the inputs.

    ``kept[k:]``: what the gradient needs, if it ``keeps``; five numbers of each unit, the last one the carry before.
    """
    whole = units // LANES * LANES
    for j in range(0, whole, LANES):
        _gru_vector(out, o + j, x, i + j, bias, b + j, h, p + j, kept, k + j, units, acting, keeps)
    for j in range(whole, units):
        _gru_one(out, o + j, x, i + j, bias, b + j, h, p + j, kept, k + j, units, acting, keeps)


@fast_kernel
def gru_back(gates: Array, g: int, to_x: Array, i: int, d: Array, p: int, kept: Array, k: int, units: int) -> None:
    """From the gradient ``d[p:]`` of a row's carry those of the products with the carry before and with the inputs.

    ``d`` becomes what goes straight to the carry before.
    """
    whole = units // LANES * LANES
    for j in range(0, whole, LANES):
        _gru_back_vector(gates, g + j, to_x, i + j, d, p + j, kept, k + j, units)
    for j in range(whole, units):
        _gru_back_one(gates, g + j, to_x, i + j, d, p + j, kept, k + j, units)


@fast_kernel
def lstm(
    out: Array, o: int, x: Array, i: int, bias: Array, b: int, h: Array, p: int, c: Array, m: int, kept: Array, k: int,
    units: int, acting: bool, keeps: bool,
) -> None:  # fmt: skip
    """As :func:`gru`, with a cell ``c[m:]``; seven numbers of each unit are kept, the last one the hidden state."""
    whole = units // LANES * LANES
    for j in range(0, whole, LANES):
        _lstm_vector(out, o + j, x, i + j, bias, b + j, h, p + j, c, m + j, kept, k + j, units, acting, keeps)
    for j in range(whole, units):
        _lstm_one(out, o + j, x, i + j, bias, b + j, h, p + j, c, m + j, kept, k + j, units, acting, keeps)


@fast_kernel
def lstm_back(gates: Array, g: int, d: Array, p: int, c: Array, m: int, kept: Array, k: int, units: int) -> None:
    """As :func:`gru_back`; all products have the same gradient. ``d`` becomes zeros, ``c`` goes to the cell before."""
    whole = units // LANES * LANES
    for j in range(0, whole, LANES):
        _lstm_back_vector(gates, g + j, d, p + j, c, m + j, kept, k + j, units)
    for j in range(whole, units):
        _lstm_back_one(gates, g + j, d, p + j, c, m + j, kept, k + j, units)
