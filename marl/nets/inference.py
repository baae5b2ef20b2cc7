"""What a fully connected network says, without gradients: one compiled call for all agents of all copies.

Acting on 48 rows takes 25 us with the draw included, where torch's operations around the same products take 160; a
rollout's values take half of what they took. Networks that are something else, lie elsewhere than in a flat matrix, or
are asked for gradients, are not this module's business: :meth:`Inference.of` says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.nets.networks import MLPBody
from marl.nets.owner import Owner
from marl.nets.stacked import StackedLinear
from marl.nets.tiles import Scratch, compiled, exp, flat_matrix, forward, gather, padded, split
from marl.parallel import both, worth_splitting
from marl.types import Array


class Inference:
    """The compiled forward of one network; takes what lies in its parameters at the time of the call."""

    def __init__(self, owner: Owner, body: MLPBody, head: StackedLinear, flat: Array, ids: Tensor) -> None:
        """See :meth:`of`."""
        self.flat, self.ids = flat, ids.detach().numpy()  # (P, D), (N, I)
        self._weight, self._place = head.weight, head.weight.data_ptr()
        self.layers, self.activation = body.table(head), body.activation_code
        self.members, self.sizes = owner.table
        self.outputs = int(self.layers[-1, 1])
        self._free: list[Scratch] = []

    @staticmethod
    def of(owner: Owner, body: Any, head: StackedLinear, ids: Tensor) -> Inference | None:
        """For a network that can be had this way; else None."""
        if not (isinstance(body, MLPBody) and body.fusable):
            return None
        flat = flat_matrix([*body.parameters(), *head.parameters()], owner.num_sets)
        return None if flat is None else Inference(owner, body, head, flat, ids)

    def __deepcopy__(self, memo: Any) -> None:
        """A copied network has other parameters to look at, and finds them when it is first asked."""

    @property
    def stale(self) -> bool:
        """Whether the parameters lie elsewhere by now."""
        return self._weight.data_ptr() != self._place

    def _borrow(self) -> Scratch:
        try:
            return self._free.pop()  # two threads may ask at once
        except IndexError:
            return Scratch(self.layers)

    def __call__(self, x: Tensor) -> Tensor:
        """``(T, B, N, F)``, or ``(T, B, 1, F)`` that all agents share, to ``(T, B, N, out)``."""
        time, batch, columns = x.shape[:3]
        rows = time * batch
        agents = self.members.shape[1] if self.sizes.size == 1 else int(self.sizes.sum())
        out = torch.empty(time, batch, agents, self.outputs)
        source = x.detach().reshape(rows, columns, -1).contiguous().numpy()
        target = out.view(rows, agents, -1).numpy()

        def part(start: int, stop: int) -> None:
            scratch = self._borrow()
            _evaluate(
                self.flat, self.layers, self.activation, self.members, self.sizes, source[start:stop],
                target[start:stop], scratch.x, scratch.hidden, scratch.places[0],
            )  # fmt: skip
            self._free.append(scratch)

        if worth_splitting(rows * agents, x.device):
            both(lambda: part(0, rows // 2), lambda: part(rows // 2, rows))
        else:
            part(0, rows)
        return out

    def choose(self, obs: Tensor, legal: Tensor | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw from ``softmax(outputs)`` for observations ``(E, N, F)``; actions and log-probabilities ``(E, N)``."""
        uniform = torch.rand(obs.shape[:2], generator=generator)
        action, log_prob = torch.empty(obs.shape[:2], dtype=torch.int64), torch.empty(obs.shape[:2])
        scratch = self._borrow()
        _choose(
            self.flat, self.layers, self.activation, self.members, self.sizes, obs.numpy(), self.ids,
            _NO_MASK if legal is None else legal.numpy(), uniform.numpy(), action.numpy(), log_prob.numpy(),
            scratch.x, scratch.hidden, scratch.rows, scratch.places[0],
        )  # fmt: skip
        self._free.append(scratch)
        return action, log_prob


_NO_MASK = np.zeros((0, 0, 0), dtype=bool)


@compiled
def _evaluate(
    flat: Array, layers: Array, activation: int, members: Array, sizes: Array, source: Array, out: Array,
    x: Array, hidden: Array, place: Array,
) -> None:  # fmt: skip
    """``out (R, N, O)`` of ``source (R, N or 1, F)``."""
    rows, shared = source.reshape(-1, source.shape[2]), source.shape[1] == 1
    depth, outputs = layers.shape[0], layers[-1, 1]
    for which in range(sizes.size):
        size = sizes[which]
        count = source.shape[0] * size
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            for j in range(columns):
                row, agent = (first + j) // size, members[which, (first + j) % size]
                place[j] = row if shared else row * source.shape[1] + agent
            gather(x, rows, place, columns)
            forward(flat[which], layers, activation, x, hidden, padded(columns))
            for j in range(columns):
                row, agent = (first + j) // size, members[which, (first + j) % size]
                for a in range(outputs):
                    out[row, agent, a] = hidden[depth - 1, a, j]


@compiled
def _choose(
    flat: Array, layers: Array, activation: int, members: Array, sizes: Array, obs: Array, ids: Array, legal: Array,
    uniform: Array, action: Array, log_prob: Array, x: Array, hidden: Array, rows: Array, place: Array,
) -> None:  # fmt: skip
    """Outputs of ``obs (E, N, F)`` with ``ids (N, I)`` beside, and a draw by inverting the distribution function."""
    width, extra = obs.shape[2], ids.shape[1]
    depth, choices = layers.shape[0], layers[-1, 1]
    masked = legal.shape[0] > 0
    for which in range(sizes.size):
        size = sizes[which]
        count = obs.shape[0] * size
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            for j in range(columns):
                row, agent = (first + j) // size, members[which, (first + j) % size]
                place[j] = row * obs.shape[1] + agent
                for f in range(extra):
                    x[width + f, j] = ids[agent, f]
            gather(x, obs.reshape(-1, width), place, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            logits, top, total, left = hidden[depth - 1], rows[0], rows[1], rows[2]
            if masked:
                for j in range(columns):
                    row, agent = (first + j) // size, members[which, (first + j) % size]
                    for a in range(choices):
                        if not legal[row, agent, a]:
                            logits[a, j] = np.float32(-1e9)
            for j in range(full):
                top[j] = logits[0, j]
                total[j] = 0
            for a in range(1, choices):
                for j in range(full):
                    top[j] = max(top[j], logits[a, j])
            for a in range(choices):
                for j in range(full):
                    logits[a, j] -= top[j]
                    total[j] += exp(logits[a, j])
            for j in range(columns):
                row, agent = (first + j) // size, members[which, (first + j) % size]
                left[j] = uniform[row, agent] * total[j]
                chosen = 0
                for a in range(choices):
                    weight = exp(logits[a, j])
                    if weight > 0:  # so that rounding never ends on an impossible choice
                        chosen = a
                        if left[j] < weight:
                            break
                    left[j] -= weight
                action[row, agent] = chosen
                log_prob[row, agent] = logits[chosen, j] - np.log(total[j])
