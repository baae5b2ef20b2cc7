"""DQN's gradient without autograd, for networks of fully connected layers and plain action values, on a CPU.

One compiled call evaluates the target and the network at successors, takes the TD errors and goes back through the
network: at a batch of 64 rows an update takes 0.35 ms with the draw, where torch's operations take 1.1. The numbers are
those of :meth:`~marl.learners.dqn.DQNLearner.separate_loss`, which serves everything else.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from marl.memory.replay import Sample
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import ILLEGAL
from marl.nets.inference import Inference
from marl.nets.stacked import FlatParameters
from marl.nets.tiles import Scratch, backward, exactly, forward, gather, padded, split, spread
from marl.types import Array

# Settings that this gradient, or what surrounds it, implements whatever their value. Any other leads to autograd.
COVERED = frozenset(
    (
        *("sharing", "credit", "network", "agent_id", "normalize_obs"),
        *("exploration", "learning_starts", "updates_per_step", "overlap"),
        *("buffer", "buffer_dir", "batch", "n_step", "prioritised", "hindsight", "stored_carry", "discount"),
        *("lr", "adam_eps", "max_grad_norm", "target_every", "tau"),
        *("double", "huber", "hysteresis"),
    )
)

_ZERO, _LEAST = np.float32(0), np.float32(ILLEGAL)


class CompiledDQN:
    """Gradients of draws of single transitions."""

    def __init__(self, net: Inference, target: Inference, flat: FlatParameters, agents: int) -> None:
        """``net`` and ``target``: compiled networks of one shape."""
        self.net, self.target, self.flat, self.agents = net, target, flat, agents
        self.scratch = Scratch(net.layers)

    @staticmethod
    def of(net: AgentNet, target: AgentNet, flat: FlatParameters) -> CompiledDQN | None:
        """For networks that can be had this way; else None."""
        now, later = net.inference(), target.inference()
        return None if now is None or later is None else CompiledDQN(now, later, flat, net.owner.num_agents)

    def gradient(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, weight: Tensor, double: bool, huber: float | None,
        hysteresis: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Fill the flat gradients; the loss, the TD errors ``(B, N)`` (0 where nothing is known), ``Q(s, a)``."""
        scratch, net, gradients = self.scratch, self.net, self.flat.gradients
        error, chosen = np.zeros((2, sample.index.shape[0], self.agents), dtype=np.float32)
        gradients.zero_()
        loss = _td_gradient(
            net.flat, self.target.flat, net.layers, net.activation, net.members, net.sizes,
            seen[0].contiguous().numpy(), next_seen[0].contiguous().numpy(), sample.action[0].contiguous().numpy(),
            np.zeros((0, 0, 0), dtype=bool) if sample.next_legal is None else sample.next_legal[0].numpy(),
            sample.reward[0].numpy(), sample.discount[0].numpy(), weight[0].contiguous().numpy(),
            sample.complete[0].numpy(), double, -1.0 if huber is None else huber, hysteresis,
            error, chosen, gradients.numpy(), scratch.x, scratch.hidden, scratch.z, scratch.rows, scratch.places,
        )  # fmt: skip
        return torch.tensor(loss, dtype=torch.float32), torch.from_numpy(error), torch.from_numpy(chosen)


@exactly  # so that VDN of one agent, through autograd, stays DQN bit for bit
def _td_gradient(
    flat: Array, target: Array, layers: Array, activation: int, members: Array, sizes: Array,
    seen: Array, next_seen: Array, action: Array, next_legal: Array,
    reward: Array, discount: Array, weight: Array, complete: Array, double: bool, huber: float, hysteresis: float,
    error: Array, chosen: Array, gradient: Array, x: Array, hidden: Array, z: Array, rows: Array, places: Array,
) -> float:  # fmt: skip
    """Add the gradient of ``w cost(r + d Q'(s', a*) - Q(s, a))``; ``a*`` by the network itself if ``double``."""
    depth, choices, agents, width = layers.shape[0], layers[-1, 1], seen.shape[1], seen.shape[2]
    masked = next_legal.shape[0] > 0
    bound = np.float32(huber)
    values, aim, place, best = hidden[depth - 1], rows[0], places[0], places[1]
    loss = 0.0
    for which in range(sizes.size):
        size = sizes[which]
        count = seen.shape[0] * size
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            spread(place, members[which], agents, size, 0, first, columns)
            gather(x, next_seen.reshape(-1, width), place, columns)
            for turn in range(0 if double else 1, 2):  # who chooses, who judges
                forward(target[which] if turn else flat[which], layers, activation, x, hidden, full)
                if turn == 0 or not double:
                    for j in range(columns):
                        row, agent = (first + j) // size, members[which, (first + j) % size]
                        best[j] = 0
                        top = _LEAST
                        for a in range(choices):
                            value = values[a, j]
                            if masked and not next_legal[row, agent, a]:
                                value = _LEAST
                            if a == 0 or value > top:
                                top = value
                                best[j] = a
                if turn:
                    for j in range(columns):
                        aim[j] = values[best[j], j]
            gather(x, seen.reshape(-1, width), place, columns)
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
                        w *= np.float32(hysteresis)
                    loss += cost * w
                    z[0, a, j] = -slope * w
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, 0, 0)
    return loss
