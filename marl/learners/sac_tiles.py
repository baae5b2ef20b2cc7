"""SAC's gradients without autograd, for fully connected networks, boxes and critics of one agent's view, on a CPU.

One compiled call for the critics, one for the actor, each in two halves of the rows on two threads: some rows at a time
go through all networks, the losses and back. The dozens of small operations in between, which autograd visits one by
one, cost as much as the products of networks of 256. The numbers are those of
:meth:`~marl.learners.sac.SACLearner.compute_critic_loss` and ``compute_actor_loss``, which serve everything else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from marl.action_critic import ActionCritic
from marl.memory.replay import Sample
from marl.nets.action_head import SquashedHead
from marl.nets.agent_net import AgentNet
from marl.nets.inference import Inference
from marl.nets.stacked import FlatParameters
from marl.nets.tiles import Scratch, aligned, backward, compiled, exp, forward, gather, padded, split, spread, tanh
from marl.parallel import both, threads
from marl.types import Array

# Settings that these gradients, or what surrounds them, implement whatever their value. Any other leads to autograd.
COVERED = frozenset(
    (
        *("critic", "sharing", "credit", "network", "critic_network", "agent_id"),  # critics of one agent's view
        *("exploration", "random_start", "learning_starts", "updates_per_step", "overlap"),
        *("buffer", "buffer_dir", "batch", "n_step", "prioritised", "hindsight", "stored_carry", "discount"),
        *("lr", "critic_lr", "adam_eps", "max_grad_norm", "target_every", "tau"),
        *("temperature", "first_temperature", "target_entropy", "entropy_share"),
    )
)

WORTH = 4e6  # multiplications of a set's rows through a critic from which a second thread pays for the meeting

_ZERO, _ONE, _TWO, _HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
_LOW, _REACH = np.float32(SquashedHead.LOW), np.float32(0.5 * (SquashedHead.HIGH - SquashedHead.LOW))
_LOG_2, _LOG_ROOT = np.float32(0.6931471805599453), np.float32(0.9189385332046727)  # log 2, log sqrt(2 pi)


class CompiledSAC:
    """Gradients of draws of single transitions."""

    def __init__(
        self, actor: Inference, now: Inference, later: Inference, critic: ActionCritic, flat: FlatParameters,
        real: Tensor,
    ) -> None:  # fmt: skip
        """``now``, ``later``: the critics and their slow copies; ``real (N, A)``: 1 where an action is no padding."""
        self.actor, self.now, self.later, self.critic, self.flat = actor, now, later, critic, flat
        self.real = real.numpy()
        depth = max(len(actor.layers), len(now.layers))
        self.scratch = [Scratch(actor.layers, now.layers) for _ in range(2)]
        widest, size = max(actor.widest, now.widest), self.scratch[0].size
        self.hidden = [aligned(1 + critic.count, depth, widest, size) for _ in range(2)]
        self.rows = [aligned(4 + 4 * self.real.shape[1], size) for _ in range(2)]
        self.seconds = torch.zeros_like(critic.flat.gradients), torch.zeros_like(flat.gradients)  # the other half's

    @staticmethod
    def of(actor: AgentNet, critic: ActionCritic, flat: FlatParameters, real: Tensor) -> CompiledSAC | None:
        """For networks that can be had this way; else None."""
        own, now, later = actor.inference(), critic.online.inference(), critic.target.inference()
        if actor.norm is not None or own is None or now is None or later is None:
            return None
        return CompiledSAC(own, now, later, critic, flat, real)

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now."""
        return self.actor.stale or self.now.stale or self.later.stale

    def critics(
        self, sample: Sample, seen: Tensor, next_seen: Tensor, weight: Tensor, alpha: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fill the critics' gradients; the loss and ``|y - Q|``, mean over the critics, ``(B, N)``."""
        error = np.zeros(seen.shape[1:3], dtype=np.float32)
        inputs = (
            seen[0].contiguous().numpy(), next_seen[0].contiguous().numpy(), sample.action[0].contiguous().numpy(),
            sample.acting[0].contiguous().numpy(), sample.complete[0].contiguous().numpy(),
            sample.reward[0].contiguous().numpy(), sample.discount[0].contiguous().numpy(),
        )  # fmt: skip
        shared = weight[0].contiguous().numpy(), alpha.contiguous().numpy(), noise[0].numpy(), self.real

        def half(which: int, start: int, stop: int, gradient: Array) -> float:
            scratch = self.scratch[which]
            return _critics(
                self.actor.flat, self.actor.layers, self.actor.activation, self.now.flat, self.later.flat,
                self.now.layers, self.now.activation, self.actor.members, self.actor.sizes, start, stop, *inputs,
                *shared, error, gradient, scratch.x, self.hidden[which], scratch.z, self.rows[which],
                scratch.places[0],
            )  # fmt: skip

        return self._in_halves(half, len(error), self.critic.flat.gradients, self.seconds[0]), torch.from_numpy(error)

    def policy(
        self, sample: Sample, seen: Tensor, weight: Tensor, alpha: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fill the actor's gradients; the loss and the policy's entropy ``(B, N)``."""
        entropy = np.zeros(seen.shape[1:3], dtype=np.float32)
        inputs = seen[0].contiguous().numpy(), sample.acting[0].contiguous().numpy(), weight[0].contiguous().numpy()
        shared = alpha.contiguous().numpy(), noise[0].numpy(), self.real

        def half(which: int, start: int, stop: int, gradient: Array) -> float:
            scratch = self.scratch[which]
            return _policy(
                self.actor.flat, self.actor.layers, self.actor.activation, self.now.flat, self.now.layers,
                self.now.activation, self.actor.members, self.actor.sizes, start, stop, *inputs, *shared, entropy,
                gradient, scratch.x, self.hidden[which], scratch.z, self.rows[which], scratch.places[0],
            )  # fmt: skip

        return self._in_halves(half, len(entropy), self.flat.gradients, self.seconds[1]), torch.from_numpy(entropy)

    def _in_halves(
        self, half: Callable[[int, int, int, Array], float], rows: int, gradients: Tensor, second: Tensor
    ) -> Tensor:
        """All rows, the second half of them on the other thread; the sum of what they return."""
        gradients.zero_()
        # By one set's work alone, so that an agent of many learns, to the last bit, what it learns alone.
        work = rows * int(self.actor.sizes.max()) * int((self.now.layers[:, 0] * self.now.layers[:, 1]).sum())
        if threads() == 1 or work < WORTH:
            return torch.tensor(half(0, 0, rows, gradients.numpy()), dtype=torch.float32)
        second.zero_()
        losses = both(
            lambda: half(0, 0, rows // 2, gradients.numpy()), lambda: half(1, rows // 2, rows, second.numpy())
        )
        gradients.add_(second)
        return torch.tensor(sum(losses), dtype=torch.float32)


@compiled
def _draw(out: Array, x: Array, begin: int, rows: Array, place: Array, noise: Array, real: Array, columns: int) -> None:
    """Squash a Gaussian's draw: unit actions into ``x[begin:]``, log-probabilities into ``rows[0]``.

    Of component ``a``, rows ``4 + 4 a`` and on keep ``tanh`` of the raw scale, the deviation times the noise, and the
    unit action, for the way back.
    """
    width, agents = real.shape[1], real.shape[0]
    for j in range(columns):
        rows[0, j] = 0
    for a in range(width):
        squashed, moved, unit = rows[4 + 4 * a], rows[5 + 4 * a], rows[6 + 4 * a]
        for j in range(columns):
            drawn, counts = noise.flat[place[j] * width + a], real[place[j] % agents, a]
            squashed[j] = tanh(out[width + a, j])
            log_std = _LOW + _REACH * (squashed[j] + _ONE)
            moved[j] = exp(log_std) * drawn
            raw = out[a, j] + moved[j]
            unit[j] = tanh(raw)
            tail = _TWO * raw
            softplus = max(-tail, _ZERO) + np.log1p(exp(-abs(tail)))
            log_slope = _TWO * (_LOG_2 - raw - softplus)
            rows[0, j] += (-_HALF * drawn * drawn - log_std - _LOG_ROOT - log_slope) * counts
            x[begin + a, j] = unit[j] * counts


@compiled
def _act(
    flat: Array, layers: Array, activation: int, x: Array, hidden: Array, begin: int, rows: Array, place: Array,
    noise: Array, real: Array, columns: int,
) -> None:  # fmt: skip
    """The actor on observations ``x[:begin]``, and a draw of its actions beside them; zeros beyond the last column."""
    full = padded(columns)
    forward(flat, layers, activation, x, hidden, full)
    for a in range(real.shape[1]):
        for j in range(columns, full):
            x[begin + a, j] = 0
    _draw(hidden[layers.shape[0] - 1], x, begin, rows, place, noise, real, columns)


@compiled
def _critics(
    flat: Array, layers: Array, activation: int, now: Array, later: Array, critic: Array, critic_activation: int,
    members: Array, sizes: Array, start: int, stop: int,
    seen: Array, next_seen: Array, action: Array, acting: Array, complete: Array, reward: Array, discount: Array,
    weight: Array, alpha: Array, noise: Array, real: Array,
    error: Array, gradient: Array, x: Array, hidden: Array, z: Array, rows: Array, place: Array,
) -> float:  # fmt: skip
    """Add the gradient of ``sum_c w (y - Q_c)^2 / 2`` of rows ``start`` to ``stop``; the loss."""
    agents, begin, width, sets = seen.shape[1], seen.shape[2], real.shape[1], sizes.size
    critics, last = now.shape[0] // sets, critic.shape[0] - 1
    least, aim = rows[1], rows[2]
    loss = 0.0
    for which in range(sets):
        count = (stop - start) * sizes[which]
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            spread(place, members[which], agents, sizes[which], start, first, columns)
            gather(x[:begin], next_seen.reshape(-1, begin), place, columns)
            _act(flat[which], layers, activation, x, hidden[0], begin, rows, place, noise, real, columns)
            for j in range(columns):
                p = place[j]
                if not (complete.flat[p] and discount.flat[p] > 0):  # has no next action
                    for a in range(width):
                        x[begin + a, j] = 0
            for c in range(critics):
                forward(later[which + c * sets], critic, critic_activation, x, hidden[1], full)
                for j in range(columns):
                    value = hidden[1, last, 0, j]
                    least[j] = value if c == 0 or value < least[j] or value != value else least[j]
            for j in range(columns):
                p = place[j]
                aim[j] = reward.flat[p] + discount.flat[p] * (least[j] - alpha[p % agents] * rows[0, j])
            gather(x[:begin], seen.reshape(-1, begin), place, columns)
            for a in range(width):
                for j in range(columns):
                    x[begin + a, j] = (
                        action.flat[place[j] * width + a] * real[place[j] % agents, a] if acting.flat[place[j]] else 0
                    )
            for c in range(critics):
                forward(now[which + c * sets], critic, critic_activation, x, hidden[1], full)
                for j in range(columns, full):
                    z[0, 0, j] = 0
                for j in range(columns):
                    p = place[j]
                    delta, w = aim[j] - hidden[1, last, 0, j], weight.flat[p]
                    counts = w != 0  # rows that do not count may hold anything
                    if counts:
                        loss += float(_HALF * delta * delta * w)
                    z[0, 0, j] = -delta * w if counts else _ZERO
                    if complete.flat[p]:
                        error.flat[p] += abs(delta) / critics
                backward(
                    now[which + c * sets], critic, critic_activation, x, hidden[1], z, full,
                    gradient[which + c * sets], True, 0, 0,
                )  # fmt: skip
    return loss


@compiled
def _policy(
    flat: Array, layers: Array, activation: int, now: Array, critic: Array, critic_activation: int,
    members: Array, sizes: Array, start: int, stop: int,
    seen: Array, acting: Array, weight: Array, alpha: Array, noise: Array, real: Array,
    entropy: Array, gradient: Array, x: Array, hidden: Array, z: Array, rows: Array, place: Array,
) -> float:  # fmt: skip
    """Add the gradient of ``w (alpha log pi(a|o) - min_c Q_c(o, a))`` of rows ``start`` to ``stop``; the loss."""
    agents, begin, width, sets = seen.shape[1], seen.shape[2], real.shape[1], sizes.size
    critics, last = now.shape[0] // sets, critic.shape[0] - 1
    log_prob, least, ties = rows[0], rows[1], rows[2]
    loss = 0.0
    for which in range(sets):
        count = (stop - start) * sizes[which]
        tiles, most = split(count, x.shape[1])
        for tile in range(tiles):
            first = tile * most
            columns = min(most, count - first)
            if columns <= 0:
                break
            full = padded(columns)
            spread(place, members[which], agents, sizes[which], start, first, columns)
            gather(x[:begin], seen.reshape(-1, begin), place, columns)
            _act(flat[which], layers, activation, x, hidden[0], begin, rows, place, noise, real, columns)
            for j in range(columns):
                if not acting.flat[place[j]]:
                    for a in range(width):
                        x[begin + a, j] = 0
            for c in range(critics):
                forward(now[which + c * sets], critic, critic_activation, x, hidden[1 + c], full)
                for j in range(columns):
                    value = hidden[1 + c, last, 0, j]
                    if c == 0 or value < least[j] or value != value:
                        least[j], ties[j] = value, 1
                    elif value == least[j]:
                        ties[j] += 1
            for j in range(columns):
                p = place[j]
                w = weight.flat[p]
                if w != 0:
                    loss += float((alpha[p % agents] * log_prob[j] - least[j]) * w)
                entropy.flat[p] = -log_prob[j]
            for a in range(width):
                for j in range(full):
                    rows[7 + 4 * a, j] = 0
            for c in range(critics):
                for j in range(columns, full):
                    z[0, 0, j] = 0
                for j in range(columns):
                    lowest = hidden[1 + c, last, 0, j] == least[j]
                    z[0, 0, j] = -weight.flat[place[j]] / ties[j] if lowest else _ZERO
                found = backward(
                    now[which + c * sets], critic, critic_activation, x, hidden[1 + c], z, full, gradient[0], False,
                    begin, begin + width,
                )  # fmt: skip
                for a in range(width):
                    for j in range(columns):
                        rows[7 + 4 * a, j] += z[found, a, j]
            for a in range(width):
                squashed, moved, unit, to_action = rows[4 + 4 * a], rows[5 + 4 * a], rows[6 + 4 * a], rows[7 + 4 * a]
                for j in range(columns, full):
                    z[0, a, j] = z[0, width + a, j] = 0
                for j in range(columns):
                    p = place[j]
                    counts = real[p % agents, a]
                    to_log_prob = alpha[p % agents] * weight.flat[p] * counts
                    onward = to_action[j] * counts if acting.flat[p] else _ZERO
                    to_raw = onward * (_ONE - unit[j] * unit[j]) + to_log_prob * _TWO * unit[j]
                    to_log_std = to_raw * moved[j] - to_log_prob
                    z[0, a, j] = to_raw
                    z[0, width + a, j] = to_log_std * _REACH * (_ONE - squashed[j] * squashed[j])
            backward(flat[which], layers, activation, x, hidden[0], z, full, gradient[which], True, 0, 0)
    return loss
