"""DQN's gradient without autograd, for networks of fully connected layers and plain action values, on a CPU.

One compiled call evaluates the target and the network at successors, takes the TD errors and goes back through the
network: at a batch of 64 rows an update takes 0.35 ms with the draw, where torch's operations take 1.1. The numbers are
those of ``DQNLearner.compute_loss`` in ``marl/learners/dqn.py``, which serves everything else; costs of TD errors are
those of ``marl.ops.l2_loss`` and ``huber_loss``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from marl.compiled.acting import ILLEGAL
from marl.compiled.backend import covers, whole_name
from marl.compiled.mlp import CompiledMLP
from marl.compiled.tiles import (
    Net,
    Room,
    Scratch,
    backward,
    exact_kernel,
    forward,
    gather_columns,
    number,
    only_row,
    padded,
    spans,
    split,
    spread,
)  # fmt: skip
from marl.types import Array

_ZERO = np.float32(0)
_NO_MASK = np.zeros((0, 0, 0), dtype=np.bool_)


class DQNTransitions(NamedTuple):
    """``B`` draws of single transitions, and what is said of them."""

    obs: Array  # (B, N, F)
    next_obs: Array  # (B, N, F)
    action: Array  # (B, N)
    next_action_mask: Array  # (B, N, A) or nothing
    reward: Array  # (B, N)
    discount: Array  # (B, N)
    weight: Array  # (B, N)
    complete: Array  # (B, N)
    error: Array  # (B, N) TD errors; 0 where nothing is known
    chosen: Array  # (B, N) Q(s, a)


class Costs(NamedTuple):
    """What a TD error costs."""

    double: bool
    huber: float  # below 0: none
    hysteresis: float


_NET, _TRANSITIONS, _COSTS, _ROOM, _REST = spans(Net, DQNTransitions, Costs, Room)


@covers(
    "marl.learners.dqn.DQNLearner",
    "marl.learners.dqn.DQN",
    equations=("compute_loss", "separate_loss", "cost"),
    settings=(
        *("sharing", "credit", "network", "agent_id", "normalize_obs"),
        *("exploration", "learning_starts", "updates_per_step", "update_every", "overlap"),
        *("memory", "buffer", "buffer_dir", "batch", "n_step", "prioritized", "hindsight", "stored_carry", "discount"),
        *("lr", "optimizer", "max_grad_norm", "target_every", "tau"),
        *("double", "huber", "hysteresis"),
    ),
)
class CompiledDQN:
    """Gradients of draws of single transitions."""

    def __init__(self, learner: Any, net: CompiledMLP, target: CompiledMLP) -> None:
        """``net`` and ``target``: compiled networks of one shape."""
        self.learner, self.net, self.target = learner, net, target
        self.flat, self.flats = learner.flat, learner.flats
        settings = learner.settings
        self.costs = Costs(settings.double, -1.0 if settings.huber is None else settings.huber, settings.hysteresis)
        self.scratch = Scratch(net.layers)

    @classmethod
    def modules(cls, learner: Any) -> Iterable[nn.Module]:
        """The network and its slow copy."""
        return learner.net, learner.target

    @classmethod
    def refuses(cls, learner: Any) -> str | None:
        """Why this is no gradient of a learner of its class."""
        if learner.mixer is not None:
            return "the kernel computes no mixers"
        if learner.length > 1:
            return "the kernel computes no sequences"
        if whole_name(learner.memory) != "marl.memory.replay.ring.Replay":
            return "the kernel computes draws of the library's own replay alone"
        if None in cls._networks(learner):
            return "the kernel computes networks of plain tanh or relu layers over vectors, on a CPU, alone"
        return None

    @staticmethod
    def _networks(learner: Any) -> tuple[CompiledMLP | None, CompiledMLP | None]:
        return CompiledMLP.maybe(learner.net.dense()), CompiledMLP.maybe(learner.target.dense())

    @classmethod
    def of(cls, learner: Any) -> CompiledDQN:
        """For a learner that it fits."""
        net, target = cls._networks(learner)
        assert net is not None
        assert target is not None
        return cls(learner, net, target)

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now."""
        return self.net.stale or self.target.stale

    def fill(self, sample: Any, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the flat gradients; the loss, what priorities are made of, and ``Q(s, a)``, ``(B, N)``."""
        gradients = self.flat.gradients
        error, chosen = np.zeros((2, sample.index.shape[0], self.net.agents), dtype=np.float32)
        gradients.zero_()
        loss = _td_gradient(
            *self.net.net,
            only_row(seen), only_row(next_seen), only_row(sample.action),
            _NO_MASK if sample.next_action_mask is None else only_row(sample.next_action_mask), only_row(sample.reward),
            only_row(sample.discount), only_row(self.learner.experience.weigh(sample)), only_row(sample.complete),
            error, chosen, *self.costs, *self.scratch.room, self.target.net.flat,
            gradients.numpy(),
        )  # fmt: skip
        self.flat.loss = loss
        return number(loss), torch.from_numpy(np.abs(error)), torch.from_numpy(chosen)


@exact_kernel
def _td_gradient(*arguments: Any) -> float:
    """:func:`_gradient` of its tuples end to end."""
    return _gradient(
        Net(*arguments[_NET]), DQNTransitions(*arguments[_TRANSITIONS]), Costs(*arguments[_COSTS]),
        Room(*arguments[_ROOM]), *arguments[_REST],
    )  # fmt: skip


@exact_kernel  # so that VDN of one agent, through autograd, stays DQN bit for bit
def _gradient(net: Net, data: DQNTransitions, costs: Costs, room: Room, target: Array, gradient: Array) -> float:
    """Add the gradient of ``w cost(r + d Q'(s', a*) - Q(s, a))``; ``a*`` by the network itself if ``double``."""
    flat, layers, activation, members, sizes = net.flat, net.layers, net.activation, net.members, net.sizes
    obs, next_obs, action, next_action_mask = data.obs, data.next_obs, data.action, data.next_action_mask
    reward, discount, weight, complete = data.reward, data.discount, data.weight, data.complete
    error, chosen, double, hysteresis = data.error, data.chosen, costs.double, np.float32(costs.hysteresis)
    x, hidden, z, rows, places = room.x, room.hidden, room.z, room.rows, room.places
    depth, choices, agents, width = layers.shape[0], layers[-1, 1], obs.shape[1], obs.shape[2]
    masked = next_action_mask.shape[0] > 0
    bound = np.float32(costs.huber)
    values, aim, place, best = hidden[depth - 1], rows[0], places[0], places[1]
    loss = 0.0
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
            spread(place, members[which], agents, size, 0, first, columns)
            gather_columns(x, next_obs.reshape(-1, width), place, columns)
            for turn in range(0 if double else 1, 2):  # who chooses, who judges
                forward(target[which] if turn else flat[which], layers, activation, x, hidden, full)
                if turn == 0 or not double:
                    for j in range(columns):
                        row, agent = (first + j) // size, members[which, (first + j) % size]
                        best[j] = 0
                        top = ILLEGAL
                        for a in range(choices):
                            value = values[a, j]
                            if masked and not next_action_mask[row, agent, a]:
                                value = ILLEGAL
                            if a == 0 or value > top:
                                top = value
                                best[j] = a
                if turn:
                    for j in range(columns):
                        aim[j] = values[best[j], j]
            gather_columns(x, obs.reshape(-1, width), place, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            for a in range(choices):
                for j in range(full):
                    z[0, a, j] = 0
            for j in range(columns):
                row, agent = (first + j) // size, members[which, (first + j) % size]
                a = action[row, agent]
                chosen[row, agent] = values[a, j]
                w = weight[row, agent]
                if complete[row, agent] or w != 0:
                    delta = reward[row, agent] + discount[row, agent] * aim[j] - values[a, j]
                    if complete[row, agent]:
                        error[row, agent] = delta
                    cost, slope = np.float32(0.5) * delta * delta, delta
                    if bound >= 0 and abs(delta) > bound:
                        cost = bound * (abs(delta) - np.float32(0.5) * bound)
                        slope = bound if delta > 0 else -bound
                    if delta < 0:
                        w *= hysteresis
                    loss += cost * w
                    z[0, a, j] = -slope * w
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, 0, 0)
    return loss
