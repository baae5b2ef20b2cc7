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
from marl.nets.networks import MLPBody
from marl.nets.stacked import FlatParameters
from marl.nets.tiles import Scratch, backward, compiled, exp, forward, padded, split
from marl.parallel import both, threads
from marl.types import Array

WORTH = 400  # rows times agents from which a second thread pays for the meeting (0.05 ms)
PARTS = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")

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
        sets = [owner.members(which) for which in range(owner.num_sets)]
        self.sizes = np.array([len(members) for members in sets])  # (P,)
        self.members = np.full((len(sets), self.sizes.max()), -1)  # (P, most)
        for which, members in enumerate(sets):
            self.members[which, : len(members)] = members
        self.owner = np.array(owner.index)
        self.parts = np.zeros((2, len(sets), len(PARTS)))  # sums over the rows of a minibatch, of each half
        self.second = torch.zeros_like(flat.gradients)  # the other half's
        self.scratch = [Scratch(self.actor, self.critic) for _ in range(2)]

    def begin(self, batch: Batch, value_clip: float | None, value_weight: float) -> None:
        """Look at a rollout: :meth:`gradient` then takes rows of it."""

        def rows(x: Tensor | None, dtype: Any = np.float32) -> Array:
            return np.zeros((0, 0, 0), dtype) if x is None else x[0].contiguous().numpy()

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
        weight = np.empty(len(self.sizes), dtype=np.float32)
        _weights(index, self.complete, self.owner, weight)

        def half(which: int, rows: Array, gradient: Tensor) -> None:
            scratch, parts, matrix = self.scratch[which], self.parts[which], gradient.numpy()
            values = self.flat.values.detach().numpy()
            shared = rows, self.members, self.sizes, self.complete, weight
            room = matrix, parts, scratch.x, scratch.hidden, scratch.z, scratch.rows
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
    critic = model.critic.net if isinstance(model.critic, JointNet) else model.critic
    nets = model.actor, critic
    return (
        model.parameters_flat.values.device.type == "cpu"
        and type(model.distribution) is Categorical
        and all(type(net) is AgentNet and len(net.shape) == 1 for net in nets)
        and all(isinstance(net.body, MLPBody) and net.body.fusable for net in nets)
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
def _gather(x: Array, source: Array, index: Array, members: Array, size: int, first: int, columns: int) -> None:
    """Rows ``first, first + 1, ...`` of a set, counting agents within steps, as columns; zeros beyond the last."""
    width = source.shape[2]
    shared = source.shape[1] == 1
    for j in range(columns):
        row = index[(first + j) // size]
        agent = 0 if shared else members[(first + j) % size]
        for f in range(width):
            x[f, j] = source[row, agent, f]
    for f in range(width):
        for j in range(columns, padded(columns)):
            x[f, j] = 0


@compiled
def _policy(
    flat: Array, layers: Array, activation: int,
    index: Array, members: Array, sizes: Array, complete: Array, weight: Array,
    seen: Array, legal: Array, action: Array, old: Array, advantage: Array, clip: float, entropy_weight: float,
    gradient: Array, parts: Array, x: Array, hidden: Array, z: Array, scratch: Array,
) -> None:  # fmt: skip
    """Add the gradient of ``-min(r A, clip(r) A) - w_e H`` to ``gradient (P, D)``."""
    masked = legal.shape[0] > 0
    choices = layers[-1, 1]
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
            _gather(x, seen, index, members[which], size, first, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            logits = hidden[layers.shape[0] - 1]
            if masked:
                for j in range(columns):
                    row, agent = index[(first + j) // size], members[which, (first + j) % size]
                    for a in range(choices):
                        if not legal[row, agent, a]:
                            logits[a, j] = _LEAST
            _log_softmax(logits, z[0], scratch, choices, full)
            entropy, ratio = scratch[1], scratch[2]
            to_log_prob, to_entropy = scratch[3], scratch[4]
            for j in range(columns):
                row, agent = index[(first + j) // size], members[which, (first + j) % size]
                ratio[j] = logits[action[row, agent], j] - old[row, agent] if complete[row, agent] else _ZERO
                scratch[5, j] = ratio[j]
            for j in range(columns, full):
                ratio[j] = to_log_prob[j] = to_entropy[j] = 0
            for j in range(full):
                ratio[j] = exp(ratio[j])
            low, high = np.float32(1 - clip), np.float32(1 + clip)
            loss = spread = far = 0.0
            divergence = 0.0
            for j in range(columns):
                row, agent = index[(first + j) // size], members[which, (first + j) % size]
                r, gain = ratio[j], advantage[row, agent]
                if complete[row, agent]:
                    near = min(max(r, low), high)
                    held = near * gain < r * gain  # asked so that NaN goes on, to where it is noticed
                    loss -= min(r * gain, near * gain)
                    to_log_prob[j] = _ZERO if held else -r * gain * weight[which]
                    to_entropy[j] = -np.float32(entropy_weight) * weight[which]
                    spread += entropy[j]
                    divergence += np.float64(r) - 1 - np.float64(scratch[5, j])
                    far += abs(r - 1) > clip
                else:
                    to_log_prob[j] = to_entropy[j] = _ZERO
            parts[which, 0] += loss * weight[which]
            parts[which, 2] += spread * weight[which]
            parts[which, 3] += divergence * weight[which]
            parts[which, 4] += far * weight[which]
            for a in range(choices):
                for j in range(full):
                    z[0, a, j] *= -(to_log_prob[j] + to_entropy[j] * (logits[a, j] + entropy[j]))
            for j in range(columns):
                row, agent = index[(first + j) // size], members[which, (first + j) % size]
                z[0, action[row, agent], j] += to_log_prob[j]
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, False)


@compiled
def _log_softmax(logits: Array, policy: Array, scratch: Array, choices: int, columns: int) -> None:
    """``log pi`` in place of ``logits``, ``pi`` in ``policy``, the entropy in ``scratch[1]``."""
    top, entropy, total = scratch[0], scratch[1], scratch[2]
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
    gradient: Array, parts: Array, x: Array, hidden: Array, z: Array, scratch: Array,
) -> None:  # fmt: skip
    """Add the gradient of ``w_v (V - target)^2 / 2`` to ``gradient (P, D)``; ``once``: an output for every agent."""
    outputs = layers[-1, 1]
    bound = np.float32(value_clip)
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
            _gather(x, judged, index, members[which], size, first, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            values = hidden[layers.shape[0] - 1]
            loss = 0.0
            for output in range(outputs):
                for j in range(columns):
                    row = index[(first + j) // size]
                    agent = output if once else members[which, (first + j) % size]
                    z[0, output, j] = 0
                    if complete[row, agent]:
                        error = values[output, j] - target[row, agent]
                        squared, slope = error * error, error
                        if bound >= 0:
                            change = values[output, j] - old[row, agent]
                            kept = old[row, agent] + min(max(change, -bound), bound) - target[row, agent]
                            if abs(change) > bound and kept * kept > squared:
                                squared, slope = kept * kept, _ZERO
                        loss += squared
                        z[0, output, j] = np.float32(value_weight) * weight[which] * slope
                for j in range(columns, full):
                    z[0, output, j] = 0
            parts[which, 1] += 0.5 * loss * weight[which]
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, False)
