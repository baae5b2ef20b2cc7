"""PPO's gradient without autograd, for networks of fully connected layers and one choice per agent, on a CPU.

One compiled call takes rows of a rollout by their index, tile by tile through the network, writes the gradient of the
loss at its outputs, and goes back through it, so that nothing as large as a minibatch is ever written. With parameters
of 11,000 numbers it takes 12 to 15 ns for each thousand operations, a third of what autograd takes with every layer
fused. The numbers are those of :meth:`~marl.learners.ppo.PPOLearner.compute_loss`, which serves everything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.actor_critic import ActorCritic, Batch
from marl.nets.agent_net import AgentNet, JointNet
from marl.nets.distributions import ILLEGAL, Categorical
from marl.nets.networks import MLPBody, is_plain
from marl.nets.stacked import FlatParameters
from marl.nets.tiles import Scratch, backward, compiled, exp, forward, gather, padded, split
from marl.parallel import both, threads
from marl.types import Array

WORTH = 400  # rows times agents from which a second thread pays for the meeting (0.05 ms)
PARTS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")

# Settings that this gradient, or what surrounds it, implements whatever their value. Any other leads to autograd.
COVERED = frozenset(
    (
        *("critic", "sharing", "credit", "network", "critic_network", "agent_id"),  # as far as :func:`applies`
        *("rollout", "sequence", "discount", "gae_lambda"),
        *("normalize_advantages", "normalize_values", "normalize_obs"),
        *("lr", "adam_eps", "max_grad_norm", "epochs", "minibatches", "target_kl", "sequential"),
        *("clip", "value_clip", "value_weight", "entropy"),
    )
)

_LEAST = np.float32(ILLEGAL)
_ZERO, _ONE = np.float32(0), np.float32(1)


class CompiledPPO:
    """Gradients of minibatches, summed over two halves on two threads where that pays."""

    def __init__(self, model: ActorCritic, flat: FlatParameters) -> None:
        """Takes a model for which :func:`applies` says so."""
        owner, critic = model.owner, model.critic
        self.flat = flat
        self.once = isinstance(critic, JointNet) and critic.once  # one row of the critic's for all agents
        judge = critic.net if isinstance(critic, JointNet) else critic
        assert isinstance(model.actor.body, MLPBody)
        assert isinstance(judge, AgentNet)
        assert isinstance(judge.body, MLPBody)
        self.actor = model.actor.body.table(model.actor.head)
        self.critic = judge.body.table(judge.head)
        self.activations = model.actor.body.activation_code, judge.body.activation_code
        self.members, self.sizes = owner.table
        self.owner = np.array(owner.index)
        self.parts = np.zeros((2, owner.num_sets, len(PARTS)))  # sums over the rows of a minibatch, of each half
        self.second = torch.zeros_like(flat.gradients)  # the other half's
        self.scratch = [Scratch(self.actor, self.critic) for _ in range(2)]

    def begin(self, batch: Batch, value_clip: float | None, value_weight: float) -> None:
        """Look at a rollout: :meth:`gradient` then takes rows of it."""

        def rows(x: Tensor | None, dtype: Any = np.float32) -> Array:
            return np.zeros((0, 0, 0), dtype) if x is None else x[0].contiguous().numpy()  # (C, N, ...)

        seen = rows(batch.seen)
        judged = seen if batch.judged is None else rows(batch.judged)
        self.seen, self.judged = seen.reshape(*seen.shape[:2], -1), judged.reshape(*judged.shape[:2], -1)
        self.legal = rows(batch.legal, np.bool_)
        self.complete, self.action = rows(batch.complete), rows(batch.action)
        self.told = rows(batch.log_prob), rows(batch.advantage)
        self.wanted = rows(batch.value), rows(batch.target)
        self.value_clip = -1.0 if value_clip is None else value_clip
        self.value_weight = value_weight

    def gradient(self, index: Array, clip: float, entropy_weight: float) -> Array:
        """Fill the flat gradients from some rows; the sums of :data:`PARTS` for each set, ``(P, 5)``."""
        # In order, rows lie near each other: a sixth of the whole at 12,288 rows, which do not fit into the cache.
        index = np.sort(index)
        weight = np.empty(len(self.sizes), dtype=np.float32)
        _weights(index, self.complete, self.owner, weight)

        def half(which: int, rows: Array, gradient: Tensor) -> None:
            scratch, parts, matrix = self.scratch[which], self.parts[which], gradient.numpy()
            values = self.flat.values.detach().numpy()
            shared = rows, self.members, self.sizes, self.complete, weight
            room = matrix, parts, scratch.x, scratch.hidden, scratch.z, scratch.rows, scratch.places
            matrix[:] = 0
            parts[:] = 0
            _policy(
                values, self.actor, self.activations[0], *shared, self.seen, self.legal, self.action, *self.told,
                clip, entropy_weight, *room,
            )  # fmt: skip
            _value(
                values, self.critic, self.activations[1], *shared, self.once, self.judged, *self.wanted,
                self.value_clip, self.value_weight, *room,
            )  # fmt: skip

        gradients = self.flat.gradients
        if threads() == 1 or len(index) * len(self.owner) < WORTH:
            half(0, index, gradients)
            return np.copy(self.parts[0])
        middle = len(index) // 2
        both(lambda: half(0, index[:middle], gradients), lambda: half(1, index[middle:], self.second))
        gradients.add_(self.second)
        total: Array = self.parts.sum(0)
        return total


def applies(model: ActorCritic) -> bool:
    """Whether a model's gradients can be had this way."""
    critic = model.critic.net if type(model.critic) is JointNet else model.critic
    nets = model.actor, critic
    return (
        type(model) is ActorCritic
        and model.parameters_flat.values.device.type == "cpu"
        and type(model.distribution) is Categorical
        and all(type(net) is AgentNet and len(net.shape) == 1 and is_plain(net.body, net.head) for net in nets)
    )


@compiled
def _weights(index: Array, complete: Array, owner: Array, weight: Array) -> None:
    """One over each set's number of rows that count."""
    weight[:] = 0
    for row in index:
        for agent in range(owner.size):
            if complete[row, agent]:
                weight[owner[agent]] += 1
    for which in range(weight.size):
        weight[which] = 1 / max(weight[which], _ONE)


@compiled
def _gather(
    x: Array, places: Array, lines: Array, source: Array, agents: int, index: Array, members: Array, size: int,
    first: int, columns: int,
) -> None:  # fmt: skip
    """Rows ``first, first + 1, ...`` of a set, counting agents within steps, as columns; zeros beyond the last.

    ``places``: which of all agents of all steps each is; ``lines``: which row of the source.
    """
    shared = source.shape[1] == 1
    for j in range(columns):
        row, agent = index[(first + j) // size], members[(first + j) % size]
        places[j] = row * agents + agent
        lines[j] = row if shared else places[j]
    gather(x, source.reshape(-1, source.shape[2]), lines, columns)


@compiled
def _policy(
    flat: Array, layers: Array, activation: int,
    index: Array, members: Array, sizes: Array, complete: Array, weight: Array,
    seen: Array, legal: Array, action: Array, old: Array, advantage: Array, clip: float, entropy_weight: float,
    gradient: Array, parts: Array, x: Array, hidden: Array, z: Array, rows: Array, places: Array,
) -> None:  # fmt: skip
    """Add the gradient of ``-min(r A, clip(r) A) - w_e H`` to ``gradient (P, D)``."""
    masked, agents = legal.shape[0] > 0, seen.shape[1]
    choices = layers[-1, 1]
    low, high = np.float32(1 - clip), np.float32(1 + clip)
    entropy, log_ratio, gain, share = rows[1], rows[3], rows[4], rows[5]
    to_log_prob, to_entropy = rows[6], rows[7]
    place, chosen = places[0], places[1]
    for which in range(sizes.size):
        size = sizes[which]
        count = index.size * size
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            _gather(x, place, places[1], seen, agents, index, members[which], size, first, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            logits = hidden[layers.shape[0] - 1]
            if masked:
                for j in range(columns):
                    row, agent = place[j] // agents, place[j] % agents
                    for a in range(choices):
                        if not legal[row, agent, a]:
                            logits[a, j] = _LEAST
            _log_softmax(logits, z[0], rows, choices, full)
            for j in range(full):
                log_ratio[j] = gain[j] = share[j] = 0
            for j in range(columns):
                p = place[j]
                chosen[j] = action.flat[p]
                if complete.flat[p]:
                    log_ratio[j] = logits[chosen[j], j] - old.flat[p]
                    gain[j], share[j] = advantage.flat[p], weight[which]
            loss = spread = divergence = far = _ZERO
            for j in range(full):
                ratio, w = exp(log_ratio[j]), share[j]
                near = min(max(ratio, low), high) * gain[j]
                free = ratio * gain[j]
                held = near < free  # asked so that NaN goes on, to where it is noticed
                to_log_prob[j] = _ZERO if held else -free * w
                to_entropy[j] = -np.float32(entropy_weight) * w
                loss -= (near if held else free) * w
                spread += entropy[j] * w
                divergence += (ratio - _ONE - log_ratio[j]) * w
                far += w if abs(ratio - _ONE) > np.float32(clip) else _ZERO
            parts[which, 0] += loss
            parts[which, 2] += spread
            parts[which, 3] += divergence
            parts[which, 4] += far
            for a in range(choices):
                for j in range(full):
                    z[0, a, j] *= -(to_log_prob[j] + to_entropy[j] * (logits[a, j] + entropy[j]))
            for j in range(columns):
                z[0, chosen[j], j] += to_log_prob[j]
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, 0, 0)


@compiled
def _log_softmax(logits: Array, policy: Array, rows: Array, choices: int, columns: int) -> None:
    """``log pi`` in place of ``logits``, ``pi`` in ``policy``, the entropy in ``rows[1]``."""
    top, entropy, total = rows[0], rows[1], rows[2]
    for j in range(columns):
        top[j] = logits[0, j]
        total[j] = entropy[j] = 0
    for a in range(1, choices):
        for j in range(columns):
            top[j] = max(top[j], logits[a, j])
    for a in range(choices):
        for j in range(columns):
            shifted = logits[a, j] - top[j]
            share = exp(shifted)
            logits[a, j] = shifted
            policy[a, j] = share
            total[j] += share
            entropy[j] -= share * shifted
    for j in range(columns):
        top[j] = np.log(total[j])
        total[j] = _ONE / total[j]
        entropy[j] = top[j] + entropy[j] * total[j]
    for a in range(choices):
        for j in range(columns):
            logits[a, j] -= top[j]
            policy[a, j] *= total[j]


@compiled
def _value(
    flat: Array, layers: Array, activation: int,
    index: Array, members: Array, sizes: Array, complete: Array, weight: Array,
    once: bool, judged: Array, old: Array, target: Array, value_clip: float, value_weight: float,
    gradient: Array, parts: Array, x: Array, hidden: Array, z: Array, rows: Array, places: Array,
) -> None:  # fmt: skip
    """Add the gradient of ``w_v (V - target)^2 / 2`` to ``gradient (P, D)``; ``once``: an output for every agent."""
    outputs, agents = layers[-1, 1], complete.shape[1]
    bound = np.float32(value_clip)
    before, wanted, share = rows[0], rows[1], rows[2]
    for which in range(sizes.size):
        size = 1 if once else sizes[which]
        count = index.size * size
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            _gather(x, places[0], places[1], judged, agents, index, members[which], size, first, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            for output in range(outputs):
                value = hidden[layers.shape[0] - 1, output]
                for j in range(full):
                    before[j] = wanted[j] = share[j] = 0
                for j in range(columns):
                    p = places[0, j] + output
                    if complete.flat[p]:
                        before[j], wanted[j], share[j] = old.flat[p], target.flat[p], weight[which]
                loss = _ZERO
                for j in range(full):
                    slope = value[j] - wanted[j]
                    squared = slope * slope
                    if bound >= 0:
                        change = value[j] - before[j]
                        kept = before[j] + min(max(change, -bound), bound) - wanted[j]
                        if abs(change) > bound and kept * kept > squared:
                            squared, slope = kept * kept, _ZERO
                    # Rows that do not count may hold anything.
                    loss += squared * share[j] if share[j] > 0 else _ZERO
                    z[0, output, j] = np.float32(value_weight) * share[j] * slope if share[j] > 0 else _ZERO
                parts[which, 1] += np.float32(0.5) * loss
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, 0, 0)
