"""Networks with a recurrent unit from inputs to outputs in one compiled call, with their gradient: float32 on a CPU.

Encoder, products with the inputs, recurrent unit and output layer go through time together, ``ROWS`` rows at a time
and rows first: what one step leaves is in the first-level cache when the next one reads it, and weights lie in panels
in the second-level one. Whatever the owners of parameters are, rows are read and written where they lie. The gradient
goes back in the same way and sums that of the weights on its way. The numbers are those of ``AgentNet.read``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled import backend
from marl.compiled.backend import RecurrentLayers, require_equal
from marl.compiled.panels import ROWS, Workroom, Workrooms, add_sums, fresh, in_halves, pack, pack_turned
from marl.compiled.recurrent import Unit
from marl.compiled.recurrent_steps import (
    FOUR,
    GRU_GATES,
    NOTHING,
    TWO,
    C,
    H,
    Passage,
    Slopes,
    gather,
    place,
    step,
    step_back,
)
from marl.compiled.tiles import ACTIVATIONS, Net, fast_kernel, flat_matrix, layer_table, spans
from marl.compiled.vectors import copy
from marl.types import Array

_ZERO = np.float32(0)

_NET, _PASSAGE, _WORKROOM, _REST = spans(Net, Passage, Workroom)
_SLOPES, _BACK_WORKROOM, _BACK_REST = spans(Net, Passage, Slopes, Workroom)[2:]


class CompiledPassage:
    """A network with a recurrent unit that goes through time by :meth:`forward` and back by :meth:`backward`."""

    what = "a recurrent network"

    def __init__(self, layers: RecurrentLayers, flat: Array) -> None:
        """``flat (P, D)``: where the parameters of these layers lie."""
        self.unit: Unit = layers.unit
        self.parameters, self.plain = layers.parameters, layers.plain
        shapes, places = places_of(layers.weights, layers.biases)
        self.layers = layer_table(shapes, places)
        self.net = Net(flat, self.layers, ACTIVATIONS[layers.activation], layers.members, layers.sizes)
        self.units, self.outputs = shapes[-2][0], shapes[-1][1]
        self.state, self.hidden = self.unit.state * self.units, sum(outputs for _, outputs in shapes[:-3])
        # Of one set alone, so that an agent of many learns, to the last bit, what it learns alone.
        self.work = int(layers.sizes.max()) * sum(inputs * outputs for inputs, outputs in shapes)
        self._ids: Array = layers.ids.detach().numpy()
        self._no_ids = self._ids[:, :0]

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
                require_equal(self.what, *zip((out, after), plain, strict=True))
        return out, after

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, keep: bool) -> Any:
        """What was read, and what is said as ``out`` and ``after``; what the gradient needs, if that is to be kept."""
        raise NotImplementedError

    def backward(
        self, found: Any, slope: Tensor | None, carry_slope: Tensor | None, to_x: bool
    ) -> tuple[Array, Slopes]:
        """The gradient of the flat matrix, and those of inputs (if ``to_x``) and carry, from those of what was said."""
        raise NotImplementedError


class CompiledRecurrent(CompiledPassage):
    """One network; takes what lies in its parameters at the time of the call."""

    def __init__(self, layers: RecurrentLayers, flat: Array) -> None:
        """See :meth:`maybe`."""
        super().__init__(layers, flat)
        self._rooms = Workrooms(self.layers, FOUR + 1)

    @classmethod
    def maybe(cls, layers: RecurrentLayers | None) -> Self | None:
        """For a network of known layers whose parameters lie in a flat matrix on the CPU; else None."""
        if layers is None or layers.activation not in ACTIVATIONS:
            return None
        flat = flat_matrix(layers.parameters, len(layers.sizes))
        return None if flat is None else cls(layers, flat)

    def once(self, obs: Tensor, carry: Tensor, started: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """One step of play: outputs ``(E, N, O)`` and the next carry of observations ``(E, N, F)`` without ids."""
        copies, agents, _ = obs.shape
        out = np.empty((1, copies, agents, self.outputs), dtype=np.float32)
        after = np.empty((1, copies, agents, self.state), dtype=np.float32)
        rows, before, begins, acts = map(as_array, (obs, carry, started, acting))
        room = self._rooms.borrow()
        _forward(
            *self.net, rows[None], self._ids, before, begins[None], acts[None], out, after, NOTHING, NOTHING,
            *room, self.unit.gates, 0, copies,
        )  # fmt: skip
        self._rooms.give_back(room)
        said = torch.from_numpy(out[0]), torch.from_numpy(after[0])
        if backend.checking:
            x = torch.cat((obs, torch.from_numpy(self._ids).expand(copies, -1, -1)), dim=-1).unsqueeze(0)
            plain = self.plain(x, carry, started.unsqueeze(0), acting.unsqueeze(0), self.parameters)
            require_equal(self.what, *((one, other[0]) for one, other in zip(said, plain, strict=True)))
        return said

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, keep: bool) -> Passage:
        """What was read and what is said; with what the gradient needs if that is to be kept."""
        time, batch, agents, _ = x.shape
        shape, (rows, before, begins, acts) = (time, batch, agents), map(as_array, (x, carry, start, acting))
        hidden, kept = NOTHING, NOTHING
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
            NOTHING if carry_slope is None else carry_slope.contiguous().numpy(),
            fresh(time, batch, agents, inputs) if to_x else NOTHING,
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


def places_of(
    weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Inputs and outputs of layers, and where their weights and biases begin in a row of the flat matrix."""
    shapes = [(int(weight.shape[1]), int(weight.shape[2])) for weight in weights]
    pairs = zip(weights, biases, strict=True)
    return shapes, [(int(weight.storage_offset()), int(bias.storage_offset())) for weight, bias in pairs]


def as_array(x: Tensor) -> Array:
    """A tensor's numbers, end to end."""
    return (x.detach() if x.requires_grad else x).contiguous().numpy()


class _Passing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, net: CompiledPassage, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        wants = any(ctx.needs_input_grad)
        found = net.forward(x, carry, start, acting, keep=wants)
        out, after = torch.from_numpy(found.out), torch.from_numpy(found.after)
        if backend.checking:
            plain = net.plain(x, carry, start, acting, parameters)
            require_equal(net.what, *zip((out, after), plain, strict=True))
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
    net: CompiledPassage,
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
        require_equal(f"the gradient of {net.what}", *scaled, tolerance=0.1)


@fast_kernel
def _forward(*arguments: Any) -> None:
    """:func:`_said` of a :class:`Net`, :class:`Passage`, :class:`Workroom` and the rest, end to end."""
    _said(
        Net(*arguments[_NET]), Passage(*arguments[_PASSAGE]), Workroom(*arguments[_WORKROOM]), *arguments[_REST]
    )  # fmt: skip


@fast_kernel
def _said(net: Net, data: Passage, work: Workroom, gates: int, low: int, high: int) -> None:
    """Outputs and carries of the batch's rows ``low`` to ``high``."""
    lines, rooms, units = work.lines, work.rooms, net.layers[-2, 0]
    time, agents, states = data.x.shape[0], data.x.shape[2], data.after.shape[3]
    for which in range(net.sizes.size):
        size = net.sizes[which]
        pack(work.panels, net.flat[which], net.layers)
        for first in range(0, (high - low) * size, ROWS):
            rows = min(ROWS, (high - low) * size - first)
            place(lines, agents, net.members[which], size, low, first, rows)
            gather(rooms[H], data.carry, 0, lines, rows, states, 0, units)
            if gates != GRU_GATES:
                gather(rooms[C], data.carry, 0, lines, rows, states, units, units)
            for t in range(time):
                step(net, which, data, work, gates, t, rows)


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
    lines, units = work.lines, net.layers[-2, 0]
    time, agents, states = data.x.shape[0], data.x.shape[2], data.after.shape[3]
    c, d = work.rooms[C], work.rooms[TWO]
    for which in range(net.sizes.size):
        size = net.sizes[which]
        pack_turned(work.turned, net.flat[which], net.layers)
        work.sums[:] = _ZERO
        for first in range(0, (high - low) * size, ROWS):
            rows = min(ROWS, (high - low) * size - first)
            place(lines, agents, net.members[which], size, low, first, rows)
            d[:] = _ZERO
            c[:] = _ZERO
            for t in range(time - 1, -1, -1):
                if slopes.after.size > 0:
                    for i in range(rows):
                        b, n = lines[i] // agents, lines[i] % agents
                        for j in range(units):
                            d[i, j] += slopes.after[t, b, n, j]
                        if gates != GRU_GATES:
                            for j in range(units):
                                c[i, j] += slopes.after[t, b, n, units + j]
                step_back(net, data, slopes, work, gates, t, rows)
            for i in range(rows):
                copy(slopes.carry, lines[i] * states, d, i * d.shape[1], units)
                if gates != GRU_GATES:
                    copy(slopes.carry, lines[i] * states + units, c, i * c.shape[1], units)
        add_sums(gradient[which], work.sums, net.layers)
