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
from marl.compiled.tiles import ACTIVATIONS, Net, exp, fast_kernel, flat_matrix, layer_table, spans, tanh
from marl.compiled.vectors import KEEP, copy
from marl.types import Array

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
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
        time, batch, agents, wide = passage.x.shape
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
def _edge(talk: Talk, before: Array, t: int, b: int, i: int, j: int) -> Any:
    """How strongly ``i`` hears ``j``, if that is loud."""
    if talk.now.size > 0:
        return before[b, i, talk.loud + 1 + j] * talk.now[t, b, i, before.shape[1]]
    return talk.edges[i, j]


@fast_kernel
def _average(talk: Talk, before: Array, t: int, b: int, i: int) -> Any:
    """One over the sum of the weights of what ``i`` hears."""
    total = _ZERO
    for j in range(before.shape[1]):
        total += _edge(talk, before, t, b, i, j) * before[b, j, talk.loud]
    return _ONE / total if total > 0 else _ONE


@fast_kernel
def _attend(talk: Talk, before: Array, t: int, b: int, i: int, share: Array) -> None:
    """``share_j = w_j exp(q k_j / sqrt(d)) / sum``, over those heard."""
    agents, width = before.shape[1], talk.message - talk.query
    scale, top, total = _ONE / np.float32(math.sqrt(width)), np.float32(-np.inf), _ZERO
    for j in range(agents):
        if _edge(talk, before, t, b, i, j) * before[b, j, talk.loud] > 0:
            score = _ZERO
            for k in range(width):
                score += before[b, i, talk.query + k] * before[b, j, talk.message + k]
            share[j] = score * scale
            top = max(top, share[j])
    for j in range(agents):
        weight = _edge(talk, before, t, b, i, j) * before[b, j, talk.loud]
        if weight > 0:
            share[j] = weight * exp(share[j] - top)
            total += share[j]
    if total > 0:
        for j in range(agents):
            share[j] /= total


@fast_kernel
def _hear(talk: Talk, x: Array, t: int, b: int, before: Array, silent: bool) -> None:
    """Summaries of what arrives in one copy, in the last columns of ``x[t, b]``."""
    agents, width = x.shape[2], talk.loud - talk.value
    own = x.shape[3] - width
    for i in range(agents):
        share, heard = talk.share[t, b, i], x[t, b, i]
        for j in range(agents):
            share[j] = _ZERO
        for k in range(width):
            heard[own + k] = _ZERO
        if silent:
            continue
        if talk.message > talk.query:
            _attend(talk, before, t, b, i, share)
        else:
            scale = _average(talk, before, t, b, i)
            for j in range(agents):
                share[j] = _edge(talk, before, t, b, i, j) * before[b, j, talk.loud] * scale
        for j in range(agents):
            if share[j] != 0:
                for k in range(width):
                    heard[own + k] += share[j] * before[b, j, talk.value + k]


@fast_kernel
def _hear_back(talk: Talk, x: Array, to_x: Array, t: int, b: int, before: Array, to: Array) -> None:
    """Add to ``to (B, N, C)`` the gradient of messages, loudness and queries, from that of the summaries."""
    agents, width, keys = x.shape[2], talk.loud - talk.value, talk.message - talk.query
    own = x.shape[3] - width
    for i in range(agents):
        share, slope, heard = talk.share[t, b, i], to_x[t, b, i], x[t, b, i]
        scale, mean = _ONE, _ZERO
        if keys > 0:
            scale = _ONE / np.float32(math.sqrt(keys))
            for k in range(width):
                mean += slope[own + k] * heard[own + k]
        elif talk.gated:
            scale = _average(talk, before, t, b, i)
        for j in range(agents):
            edge = _edge(talk, before, t, b, i, j)
            if keys > 0 or talk.gated:
                product = _ZERO
                for k in range(width):
                    product += slope[own + k] * before[b, j, talk.value + k]
                if keys == 0:  # a mouth that is shut learns what it would have said
                    to[b, j, talk.loud] += edge * scale * product
                elif share[j] > 0:
                    score = share[j] * (product - mean) * scale
                    for k in range(keys):
                        to[b, i, talk.query + k] += score * before[b, j, talk.message + k]
                    for k in range(keys):
                        to[b, j, talk.message + k] += score * before[b, i, talk.query + k]
            if share[j] != 0:
                for k in range(width):
                    to[b, j, talk.value + k] += share[j] * slope[own + k]


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
    together = max(1, ROWS // net.sizes.max())
    for block in range(low, high, together):
        copies = min(together, high - block)
        for t in range(time):
            before = data.carry if t == 0 else data.after[t - 1]
            for b in range(block, block + copies):
                _hear(talk, data.x, t, b, before, data.start[t, b])
            for which in range(net.sizes.size):
                size, at = net.sizes[which], which * (inner + outer)
                body = Workroom(work.panels[at : at + inner], work.turned, work.sums, rooms, lines)
                mouth = Workroom(
                    work.panels[at + inner : at + inner + outer], work.turned, work.sums, rooms, lines
                )
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
    together = max(1, ROWS // net.sizes.max())
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
                    _hear_back(talk, data.x, slopes.x, t, b, before, to)
    for which in range(net.sizes.size):
        total = which * (sums + mouth_sums)
        add_sums(gradient[which], work.sums[total : total + sums], net.layers)
        add_sums(gradient[which], work.sums[total + sums : total + sums + mouth_sums], talk.mouths)
