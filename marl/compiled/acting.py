"""Acting in one compiled call: what a fully connected network says for all agents of all copies, and a draw from it.

Acting on 48 rows takes 25 us, where torch's operations around the same products take 160.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled.backend import DenseLayers, require_equal
from marl.compiled.mlp import CompiledMLP, stacked_net
from marl.compiled.tiles import (
    Net,
    Room,
    Scratch,
    exp,
    fast_kernel,
    forward,
    gather_columns,
    padded,
    spans,
    split,
    spread,
)
from marl.ranks import uniform as uniform_of
from marl.types import Array

ILLEGAL = np.float32(-1e9)  # as in torch: finite, so that 0 * log 0 never becomes NaN
_NO_MASK = np.zeros((0, 0, 0), dtype=bool)


class Acting(CompiledMLP):
    """The compiled network with a draw."""

    def __init__(self, dense: DenseLayers, flat: Array) -> None:
        """See :meth:`maybe`."""
        super().__init__(dense, flat)
        self.ids: Array = dense.ids.detach().numpy()  # (N, I) beside the observations
        self._free: list[Room] = []

    def choose(
        self, obs: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw from ``softmax(outputs)`` for observations ``(E, N, F)``; actions and log-probabilities ``(E, N)``."""
        return self.draw(obs, action_mask, uniform_of(obs.shape[:2], generator))

    def draw(self, obs: Tensor, action_mask: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The same from uniform numbers ``(E, N)``, by inverting the distribution function."""
        # numpy makes a small array in a tenth of the time that torch takes.
        action, log_prob = np.empty(uniform.shape, dtype=np.int64), np.empty(uniform.shape, dtype=np.float32)
        try:
            room = self._free.pop()  # two threads may ask at once
        except IndexError:
            room = Scratch(self.layers).room
        _choose(
            *self.net, obs.numpy(), self.ids, _NO_MASK if action_mask is None else action_mask.numpy(),
            uniform.numpy(), action, log_prob, *room,
        )  # fmt: skip
        self._free.append(room)
        return torch.from_numpy(action), torch.from_numpy(log_prob)


class StackedActing:
    """Several networks of one shape with a draw each, in one call; each draws from its own stream."""

    def __init__(self, nets: Sequence[Acting], flat: Array, copies: int) -> None:
        """``flat``: the parameters of all, as :func:`~marl.compiled.mlp.rest_together` laid them; ``copies``: ``E``."""
        first, rows = nets[0], copies * nets[0].agents
        # All copies of all stand side by side in one row of M E N agents: a network has those of its copies.
        starts, sizes = np.arange(copies)[:, np.newaxis] * first.agents, first.net.sizes  # (E, 1)
        members = np.zeros((len(sizes), copies * sizes.max()), dtype=first.net.members.dtype)
        for place, size in enumerate(sizes):
            members[place, : copies * size] = (starts + first.net.members[place, :size]).ravel()
        net = first.net._replace(members=members, sizes=sizes * copies)
        self.net, self.room = stacked_net(net, flat, len(nets), rows), Scratch(first.layers).room
        self.ids = np.tile(first.ids, (len(nets) * copies, 1))
        self._uniform = np.empty((1, len(nets) * rows), dtype=np.float32)
        self._own = [torch.from_numpy(part.reshape(copies, -1)) for part in np.split(self._uniform[0], len(nets))]

    def choose(
        self,
        obs: Array,
        action_mask: Array | None,
        generators: Sequence[torch.Generator],
        action: Array,
        log_prob: Array,
    ) -> None:
        """Draw for observations ``(M E, N, F)`` of all, into ``action`` and ``log_prob (M E, N)``, all contiguous."""
        for uniform, generator in zip(self._own, generators, strict=True):
            uniform.uniform_(generator=generator)
        one_row = (
            _NO_MASK if action_mask is None else action_mask.reshape(1, -1, action_mask.shape[-1]),
            *(self._uniform, action.reshape(1, -1), log_prob.reshape(1, -1)),
        )
        _choose(*self.net, obs.reshape(1, self._uniform.size, -1), self.ids, *one_row, *self.room)


class CheckedActing:
    """Compiled acting compared with torch in every call; gradients are torch's."""

    def __init__(self, ours: Acting, dense: DenseLayers) -> None:
        """``ours`` stands in for ``dense.plain``."""
        self.ours, self.dense = ours, dense

    def __call__(self, *parts: Tensor) -> Tensor:
        """As of :class:`CompiledMLP`."""
        if torch.is_grad_enabled():
            y: Tensor = _CheckedStep.apply(self, len(parts), *parts, *self.dense.parameters)  # type: ignore[no-untyped-call]
            return y
        found = self.ours(*parts)
        require_equal("a network's outputs", (found, self.dense.plain(parts, self.dense.parameters)))
        return found

    @torch.no_grad()
    def choose(
        self, obs: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """As of :class:`Acting`."""
        uniform = uniform_of(obs.shape[:2], generator)
        action, log_prob = self.ours.draw(obs, action_mask, uniform)
        ids = self.dense.ids
        parts = [obs.unsqueeze(0), ids.expand(1, *obs.shape[:2], -1)] if ids.shape[1] else [obs.unsqueeze(0)]
        logits = self.dense.plain(parts, self.dense.parameters)[0]
        require_draw("a network's draws", logits if action_mask is None else logits.where(action_mask, float(ILLEGAL)),
                     uniform, action, log_prob)  # fmt: skip
        return action, log_prob


def require_draw(what: str, logits: Tensor, uniform: Tensor, action: Tensor, log_prob: Tensor) -> None:
    """Raise MismatchError unless ``action (...)`` is what ``uniform`` draws by ``logits (..., n)``."""
    log_policy = logits.log_softmax(-1)
    upper = log_policy.exp().cumsum(-1)
    chosen = action.unsqueeze(-1)
    wanted = log_policy.gather(-1, chosen).squeeze(-1)
    high = upper.gather(-1, chosen).squeeze(-1)
    # Within rounding of its part of the distribution function.
    require_equal(f"{what}: log-probability", (log_prob, wanted))
    require_equal(f"{what}: action", (uniform, uniform.clamp(high - wanted.exp(), high)), tolerance=1e-3)


class _CheckedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, net: CheckedActing, count: int, *tensors: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[2:]
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_(want) for tensor, want in zip(tensors, wanted, strict=True)]
            plain = net.dense.plain(leaves[:count], leaves[count:])
            ctx.ours_leaves = [leaf.detach().requires_grad_(want) for leaf, want in zip(leaves, wanted, strict=True)]
            ours = net.ours.step(ctx.ours_leaves[:count], ctx.ours_leaves[count:])
        require_equal("a network's outputs", (ours, plain))
        ctx.graphs, ctx.leaves, ctx.wanted = (ours, plain), leaves, wanted
        return ours.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (ours, plain), wanted = ctx.graphs, ctx.wanted
        with torch.enable_grad():
            found, reference = (
                torch.autograd.grad(graph, [x for x, want in zip(leaves, wanted, strict=True) if want], slope)
                for graph, leaves in ((ours, ctx.ours_leaves), (plain, ctx.leaves))
            )
        largest = max(float(x.abs().max()) for x in reference)
        for one, other in zip(found, reference, strict=True):
            if largest > 0:
                require_equal("a network's gradients", (one / largest, other / largest), tolerance=0.1)
        rest = iter(found)
        return (None, None, *(next(rest) if want else None for want in wanted))


class ActingData(NamedTuple):
    """What agents see and what they draw."""

    obs: Array  # (E, N, F)
    ids: Array  # (N, I) beside
    action_mask: Array  # (E, N, A) or nothing
    uniform: Array  # (E, N)
    action: Array  # (E, N)
    log_prob: Array  # (E, N)


_NET, _PLAY, _ROOM, _ = spans(Net, ActingData, Room)


@fast_kernel
def _choose(*arguments: Any) -> None:
    """:func:`_draws` of a :class:`Net`, :class:`ActingData` and :class:`Room`, end to end."""
    _draws(Net(*arguments[_NET]), ActingData(*arguments[_PLAY]), Room(*arguments[_ROOM]))


@fast_kernel
def _draws(net: Net, play: ActingData, room: Room) -> None:
    """Outputs of ``obs`` with ``ids`` beside, and a draw by inverting the distribution function."""
    flat, layers, activation, members, sizes = net.flat, net.layers, net.activation, net.members, net.sizes
    obs, ids, action_mask, uniform, action, log_prob = (
        play.obs, play.ids, play.action_mask, play.uniform, play.action, play.log_prob
    )  # fmt: skip
    x, hidden, rows, place = room.x, room.hidden, room.rows, room.places[0]
    width, extra = obs.shape[2], ids.shape[1]
    depth, choices = layers.shape[0], layers[-1, 1]
    masked = action_mask.shape[0] > 0
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
            spread(place, members[which], obs.shape[1], size, 0, first, columns)
            for j in range(columns):
                for f in range(extra):
                    x[width + f, j] = ids[place[j] % obs.shape[1], f]
            gather_columns(x, obs.reshape(-1, width), place, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            logits, top, total, left = hidden[depth - 1], rows[0], rows[1], rows[2]
            if masked:
                for j in range(columns):
                    row, agent = (first + j) // size, members[which, (first + j) % size]
                    for a in range(choices):
                        if not action_mask[row, agent, a]:
                            logits[a, j] = ILLEGAL
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
