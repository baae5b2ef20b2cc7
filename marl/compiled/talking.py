"""Teams that hear in a step what was said in the one before, over whole sequences in one compiled call.

A step cannot begin before everybody's messages of the last one are there, so time is the outer loop and whole copies
of a team go through it together: what arrives is summed up beside the observations, then encoder, unit and output layer
follow as in :mod:`marl.compiled.recurrent_net`, then what is said, which lies in the carry until the next step reads
it. The gradient goes the same way back. The numbers are those of ``ChannelNet.read`` over a perfect link.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from marl.compiled.backend import TalkingLayers
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
    turned_size,
    whole,
)
from marl.compiled.recurrent_net import CompiledPassage, as_array, places_of
from marl.compiled.recurrent_steps import (
    FOUR,
    GRU_GATES,
    NOTHING,
    SAID,
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
from marl.compiled.tiles import ACTIVATIONS, Net, exp, fast_kernel, flat_matrix, layer_table, spans, strip, tanh
from marl.compiled.vectors import KEEP, PANEL, ZERO, copy
from marl.types import Array

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_LEAST = np.float32(-1e30)
_NONE = np.zeros((0, 0, 0), dtype=np.float32)


class Talk(NamedTuple):
    """How a team talks; places are columns of a carry ``[unit's, query, message, loudness, edges]``."""

    edges: Array  # (N, N) who hears whom, if that never changes
    now: Array  # (T, B, N, N + 1) else edges of what is said now, and who can listen
    mouths: Array  # (K, 4) layers that read features: messages if it says them, gate if gated, query if there is one
    says: bool  # otherwise features are the message
    gated: bool
    keeps_last: bool  # who is not acting is heard with its last words
    query: int  # place
    message: int  # place; before it queries end, so there are none if both are equal
    value: int  # place of what listeners sum up
    loud: int  # place of the loudness, where the message ends
    chance: Array  # (T, B, N) of an open gate, or nothing
    share: Array  # (T, B, N, N) what listeners give to speakers


_NET, _PASSAGE, _TALK, _WORKROOM, _REST = spans(Net, Passage, Talk, Workroom)
_SLOPES, _BACK_WORKROOM, _BACK_REST = spans(Net, Passage, Talk, Slopes, Workroom)[3:]


class Conversation(NamedTuple):
    """What was read, said and heard."""

    passage: Passage
    talk: Talk

    @property
    def out(self) -> Array:
        """Outputs ``(T, B, N, O)``."""
        return self.passage.out

    @property
    def after(self) -> Array:
        """Carries ``(T, B, N, C)``."""
        return self.passage.after


class CompiledTalking(CompiledPassage):
    """One network; takes what lies in its parameters at the time of the call."""

    what = "a network that talks"

    def __init__(self, layers: TalkingLayers, flat: Array) -> None:
        """See :meth:`of`."""
        super().__init__(layers.body, flat)
        self.edges: Array = layers.edges.detach().contiguous().numpy()
        self.mouths = layer_table(*places_of(layers.weights, layers.biases)).reshape(-1, 4)
        self.layers = np.concatenate((self.layers, self.mouths))
        self.parameters = self.parameters + layers.parameters
        self.summary, self.changes = layers.size - layers.private, layers.changes
        message = self.state + layers.private
        places = self.state, message, message + layers.private, message + layers.size
        self._told = self.mouths, layers.says, layers.gated, layers.keeps_last, *places
        self.carry = message + layers.size + 1 + (len(self.edges) if self.changes else 0)
        self.work += int(layers.body.sizes.max()) * sum(int(inputs * outputs) for inputs, outputs, *_ in self.mouths)
        self._rooms = Workrooms(self.layers, FOUR + 1, len(layers.body.sizes))
        self.share: Array = _NONE  # of the newest step, (B, N, N)

    @classmethod
    def of(cls, layers: TalkingLayers | None) -> Self | None:
        """For a network of known layers whose parameters lie in a flat matrix on the CPU; else None."""
        if layers is None or layers.body.activation not in ACTIVATIONS or layers.edges.device.type != "cpu":
            return None
        flat = flat_matrix([*layers.body.parameters, *layers.parameters], len(layers.body.sizes))
        return None if flat is None else cls(layers, flat)

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, keep: bool) -> Conversation:
        """What was read and what is said; with what the gradient needs if that is to be kept."""
        time, batch, agents, inputs = x.shape
        shape = time, batch, agents
        seen, before, begins, acts = map(as_array, (x, carry, start, acting))
        own = inputs - (agents + 1 if self.changes else 0)
        now = np.ascontiguousarray(seen[..., own:]) if self.changes else NOTHING
        wide = fresh(*shape, own + self.summary)  # observations and, beside them, what is heard
        wide[..., :own] = seen[..., :own]
        hidden, kept = NOTHING, NOTHING
        if keep:
            hidden, kept = fresh(*shape, self.hidden), fresh(*shape, self.unit.kept * self.units)
        out, after = fresh(*shape, self.outputs), fresh(*shape, self.carry)
        passage = Passage(wide, self._no_ids, before, begins, acts, out, after, hidden, kept)
        chance = fresh(*shape) if self._told[2] else _NONE
        talk = Talk(self.edges, now, *self._told, chance, fresh(*shape, agents))

        def some(low: int, high: int) -> None:
            room = self._rooms.borrow()
            _forward(*self.net, *passage, *talk, *room, self.unit.gates, low, high)
            self._rooms.give_back(room)

        in_halves(some, batch, time * batch * self.work)
        self.share = talk.share[-1]
        return Conversation(passage, talk)

    def backward(
        self, found: Conversation, slope: Tensor | None, carry_slope: Tensor | None, to_x: bool
    ) -> tuple[Array, Slopes]:
        """The gradient of the flat matrix, and those of inputs and carry, from those of what was said."""
        passage, talk = found
        time, batch, _, wide = passage.x.shape
        slopes = Slopes(
            np.zeros(found.out.shape, dtype=np.float32) if slope is None else as_array(slope),
            np.zeros(found.after.shape, dtype=np.float32) if carry_slope is None else as_array(carry_slope).copy(),
            fresh(*passage.x.shape),
            np.zeros(passage.carry.shape, dtype=np.float32),
        )
        parts: list[Array] = []

        def some(low: int, high: int) -> None:
            room, gradient = self._rooms.borrow(), np.zeros(self.net.flat.shape, dtype=np.float32)
            _backward(*self.net, *passage, *talk, *slopes, *room, self.unit.gates, low, high, gradient)
            self._rooms.give_back(room)
            parts.append(gradient)

        in_halves(some, batch, time * batch * self.work)
        own = wide - self.summary
        to_inputs = slopes.x[..., :own]
        if to_x and self.changes:  # edges go into the carry and have no other gradient
            to_edges = slopes.after[..., talk.loud + 1 :]
            to_inputs = np.concatenate((to_inputs, to_edges, np.zeros_like(to_edges[..., :1])), axis=-1)
        return sum(parts[1:], parts[0]), slopes._replace(x=to_inputs)


# --- hearing ----------------------------------------------------------------------------------------------------------


@fast_kernel
def _desk(talk: Talk, agents: int) -> Array:
    """Room for five matrices of one copy's messages."""
    widest = whole(max(agents, talk.loud - talk.query))
    return np.empty((5, widest * widest), dtype=np.float32)


@fast_kernel
def _lay(out: Array, source: Array, start: int, across: int, rows: int, width: int) -> None:
    """Rows of ``source``, ``across`` apart, beside each other in whole panels."""
    for i in range(rows):
        copy(out, i * whole(width), source, start + i * across, width)


@fast_kernel
def _turned(out: Array, source: Array, start: int, across: int, rows: int, width: int) -> None:
    """The same, transposed."""
    for k in range(width):
        for i in range(rows):
            out[k * whole(rows) + i] = source.flat[start + i * across + k]


@fast_kernel
def _product(
    out: Array, a: Array, start: int, step: int, skip: int, x: Array, rows: int, inner: int, width: int
) -> None:  # fmt: skip
    """``out[i] = sum_k a[start + i step + k skip] x[k]``, ``width`` numbers each, in whole panels."""
    for first in range(0, width, PANEL):
        strip(out, first, whole(width), a, start, step, skip, x, first, whole(width), rows, inner, ZERO)


@fast_kernel
def _look(talk: Talk, before: Array, t: int, b: int, edges: Array, loud: Array) -> None:
    """How strongly everybody hears everybody who is loud, ``edges (N N)``, and how loud they are, ``loud (N)``."""
    agents = before.shape[1]
    for i in range(agents):
        loud[i] = before[b, i, talk.loud]
        if talk.now.size > 0:
            for j in range(agents):
                edges[i * agents + j] = before[b, i, talk.loud + 1 + j] * talk.now[t, b, i, agents]
        else:
            for j in range(agents):
                edges[i * agents + j] = talk.edges[i, j]


@fast_kernel
def _scale(edges: Array, loud: Array, i: int, agents: int) -> Any:
    """One over the sum of the weights of what ``i`` hears."""
    total = _ZERO
    for j in range(agents):
        total += edges[i * agents + j] * loud[j]
    return _ONE / total if total > 0 else _ONE


@fast_kernel
def _hear(talk: Talk, x: Array, t: int, b: int, before: Array, silent: bool, desk: Array) -> None:
    """Summaries of what arrives in one copy, in the last columns of ``x[t, b]``."""
    agents, states, width, keys = x.shape[2], before.shape[2], talk.loud - talk.value, talk.message - talk.query
    own, row = x.shape[3] - width, b * agents * states
    if silent:
        for i in range(agents):
            talk.share[t, b, i, :] = _ZERO
            x[t, b, i, own:] = _ZERO
        return
    edges, loud = desk[0], desk[1]
    _look(talk, before, t, b, edges, loud)
    if keys > 0:
        _turned(desk[2], before, row + talk.message, states, agents, keys)
        _product(desk[3], before, row + talk.query, states, 1, desk[2], agents, keys, agents)
    root = _ONE / np.float32(math.sqrt(max(keys, 1)))
    for i in range(agents):
        share = talk.share[t, b, i]
        if keys == 0:
            scale = _scale(edges, loud, i, agents)
            for j in range(agents):
                share[j] = edges[i * agents + j] * loud[j] * scale
            continue
        score, top, total = desk[3, i * whole(agents) : i * whole(agents) + agents], _LEAST, _ZERO
        for j in range(agents):
            score[j] *= root
            top = score[j] if edges[i * agents + j] * loud[j] > 0 and score[j] > top else top
        for j in range(agents):
            share[j] = edges[i * agents + j] * loud[j] * exp(min(score[j] - top, _ZERO))
            total += share[j]
        scale = _ONE / total if total > 0 else _ONE
        for j in range(agents):
            share[j] *= scale
    _lay(desk[2], before, row + talk.value, states, agents, width)
    batch = x.shape[1]
    _product(desk[3], talk.share, (t * batch + b) * agents * agents, agents, 1, desk[2], agents, agents, width)
    for i in range(agents):
        copy(x, ((t * batch + b) * agents + i) * x.shape[3] + own, desk[3], i * whole(width), width)


@fast_kernel
def _add(to: Array, b: int, place: int, source: Array, width: int) -> None:
    """Add ``source``, whole panels, to columns of ``to[b]``."""
    for i in range(to.shape[1]):
        into, rest = to[b, i, place : place + width], source[i * whole(width) : i * whole(width) + width]
        for k in range(width):
            into[k] += rest[k]


@fast_kernel
def _hear_back(talk: Talk, to_x: Array, t: int, b: int, before: Array, to: Array, desk: Array) -> None:
    """Add to ``to (B, N, C)`` the gradient of messages, loudness and queries, from that of the summaries."""
    _, batch, agents, inputs = to_x.shape
    states, width, keys = before.shape[2], talk.loud - talk.value, talk.message - talk.query
    own, row, shares = inputs - width, b * agents * states, (t * batch + b) * agents * agents
    slope = desk[4]
    _lay(slope, to_x, (t * batch + b) * agents * inputs + own, inputs, agents, width)
    _product(desk[3], talk.share, shares, 1, agents, slope, agents, agents, width)
    _add(to, b, talk.value, desk[3], width)
    if keys == 0 and not talk.gated:
        return
    edges, loud, products = desk[0], desk[1], desk[3]
    _turned(desk[2], before, row + talk.value, states, agents, width)
    _product(products, slope, 0, whole(width), 1, desk[2], agents, width, agents)
    if keys == 0:  # a mouth that is shut learns what it would have said
        _look(talk, before, t, b, edges, loud)
        for i in range(agents):
            scale = _scale(edges, loud, i, agents)
            for j in range(agents):
                to[b, j, talk.loud] += edges[i * agents + j] * scale * products[i * whole(agents) + j]
        return
    root = _ONE / np.float32(math.sqrt(keys))
    for i in range(agents):
        share, product, mean = talk.share[t, b, i], products[i * whole(agents) : i * whole(agents) + agents], _ZERO
        for j in range(agents):
            mean += share[j] * product[j]
        for j in range(agents):
            product[j] = share[j] * (product[j] - mean) * root
    _lay(desk[2], before, row + talk.message, states, agents, keys)
    _product(desk[0], products, 0, whole(agents), 1, desk[2], agents, agents, keys)
    _add(to, b, talk.query, desk[0], keys)
    _lay(desk[2], before, row + talk.query, states, agents, keys)
    _product(desk[0], products, 0, 1, whole(agents), desk[2], agents, agents, keys)
    _add(to, b, talk.message, desk[0], keys)


# --- speaking ---------------------------------------------------------------------------------------------------------


@fast_kernel
def _speak(
    net: Net, which: int, talk: Talk, data: Passage, before: Array, work: Workroom, t: int, rows: int
) -> None:  # fmt: skip
    """What rows ``work.lines`` say and ask after step ``t``, from features in ``rooms[H]``, into their carries."""
    flat, lines, mouths = net.flat[which], work.lines, talk.mouths
    h, said = work.rooms[H], work.rooms[SAID]
    _, batch, agents, states = data.after.shape
    source, layer, origin, wide, units = h, 0, 0, h.shape[1], net.layers[-2, 0]
    if talk.says:
        affine(said, h, flat, mouths[layer], work.panels, origin, rows)
        origin += units * whole(mouths[layer, 1])
        source, layer = said, layer + 1
    for i in range(rows):
        b, n = lines[i] // agents, lines[i] % agents
        row, last = data.after[t, b, n], before[b, n]
        if data.acting[t, b, n]:
            copy(data.after, (t * batch * agents + lines[i]) * states + talk.message, source, i * wide,
                 talk.loud - talk.message)  # fmt: skip
            row[talk.loud] = _ONE
        else:
            kept = talk.keeps_last and not data.start[t, b]
            for j in range(talk.message, talk.loud + 1):
                row[j] = last[j] if kept else _ZERO
            kept = not data.start[t, b]
            for j in range(talk.query, talk.message):
                row[j] = last[j] if kept else _ZERO
        if talk.now.size > 0:
            for j in range(agents):
                row[talk.loud + 1 + j] = talk.now[t, b, n, j]
    if talk.gated:
        affine(said, h, flat, mouths[layer], work.panels, origin, rows)
        origin += units * whole(1)
        layer += 1
        for i in range(rows):
            b, n = lines[i] // agents, lines[i] % agents
            talk.chance[t, b, n] = _HALF + _HALF * tanh(_HALF * said[i, 0])
            if data.acting[t, b, n]:
                data.after[t, b, n, talk.loud] = _ONE if said[i, 0] > 0 else _ZERO
    if talk.message > talk.query:
        affine(said, h, flat, mouths[layer], work.panels, origin, rows)
        for i in range(rows):
            if data.acting[t, lines[i] // agents, lines[i] % agents]:
                copy(data.after, (t * batch * agents + lines[i]) * states + talk.query, said, i * wide,
                     talk.message - talk.query)  # fmt: skip


@fast_kernel
def _speak_back(
    net: Net, talk: Talk, data: Passage, slopes: Slopes, to: Array, work: Workroom, t: int, rows: int
) -> None:  # fmt: skip
    """Add to the gradient of features in ``rooms[TWO]`` what comes through messages; to ``to`` what was only kept."""
    lines, mouths, agents = work.lines, talk.mouths, data.x.shape[2]
    h, d, z = work.rooms[H], work.rooms[TWO], work.rooms[SAID]
    states, units = data.after.shape[3], net.layers[-2, 0]
    gather(h, data.after, t * data.x.shape[1] * agents, lines, rows, states, 0, units)
    layer, origin, total = 0, 0, 0
    ends, _ = sum_places(mouths)
    for part in range(3):  # messages, gates, queries
        if part == 0:
            first, width, there = talk.message, talk.loud - talk.message, True
        elif part == 1:
            first, width, there = talk.loud, 1, talk.gated
        else:
            first, width, there = talk.query, talk.message - talk.query, talk.message > talk.query
        if not there:
            continue
        for i in range(rows):
            b, n = lines[i] // agents, lines[i] % agents
            if data.acting[t, b, n]:
                for j in range(width):
                    z[i, j] = slopes.after[t, b, n, first + j]
                if part == 1:
                    chance = talk.chance[t, b, n]
                    z[i, 0] *= chance * (_ONE - chance)
            else:
                for j in range(width):
                    z[i, j] = _ZERO
        if part == 0 and not talk.says:
            for i in range(rows):
                for j in range(units):
                    d[i, j] += z[i, j]
            continue
        add_outer(work.sums, total, ends, h, z, rows, units, width)
        times(d, z, work.turned, origin, rows, width, units, KEEP)
        layer, origin = layer + 1, origin + width * whole(units)
        total, ends = total + units * whole(width), ends + width
    for i in range(rows):
        b, n = lines[i] // agents, lines[i] % agents
        if not data.acting[t, b, n] and not data.start[t, b]:
            for j in range(talk.query, talk.loud + 1 if talk.keeps_last else talk.message):
                to[b, n, j] += slopes.after[t, b, n, j]


# --- through time -----------------------------------------------------------------------------------------------------


@fast_kernel
def _forward(*arguments: Any) -> None:
    """:func:`_said` of a :class:`Net`, :class:`Passage`, :class:`Talk`, :class:`Workroom` and the rest, end to end."""
    _said(
        Net(*arguments[_NET]), Passage(*arguments[_PASSAGE]), Talk(*arguments[_TALK]),
        Workroom(*arguments[_WORKROOM]), *arguments[_REST],
    )  # fmt: skip


@fast_kernel
def _said(net: Net, data: Passage, talk: Talk, work: Workroom, gates: int, low: int, high: int) -> None:
    """Outputs and carries of the batch's rows ``low`` to ``high``."""
    lines, rooms, units = work.lines, work.rooms, net.layers[-2, 0]
    time, agents, states = data.x.shape[0], data.x.shape[2], data.after.shape[3]
    inner, outer = sum_places(net.layers)[0], sum_places(talk.mouths)[0]
    for which in range(net.sizes.size):
        at = which * (inner + outer)
        pack(work.panels[at : at + inner], net.flat[which], net.layers)
        pack(work.panels[at + inner : at + inner + outer], net.flat[which], talk.mouths)
    together, desk = max(1, ROWS // net.sizes.max()), _desk(talk, agents)
    for block in range(low, high, together):
        copies = min(together, high - block)
        for t in range(time):
            before = data.carry if t == 0 else data.after[t - 1]
            for b in range(block, block + copies):
                _hear(talk, data.x, t, b, before, data.start[t, b], desk)
            for which in range(net.sizes.size):
                size, at = net.sizes[which], which * (inner + outer)
                body = Workroom(work.panels[at : at + inner], work.turned, work.sums, rooms, lines)
                mouth = Workroom(work.panels[at + inner : at + inner + outer], work.turned, work.sums, rooms, lines)
                for first in range(0, copies * size, ROWS):
                    rows = min(ROWS, copies * size - first)
                    place(lines, agents, net.members[which], size, block, first, rows)
                    gather(rooms[H], before, 0, lines, rows, states, 0, units)
                    if gates != GRU_GATES:
                        gather(rooms[C], before, 0, lines, rows, states, units, units)
                    step(net, which, data, body, gates, t, rows)
                    _speak(net, which, talk, data, before, mouth, t, rows)


@fast_kernel
def _backward(*arguments: Any) -> None:
    """:func:`_derived` of its tuples and the rest, end to end."""
    _derived(
        Net(*arguments[_NET]), Passage(*arguments[_PASSAGE]), Talk(*arguments[_TALK]), Slopes(*arguments[_SLOPES]),
        Workroom(*arguments[_BACK_WORKROOM]), *arguments[_BACK_REST],
    )  # fmt: skip


@fast_kernel
def _derived(
    net: Net, data: Passage, talk: Talk, slopes: Slopes, work: Workroom, gates: int, low: int, high: int,
    gradient: Array,
) -> None:  # fmt: skip
    """Add to ``gradient (P, D)``, and fill those of inputs and carries, of the batch's rows ``low`` to ``high``."""
    lines, rooms, units = work.lines, work.rooms, net.layers[-2, 0]
    time, batch, agents, states = data.after.shape
    c, d = rooms[C], rooms[TWO]
    inner, outer = turned_size(net.layers), turned_size(talk.mouths)
    sums, mouth_sums = sum_places(net.layers)[1], sum_places(talk.mouths)[1]
    for which in range(net.sizes.size):
        at = which * (inner + outer)
        pack_turned(work.turned[at : at + inner], net.flat[which], net.layers)
        pack_turned(work.turned[at + inner : at + inner + outer], net.flat[which], talk.mouths)
    work.sums[:] = _ZERO
    together, desk = max(1, ROWS // net.sizes.max()), _desk(talk, agents)
    for block in range(low, high, together):
        copies = min(together, high - block)
        for t in range(time - 1, -1, -1):
            before = data.carry if t == 0 else data.after[t - 1]
            to = slopes.carry if t == 0 else slopes.after[t - 1]
            for which in range(net.sizes.size):
                size, at, total = net.sizes[which], which * (inner + outer), which * (sums + mouth_sums)
                body = Workroom(
                    work.panels, work.turned[at : at + inner], work.sums[total : total + sums], rooms, lines
                )
                mouth = Workroom(
                    work.panels, work.turned[at + inner : at + inner + outer],
                    work.sums[total + sums : total + sums + mouth_sums], rooms, lines,
                )  # fmt: skip
                for first in range(0, copies * size, ROWS):
                    rows = min(ROWS, copies * size - first)
                    place(lines, agents, net.members[which], size, block, first, rows)
                    gather(d, slopes.after, t * batch * agents, lines, rows, states, 0, units)
                    if gates != GRU_GATES:
                        gather(c, slopes.after, t * batch * agents, lines, rows, states, units, units)
                    _speak_back(net, talk, data, slopes, to, mouth, t, rows)
                    step_back(net, data, slopes, body, gates, t, rows)
                    for i in range(rows):
                        into = to[lines[i] // agents, lines[i] % agents]
                        for j in range(units):
                            into[j] += d[i, j]
                        if gates != GRU_GATES:
                            for j in range(units):
                                into[units + j] += c[i, j]
            for b in range(block, block + copies):
                if not data.start[t, b]:
                    _hear_back(talk, slopes.x, t, b, before, to, desk)
    for which in range(net.sizes.size):
        total = which * (sums + mouth_sums)
        add_sums(gradient[which], work.sums[total : total + sums], net.layers)
        add_sums(gradient[which], work.sums[total + sums : total + sums + mouth_sums], talk.mouths)
