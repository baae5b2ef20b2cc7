"""PPO's gradient without autograd, for networks of fully connected layers and one choice per agent, on a CPU.

One compiled call takes rows of a rollout by their index, tile by tile through the network, writes the gradient of the
loss at its outputs, and goes back through it, so that nothing as large as a minibatch is ever written. With parameters
of 11,000 numbers it takes 12 to 15 ns for each thousand operations, a third of what autograd takes with every layer
fused. The numbers are those of ``PPOLearner.compute_loss`` in ``marl/learners/ppo.py``, which serves everything else,
and so of ``marl.ops.clipped_surrogate_pg_loss``: a ratio exactly on the border passes half of its gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from marl.compiled.acting import ILLEGAL
from marl.compiled.backend import COMPUTES, covers, whole_name
from marl.compiled.mlp import CompiledMLP, rest_together, stacked_net
from marl.compiled.tiles import (
    Net,
    Room,
    Scratch,
    backward,
    exp,
    fast_kernel,
    forward,
    gather_columns,
    padded,
    spans,
    split,
)
from marl.parallel import both, threads
from marl.types import Array

WORTH = 400  # rows times agents from which a second thread pays for the meeting (0.05 ms)
PARTS = 5  # policy loss, value loss, entropy, approximate KL, share of clipped ratios

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_NO_MASK = np.zeros((0, 0, 0), dtype=np.bool_)


class RolloutRows(NamedTuple):
    """Rows of a rollout of ``C`` steps, as a minibatch takes them."""

    steps: Array  # (P, rows) which ones each set takes
    complete: Array  # (C, N) counts in the loss
    weight: Array  # (P,) one over each set's number of rows that count


class PolicyData(NamedTuple):
    """What the policy's loss is made of."""

    obs: Array  # (C, N, F)
    action_mask: Array  # (C, N, A) or nothing
    action: Array  # (C, N)
    old_log_prob: Array  # (C, N)
    advantage: Array  # (C, N)
    clip: Array  # (P,)
    entropy_weight: Array  # (P,)


class ValueData(NamedTuple):
    """What the value's loss is made of."""

    obs: Array  # (C, N or 1, F)
    old_value: Array  # (C, N)
    target: Array  # (C, N)
    clip: float  # below 0: none
    weight: float
    joint: bool  # one output for every agent


_NET, _ROWS, _POLICY, _POLICY_ROOM, _POLICY_REST = spans(Net, RolloutRows, PolicyData, Room)
_VALUE, _VALUE_ROOM, _VALUE_REST = spans(Net, RolloutRows, ValueData, Room)[2:]


@covers(
    "marl.learners.ppo.PPOLearner",
    "marl.learners.ppo.PPO",
    equations=("compute_loss", "policy_cost"),
    settings=(
        *("critic", "sharing", "credit", "network", "critic_network", "agent_id"),  # as far as :meth:`refuses`
        *("rollout", "sequence", "discount", "gae_lambda", "correction", "lag"),
        *("normalize_advantages", "normalize_values", "normalize_obs"),
        *("lr", "optimizer", "max_grad_norm", "epochs", "minibatches", "target_kl", "sequential"),
        *("clip", "value_clip", "value_weight", "entropy"),
    ),
)
class CompiledPPO:
    """Gradients of minibatches, summed over two halves on two threads where that pays."""

    def __init__(self, learner: Any, actor: CompiledMLP, critic: CompiledMLP, joint: bool) -> None:
        """``joint``: the critic reads one row for all agents."""
        self.settings, owner = learner.settings, learner.model.owner
        self.flat, self.flats = learner.flat, [learner.flat]
        # A joint critic of one parameter set has one row for all agents, which are its outputs.
        self.actor, self.critic, self.joint = actor, critic, joint
        self.nets = actor.net, critic.net._replace(members=actor.net.members, sizes=actor.net.sizes)
        self.owner, self.sets = np.array(owner.index), owner.num_sets
        self.parts = np.zeros((2, self.sets, PARTS))  # sums over the rows of a minibatch, of each half
        self.second = torch.zeros_like(self.flat.gradients)  # the other half's
        self.scratch = [Scratch(actor.layers, critic.layers) for _ in range(2)]
        self.policy: tuple[Array, ...] = ()  # of the rollout: :class:`PolicyData`, but for the weights of the loss
        self.value: ValueData | None = None

    @classmethod
    def modules(cls, learner: Any) -> Iterable[nn.Module]:
        """Actor and critic, in the model that evaluates them."""
        return [learner.model]

    @classmethod
    def refuses(cls, learner: Any) -> str | None:
        """Why this is no gradient of a learner of its class."""
        model = learner.model
        if whole_name(model) != "marl.actor_critic.ActorCritic":
            return f"{type(model).__name__} may compute something else than ActorCritic"
        estimator = model.estimator
        if whole_name(estimator) != "marl.grid.critics.ValueEstimator" or {*vars(estimator)} & {*COMPUTES}:
            return f"{type(estimator).__name__} may read values in another way than ValueEstimator"
        if whole_name(model.distribution) != "marl.nets.distributions.Categorical" or "evaluate" in vars(
            model.distribution
        ):
            return "the kernel computes policies of one choice per agent (Discrete actions) alone"
        if None in cls._networks(learner):
            return "the kernel computes networks of plain tanh or relu layers over vectors, on a CPU, alone"
        return None

    @staticmethod
    def _networks(learner: Any) -> tuple[CompiledMLP | None, CompiledMLP | None]:
        critic = learner.model.critic
        dense = critic.dense() if hasattr(critic, "dense") else None
        return CompiledMLP.maybe(learner.model.actor.dense()), CompiledMLP.maybe(dense)

    @classmethod
    def of(cls, learner: Any) -> CompiledPPO:
        """For a learner that it fits."""
        actor, critic = cls._networks(learner)
        assert actor is not None
        assert critic is not None
        return cls(learner, actor, critic, learner.model.critic.outputs_of_all)

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now."""
        return self.actor.stale or self.critic.stale

    def begin(self, batch: Any) -> None:
        """Look at a rollout: calls then take rows of it."""

        def rows(x: Tensor) -> Array:
            return x[0].contiguous().numpy()  # (C, N, ...)

        seen = rows(batch.seen)
        critic_input = seen if batch.critic_input is None else rows(batch.critic_input)
        self.seen, self.critic_input = (
            seen.reshape(*seen.shape[:2], -1),
            critic_input.reshape(*critic_input.shape[:2], -1),
        )
        self.complete = rows(batch.complete)
        action_mask = _NO_MASK if batch.action_mask is None else rows(batch.action_mask)
        self.policy = self.seen, action_mask, rows(batch.action), rows(batch.log_prob), rows(batch.advantage)
        value_clip = self.settings.value_clip
        self.value = ValueData(
            self.critic_input, rows(batch.value), rows(batch.target), -1.0 if value_clip is None else value_clip,
            self.settings.value_weight, self.joint,
        )  # fmt: skip

    def fill(self, index: Tensor, clip: float, entropy_weight: float) -> Tensor:
        """Fill the flat gradients from some rows; the sums of the loss's parts for each set, ``(P, 5)``."""
        # In order, rows lie near each other: a sixth of the whole at 12,288 rows, which do not fit into the cache.
        steps: Array = np.repeat(np.sort(index.numpy())[np.newaxis], self.sets, axis=0)  # (P, rows)
        clips, entropy_weights = np.full(self.sets, clip), np.full(self.sets, entropy_weight)
        weight = np.empty(self.sets, dtype=np.float32)
        actor, critic = self.nets
        _weights(steps, self.complete, actor.members, actor.sizes, weight)
        value = self.value
        assert value is not None

        def half(which: int, rows: Array, gradient: Tensor) -> None:
            room, parts, matrix = self.scratch[which].room, self.parts[which], gradient.numpy()
            matrix[:] = 0
            parts[:] = 0
            shared = rows, self.complete, weight
            _policy(*actor, *shared, *self.policy, clips, entropy_weights, *room, matrix, parts)
            _value(*critic, *shared, *value, *room, matrix, parts)

        gradients = self.flat.gradients
        if threads() == 1 or len(index) * len(self.owner) < WORTH:
            half(0, steps, gradients)
            return self._told(np.copy(self.parts[0]))
        one, other = (np.ascontiguousarray(part) for part in np.array_split(steps, (len(index) // 2,), axis=1))
        both(lambda: half(0, one, gradients), lambda: half(1, other, self.second))
        gradients.add_(self.second)
        return self._told(self.parts.sum(0))

    def _told(self, parts: Array) -> Tensor:
        """The parts; their sum, without weights, which are finite, is whether the loss is finite."""
        self.flat.loss = float(parts[:, :3].sum())
        return torch.from_numpy(parts)

    def pieces(self, name: str, *data: Any) -> list[tuple[Any, ...]]:
        """The same call for one half of its rows and for the other."""
        if name != "fill" or len(data[0]) < 2:
            return []
        index, *rest = data
        return [(part, *rest) for part in torch.tensor_split(index, 2)]


class StackedPPO:
    """The gradients of several learners of one shape in one call, each from rows of its own rollout.

    Each learner's numbers are those of its own :class:`CompiledPPO`.
    """

    def __init__(self, learners: Sequence[Any]) -> None:
        """Lay the parameters of the learners below each other in one matrix."""
        self.values, self.gradients = rest_together([learner.flat for learner in learners])
        self.learners, self.kernels = learners, [CompiledPPO.of(learner) for learner in learners]
        first = self.kernels[0]
        self.sets = first.sets
        self.nets = [stacked_net(net, self.values, len(learners)) for net in first.nets]
        self.room = first.scratch[0].room

    def begin(self, batches: Sequence[Any]) -> None:
        """Look at the rollout of each learner."""
        for kernel, batch in zip(self.kernels, batches, strict=True):
            kernel.begin(batch)
        # One rollout after the other, as if it were one of M C steps: so a learner's rows lie near each other.
        self.complete = np.concatenate([kernel.complete for kernel in self.kernels])  # (M C, N)
        seen, masks, *rest = zip(*(kernel.policy for kernel in self.kernels), strict=True)
        action_mask = np.concatenate(masks) if masks[0].shape[0] else _NO_MASK
        self.policy = np.concatenate(seen), action_mask, *map(np.concatenate, rest)
        values = [kernel.value for kernel in self.kernels if kernel.value is not None]
        self.value = values[0]._replace(
            obs=np.concatenate([one.obs for one in values]),
            old_value=np.concatenate([one.old_value for one in values]),
            target=np.concatenate([one.target for one in values]),
        )
        self.starts = np.arange(len(batches))[:, np.newaxis] * self.kernels[0].complete.shape[0]  # (M, 1)

    def fill(self, steps: Array, clip: Array, entropy_weight: Array) -> Array:
        """Fill all gradients from rows ``steps (M, rows)``; the sums of the loss's parts, ``(M, P, 5)``.

        ``clip (M,)`` and ``entropy_weight (M,)`` are those of each learner.
        """
        ordered: Array = np.repeat(np.sort(steps, axis=1) + self.starts, self.sets, axis=0)  # (M P, rows)
        weight = np.empty(len(ordered), dtype=np.float32)
        actor, critic = self.nets
        _weights(ordered, self.complete, actor.members, actor.sizes, weight)
        parts: Array = np.zeros((len(ordered), PARTS))
        self.gradients[:] = 0
        shared = ordered, self.complete, weight
        scales = np.repeat(clip, self.sets), np.repeat(entropy_weight, self.sets)
        _policy(*actor, *shared, *self.policy, *scales, *self.room, self.gradients, parts)
        _value(*critic, *shared, *self.value, *self.room, self.gradients, parts)
        parts = parts.reshape(len(steps), self.sets, PARTS)
        for learner, loss in zip(self.learners, parts[:, :, :3].sum((1, 2)).tolist(), strict=True):
            learner.flat.loss = loss
        return parts


@fast_kernel
def _weights(steps: Array, complete: Array, members: Array, sizes: Array, weight: Array) -> None:
    """One over each set's number of rows that count."""
    weight[:] = 0
    for which in range(sizes.size):
        for row in steps[which]:
            for agent in members[which, : sizes[which]]:
                if complete[row, agent]:
                    weight[which] += 1
    for which in range(weight.size):
        weight[which] = 1 / max(weight[which], _ONE)


@fast_kernel
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
    gather_columns(x, source.reshape(-1, source.shape[2]), lines, columns)


@fast_kernel
def _policy(*arguments: Any) -> None:
    """:func:`_policy_gradient` of its tuples end to end."""
    _policy_gradient(
        Net(*arguments[_NET]), RolloutRows(*arguments[_ROWS]), PolicyData(*arguments[_POLICY]),
        Room(*arguments[_POLICY_ROOM]), *arguments[_POLICY_REST],
    )  # fmt: skip


@fast_kernel
def _policy_gradient(
    net: Net, rollout: RolloutRows, data: PolicyData, room: Room, gradient: Array, parts: Array
) -> None:
    """Add the gradient of ``-min(r A, clip(r) A) - w_e H`` to ``gradient (P, D)``."""
    flat, layers, activation, members, sizes = net.flat, net.layers, net.activation, net.members, net.sizes
    complete, weight = rollout.complete, rollout.weight
    obs, action_mask, action = data.obs, data.action_mask, data.action
    old_log_prob, advantage = data.old_log_prob, data.advantage
    x, hidden, z, rows, places = room.x, room.hidden, room.z, room.rows, room.places
    masked, agents = action_mask.shape[0] > 0, obs.shape[1]
    choices = layers[-1, 1]
    entropy, log_ratio, advantages, share = rows[1], rows[3], rows[4], rows[5]
    to_log_prob, to_entropy = rows[6], rows[7]
    place, chosen = places[0], places[1]
    for which in range(sizes.size):
        index, size = rollout.steps[which], sizes[which]
        clip, entropy_weight = data.clip[which], data.entropy_weight[which]
        low, high = np.float32(1 - clip), np.float32(1 + clip)
        count = index.size * size
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            _gather(x, place, places[1], obs, agents, index, members[which], size, first, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            logits = hidden[layers.shape[0] - 1]
            if masked:
                for j in range(columns):
                    row, agent = place[j] // agents, place[j] % agents
                    for a in range(choices):
                        if not action_mask[row, agent, a]:
                            logits[a, j] = ILLEGAL
            _log_softmax(logits, z[0], rows, choices, full)
            for j in range(full):
                log_ratio[j] = advantages[j] = share[j] = 0
            for j in range(columns):
                p = place[j]
                chosen[j] = action.flat[p]
                if complete.flat[p]:
                    log_ratio[j] = logits[chosen[j], j] - old_log_prob.flat[p]
                    advantages[j], share[j] = advantage.flat[p], weight[which]
            loss = spread = divergence = clip_fraction = _ZERO
            for j in range(full):
                ratio, w = exp(log_ratio[j]), share[j]
                near = min(max(ratio, low), high) * advantages[j]
                unclipped = ratio * advantages[j]
                is_clipped = near < unclipped  # asked so that NaN goes on, to where it is noticed
                passed = _HALF if ratio in (low, high) else _ONE
                to_log_prob[j] = _ZERO if is_clipped else -unclipped * w * passed
                to_entropy[j] = -np.float32(entropy_weight) * w
                loss -= (near if is_clipped else unclipped) * w
                spread += entropy[j] * w
                divergence += (ratio - _ONE - log_ratio[j]) * w
                clip_fraction += w if abs(ratio - _ONE) > np.float32(clip) else _ZERO
            parts[which, 0] += loss
            parts[which, 2] += spread
            parts[which, 3] += divergence
            parts[which, 4] += clip_fraction
            for a in range(choices):
                for j in range(full):
                    z[0, a, j] *= -(to_log_prob[j] + to_entropy[j] * (logits[a, j] + entropy[j]))
            for j in range(columns):
                z[0, chosen[j], j] += to_log_prob[j]
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, 0, 0)


@fast_kernel
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


@fast_kernel
def _value(*arguments: Any) -> None:
    """:func:`_value_gradient` of its tuples end to end."""
    _value_gradient(
        Net(*arguments[_NET]), RolloutRows(*arguments[_ROWS]), ValueData(*arguments[_VALUE]),
        Room(*arguments[_VALUE_ROOM]), *arguments[_VALUE_REST],
    )  # fmt: skip


@fast_kernel
def _value_gradient(net: Net, rollout: RolloutRows, data: ValueData, room: Room, gradient: Array, parts: Array) -> None:
    """Add the gradient of ``w_v (V - target)^2 / 2`` to ``gradient (P, D)``."""
    flat, layers, activation, members, sizes = net.flat, net.layers, net.activation, net.members, net.sizes
    complete, weight = rollout.complete, rollout.weight
    obs, old_value, target = data.obs, data.old_value, data.target
    x, hidden, z, rows, places = room.x, room.hidden, room.z, room.rows, room.places
    outputs, agents = layers[-1, 1], complete.shape[1]
    bound, value_weight = np.float32(data.clip), np.float32(data.weight)
    before, targets, share = rows[0], rows[1], rows[2]
    for which in range(sizes.size):
        index, size = rollout.steps[which], 1 if data.joint else sizes[which]
        count = index.size * size
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            _gather(x, places[0], places[1], obs, agents, index, members[which], size, first, columns)
            forward(flat[which], layers, activation, x, hidden, full)
            for output in range(outputs):
                value = hidden[layers.shape[0] - 1, output]
                for j in range(full):
                    before[j] = targets[j] = share[j] = 0
                for j in range(columns):
                    p = places[0, j] + output
                    if complete.flat[p]:
                        before[j], targets[j], share[j] = old_value.flat[p], target.flat[p], weight[which]
                loss = _ZERO
                for j in range(full):
                    slope = value[j] - targets[j]
                    squared = slope * slope
                    if bound >= 0:
                        change = value[j] - before[j]
                        kept = before[j] + min(max(change, -bound), bound) - targets[j]
                        if abs(change) > bound and kept * kept > squared:
                            squared, slope = kept * kept, _ZERO
                    # Rows that do not count may hold anything.
                    loss += squared * share[j] if share[j] > 0 else _ZERO
                    z[0, output, j] = value_weight * share[j] * slope if share[j] > 0 else _ZERO
                parts[which, 1] += np.float32(0.5) * loss
            backward(flat[which], layers, activation, x, hidden, z, full, gradient[which], True, 0, 0)
