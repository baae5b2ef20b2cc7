"""Recurrent units over whole sequences in one compiled call, with their gradient: float32 on a CPU.

Products with the carry are the only ones that have to wait for the step before, so they alone are computed here; those
with the inputs of all steps are one product of torch's. Some rows at a time go through all steps, forwards and, for the
gradient, backwards, rows first: gates lie side by side, and every loop fills vector registers. The gradient of the
weights is one product over all steps again. The numbers are those of the loops in ``marl/nets/recurrent.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled import backend
from marl.compiled.backend import recorded, require_equal
from marl.compiled.cells import gru, gru_back, lstm, lstm_back
from marl.compiled.panels import ROWS, in_halves
from marl.compiled.tiles import aligned, fast_kernel, spans, strip
from marl.compiled.vectors import KEEP, PANEL, ZERO, copy
from marl.types import Array

_ZERO = np.float32(0)


class Sequences(NamedTuple):
    """What a unit reads: ``S`` stacked networks, ``T`` steps, ``M`` rows, ``H`` units with ``G`` gates each."""

    from_input: Array  # (S, T, M, G H) products with the inputs
    carry: Array  # (S, M, C) before the first step
    start: Array  # (S, T, M) the carry is emptied before the step
    acting: Array  # (S, T, M) others leave it as it is
    bias: Array  # (S, G H) beside the products with the hidden state


class Unit(NamedTuple):
    """A kind of recurrent unit."""

    what: str
    gates: int  # G
    state: int  # C / H: how many numbers of each unit the carry holds
    kept: int  # numbers of each unit that the gradient needs; the last one is the hidden state before the step
    separate: int  # gates, the last ones, whose product with the hidden state has a gradient apart from the input's
    forward: Callable[..., None]
    backward: Callable[..., None]
    plain: Callable[..., Tensor]  # the same function of torch's


_DATA, _REST = spans(Sequences)


def fits(from_input: Tensor, weight: Tensor) -> bool:
    """Whether :func:`recurrence` computes it: float32 on a CPU, not while torch writes operations down."""
    return (
        backend.enabled
        and not recorded()
        and from_input.device.type == "cpu"
        and from_input.dtype == weight.dtype == torch.float32
        and from_input.numel() > 0
    )


def recurrence(
    unit: Unit, from_input: Tensor, carry: Tensor, start: Tensor, acting: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """Carries ``(S, T, M, C)`` after each step, with their gradient.

    Args:
        unit: which function.
        from_input: (S, T, M, G H) products with the inputs.
        carry: (S, M, C) before the first step.
        start: (S, T, M) the carry is emptied before the step.
        acting: (S, T, M) who is not acting keeps its carry.
        weight: (S, H, G H) of the hidden state.
        bias: (S, G H) beside it.
    """
    data = from_input, carry, start, acting, weight, bias
    # Within an autograd function gradients are switched off, and parameters want one in play too.
    after: Tensor = _Recurrence.apply(unit, torch.is_grad_enabled(), *data)  # type: ignore[no-untyped-call]
    return after


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        unit: Unit,
        grad: bool,
        from_input: Tensor,
        carry: Tensor,
        start: Tensor,
        acting: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        sets, time, rows, _ = from_input.shape
        units = weight.shape[1]
        data = _data(from_input, carry, start, acting, bias)
        after = torch.empty(sets, time, rows, unit.state * units, dtype=torch.float32)
        wants = grad and any(ctx.needs_input_grad)
        kept = torch.empty(sets, time, rows, unit.kept * units, dtype=torch.float32) if wants else after
        panels, out = _packed(weight), after.numpy()

        def some(first: int, last: int) -> None:
            room = aligned(ROWS, units), aligned(ROWS, panels.shape[1] * PANEL), aligned(ROWS, units)
            unit.forward(*data, panels, out, kept.numpy(), *room, first, last, wants)

        in_halves(some, rows, sets * time * rows * weight[0].numel())
        if backend.checking:
            require_equal(unit.what, (after, unit.plain(from_input, carry, start, acting, weight, bias)))
        if wants:
            ctx.save_for_backward(from_input, carry, start, acting, weight, bias, kept)
            ctx.unit = unit
        return after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        from_input, carry, start, acting, weight, bias, kept = ctx.saved_tensors
        unit: Unit = ctx.unit
        sets, time, rows, width = from_input.shape
        units = weight.shape[1]
        data = _data(from_input, carry, start, acting, bias)
        to_input = torch.empty_like(from_input, memory_format=torch.contiguous_format)
        to_separate = torch.empty(sets, time, rows, unit.separate * units, dtype=torch.float32)
        to_carry = torch.empty(sets, rows, unit.state * units, dtype=torch.float32)
        panels = _packed(weight.transpose(1, 2))
        slopes, found = slope.contiguous().numpy(), (to_input.numpy(), to_separate.numpy(), to_carry.numpy())

        def some(first: int, last: int) -> None:
            room = aligned(ROWS, panels.shape[1] * PANEL), aligned(ROWS, width), aligned(ROWS, units)
            unit.backward(*data, panels, kept.numpy(), slopes, *found, *room, first, last)

        in_halves(some, rows, sets * time * rows * weight[0].numel())
        to_weight, to_bias = torch.empty_like(weight), torch.empty_like(bias)
        before = kept.view(sets, time * rows, unit.kept * units)[..., -units:].transpose(1, 2)  # (S, H, T * M)
        shared = width - unit.separate * units
        pieces = [(slice(0, shared), to_input.view(sets, time * rows, width)[..., :shared])]
        if unit.separate:
            pieces.append((slice(shared, width), to_separate.view(sets, time * rows, width - shared)))
        for columns, to_gates in pieces:
            to_weight[..., columns] = torch.bmm(before, to_gates)
            to_bias[..., columns] = to_gates.sum(1)
        if backend.checking:
            inputs = [part.detach().requires_grad_() for part in (from_input, carry, weight, bias)]
            with torch.enable_grad():
                after = unit.plain(inputs[0], inputs[1], start, acting, *inputs[2:])
                wanted = torch.autograd.grad(after, inputs, slope)
            ours = to_input, to_carry, to_weight, to_bias
            require_equal(f"the gradient of {unit.what}", *zip(ours, wanted, strict=True))
        return None, None, to_input, to_carry, None, None, to_weight, to_bias


def _data(from_input: Tensor, carry: Tensor, start: Tensor, acting: Tensor, bias: Tensor) -> Sequences:
    tensors = from_input, carry, start, acting, bias
    return Sequences(*(tensor.detach().contiguous().numpy() for tensor in tensors))


def _packed(weight: Tensor) -> Array:
    """Matrices ``(S, inner, outer)`` as panels ``(S, outer / PANEL, inner, PANEL)``, filled up with zeros."""
    sets, inner, outer = weight.shape
    count = -(-outer // PANEL)
    panels = aligned(sets, count, inner, PANEL)
    matrix = weight.detach().numpy()
    for panel in range(count):
        columns = matrix[:, :, panel * PANEL : (panel + 1) * PANEL]
        panels[:, panel, :, : columns.shape[2]] = columns
    return panels


@fast_kernel
def gru_forward(*arguments: Any) -> None:
    """:func:`_gru_carries` of :class:`Sequences` and the rest, end to end."""
    _gru_carries(Sequences(*arguments[_DATA]), *arguments[_REST])


@fast_kernel
def _gru_carries(
    data: Sequences, panels: Array, hidden: Array, kept: Array, h: Array, out: Array, unused: Array, low: int,
    high: int, keeps: bool,
) -> None:  # fmt: skip
    """The carries of rows ``low`` to ``high`` after each step; ``h (ROWS, H)``, ``out (ROWS, 3H)``: room."""
    sets, time, all_rows, units = hidden.shape
    across = out.shape[1]
    for s in range(sets):
        for first in range(low, high, ROWS):
            rows = min(ROWS, high - first)
            copy(h, 0, data.carry, (s * all_rows + first) * units, rows * units)
            for t in range(time):
                line = (s * time + t) * all_rows + first
                for i in range(rows):
                    if data.start[s, t, first + i]:
                        for j in range(units):
                            h[i, j] = _ZERO
                for panel in range(panels.shape[1]):
                    origin = (s * panels.shape[1] + panel) * units * PANEL
                    strip(out, panel * PANEL, across, h, 0, units, 1, panels, origin, PANEL, rows, units, ZERO)
                for i in range(rows):
                    gru(
                        out, i * across, data.from_input, (line + i) * 3 * units, data.bias, s * 3 * units, h,
                        i * units, kept, (line + i) * 5 * units, units, data.acting[s, t, first + i], keeps,
                    )  # fmt: skip
                copy(hidden, line * units, h, 0, rows * units)


@fast_kernel
def gru_backward(*arguments: Any) -> None:
    """:func:`_gru_slopes` of :class:`Sequences` and the rest, end to end."""
    _gru_slopes(Sequences(*arguments[_DATA]), *arguments[_REST])


@fast_kernel
def _gru_slopes(
    data: Sequences, panels: Array, kept: Array, slope: Array, to_input: Array, to_candidate: Array, to_carry: Array,
    d: Array, gates: Array, unused: Array, low: int, high: int,
) -> None:  # fmt: skip
    """Gradients of rows ``low`` to ``high``, last step first; ``d (ROWS, H)``, ``gates (ROWS, 3H)``: room."""
    sets, time, all_rows, units = slope.shape
    across = d.shape[1]
    for s in range(sets):
        for first in range(low, high, ROWS):
            rows = min(ROWS, high - first)
            for i in range(rows):
                for j in range(across):
                    d[i, j] = _ZERO
            for t in range(time - 1, -1, -1):
                line = (s * time + t) * all_rows + first
                for i in range(rows):
                    wanted, into, at = slope[s, t, first + i], d[i], line + i
                    for j in range(units):
                        into[j] += wanted[j]
                    if data.acting[s, t, first + i]:
                        gru_back(
                            gates, 3 * i * units, to_input, 3 * at * units, d, i * across, kept, 5 * at * units, units
                        )
                    else:
                        for j in range(3 * units):
                            gates[i, j] = to_input[s, t, first + i, j] = _ZERO
                    copy(to_candidate, at * units, gates, (3 * i + 2) * units, units)
                for panel in range(panels.shape[1]):
                    at, origin = panel * PANEL, (s * panels.shape[1] + panel) * 3 * units * PANEL
                    strip(d, at, across, gates, 0, 3 * units, 1, panels, origin, PANEL, rows, 3 * units, KEEP)
                for i in range(rows):
                    if data.start[s, t, first + i]:
                        for j in range(units):
                            d[i, j] = _ZERO
            for i in range(rows):
                copy(to_carry, (s * all_rows + first + i) * units, d, i * across, units)


@fast_kernel
def lstm_forward(*arguments: Any) -> None:
    """:func:`_lstm_carries` of :class:`Sequences` and the rest, end to end."""
    _lstm_carries(Sequences(*arguments[_DATA]), *arguments[_REST])


@fast_kernel
def _lstm_carries(
    data: Sequences, panels: Array, after: Array, kept: Array, h: Array, out: Array, c: Array, low: int, high: int,
    keeps: bool,
) -> None:  # fmt: skip
    """The carries ``[h, c]`` of rows ``low`` to ``high`` after each step; ``h``, ``c (ROWS, H)``, ``out``: room."""
    sets, time, all_rows, units = after.shape[0], after.shape[1], after.shape[2], after.shape[3] // 2
    across = out.shape[1]
    for s in range(sets):
        for first in range(low, high, ROWS):
            rows = min(ROWS, high - first)
            for i in range(rows):
                at = (s * all_rows + first + i) * 2 * units
                copy(h, i * units, data.carry, at, units)
                copy(c, i * units, data.carry, at + units, units)
            for t in range(time):
                line = (s * time + t) * all_rows + first
                for i in range(rows):
                    if data.start[s, t, first + i]:
                        for j in range(units):
                            h[i, j] = c[i, j] = _ZERO
                for panel in range(panels.shape[1]):
                    origin = (s * panels.shape[1] + panel) * units * PANEL
                    strip(out, panel * PANEL, across, h, 0, units, 1, panels, origin, PANEL, rows, units, ZERO)
                for i in range(rows):
                    lstm(
                        out, i * across, data.from_input, (line + i) * 4 * units, data.bias, s * 4 * units, h,
                        i * units, c, i * units, kept, (line + i) * 7 * units, units, data.acting[s, t, first + i],
                        keeps,
                    )  # fmt: skip
                    copy(after, (line + i) * 2 * units, h, i * units, units)
                    copy(after, (line + i) * 2 * units + units, c, i * units, units)


@fast_kernel
def lstm_backward(*arguments: Any) -> None:
    """:func:`_lstm_slopes` of :class:`Sequences` and the rest, end to end."""
    _lstm_slopes(Sequences(*arguments[_DATA]), *arguments[_REST])


@fast_kernel
def _lstm_slopes(
    data: Sequences, panels: Array, kept: Array, slope: Array, to_input: Array, to_separate: Array, to_carry: Array,
    d: Array, gates: Array, c: Array, low: int, high: int,
) -> None:  # fmt: skip
    """Gradients of rows ``low`` to ``high``, last step first; ``d``, ``c (ROWS, H)``, ``gates (ROWS, 4H)``: room."""
    sets, time, all_rows, units = slope.shape[0], slope.shape[1], slope.shape[2], slope.shape[3] // 2
    across = d.shape[1]
    for s in range(sets):
        for first in range(low, high, ROWS):
            rows = min(ROWS, high - first)
            for i in range(rows):
                for j in range(across):
                    d[i, j] = _ZERO
                for j in range(units):
                    c[i, j] = _ZERO
            for t in range(time - 1, -1, -1):
                line = (s * time + t) * all_rows + first
                for i in range(rows):
                    wanted, into = slope[s, t, first + i], d[i]
                    for j in range(units):
                        into[j] += wanted[j]
                    for j in range(units):
                        c[i, j] += wanted[units + j]
                    if data.acting[s, t, first + i]:
                        at = 4 * i * units
                        lstm_back(gates, at, d, i * across, c, i * units, kept, 7 * (line + i) * units, units)
                    else:
                        for j in range(4 * units):
                            gates[i, j] = _ZERO
                copy(to_input, line * 4 * units, gates, 0, rows * 4 * units)
                for panel in range(panels.shape[1]):
                    at, origin = panel * PANEL, (s * panels.shape[1] + panel) * 4 * units * PANEL
                    strip(d, at, across, gates, 0, 4 * units, 1, panels, origin, PANEL, rows, 4 * units, KEEP)
                for i in range(rows):
                    if data.start[s, t, first + i]:
                        for j in range(units):
                            d[i, j] = c[i, j] = _ZERO
            for i in range(rows):
                at = (s * all_rows + first + i) * 2 * units
                copy(to_carry, at, d, i * across, units)
                copy(to_carry, at + units, c, i * units, units)
