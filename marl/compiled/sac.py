"""SAC's gradients without autograd, for fully connected networks, boxes and critics of one agent's view, on a CPU.

One compiled call for the critics, one for the actor, each in two halves of the rows on two threads: some rows at a time
go through all networks, the losses and back. The dozens of small operations in between, which autograd visits one by
one, cost as much as the products of networks of 256. The numbers are those of
``SACLearner.compute_critic_loss`` and ``compute_actor_loss`` in ``marl/learners/sac.py``, which serve everything else.
Where two critics say the same, each passes half of the gradient, as in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from marl.compiled.backend import covers, whole_name
from marl.compiled.mlp import CompiledMLP
from marl.compiled.tiles import (
    Net,
    Scratch,
    aligned,
    backward,
    exp,
    fast_kernel,
    forward,
    gather_columns,
    number,
    only_row,
    padded,
    spans,
    split,
    spread,
    tanh,
)  # fmt: skip
from marl.parallel import both, threads
from marl.ranks import drawn
from marl.types import Array

WORTH = 4e6  # multiplications of a set's rows through a critic from which a second thread pays for the meeting

_ZERO, _ONE, _TWO, _HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
_LOG_2, _LOG_ROOT = np.float32(0.6931471805599453), np.float32(0.9189385332046727)  # log 2, log sqrt(2 pi)


class Critics(NamedTuple):
    """Several critics of each parameter set, of one shape."""

    online: Array  # (critics * P, D)
    target: Array  # (critics * P, D)
    layers: Array  # (depth, 4)
    activation: int


class Draws(NamedTuple):
    """How the policy draws an action of ``A`` components, and what that costs."""

    temperature: Array  # (N,)
    noise: Array  # (B, N, A)
    real: Array  # (N, A) 1 where an action is no padding
    low: float  # the log standard deviation lies between low
    high: float  # and high


class SACTransitions(NamedTuple):
    """``B`` draws of single transitions."""

    obs: Array  # (B, N, F)
    next_obs: Array  # (B, N, F)
    action: Array  # (B, N, A)
    acting: Array  # (B, N)
    complete: Array  # (B, N)
    reward: Array  # (B, N)
    discount: Array  # (B, N)
    weight: Array  # (B, N)
    error: Array  # (B, N) |y - Q|, mean over the critics


class States(NamedTuple):
    """What the actor's loss reads, and the policy's entropy that it finds."""

    obs: Array  # (B, N, F)
    acting: Array  # (B, N)
    weight: Array  # (B, N)
    entropy: Array  # (B, N)


class Workspace(NamedTuple):
    """Room for one tile."""

    x: Array  # (inputs, columns)
    hidden: Array  # (1 + critics, depth, widest, columns)
    z: Array  # (2, widest, columns)
    rows: Array  # (4 + 4 A, columns)
    place: Array  # (columns,)


_NET, _CRITICS, _DRAWS, _TRANSITIONS, _CRITIC_SPACE, _CRITIC_REST = spans(
    Net, Critics, Draws, SACTransitions, Workspace
)
_STATES, _ACTOR_SPACE, _ACTOR_REST = spans(Net, Critics, Draws, States, Workspace)[3:]


@covers(
    "marl.learners.sac.SACLearner",
    "marl.learners.sac.SAC",
    equations=(
        *("compute_critic_loss", "compute_actor_loss"),
        *("critic.taken", "critic.value", "critic.next_value", "critic.value_of_own", "critic.values_of"),
    ),
    settings=(
        *("critic", "sharing", "credit", "network", "critic_network", "agent_id"),  # critics of one agent's view
        *("exploration", "random_start", "learning_starts", "updates_per_step", "update_every", "overlap"),
        *("memory", "buffer", "buffer_dir", "batch", "n_step", "prioritized", "hindsight", "stored_carry", "discount"),
        *("lr", "critic_lr", "optimizer", "max_grad_norm", "target_every", "tau"),
        *("temperature", "first_temperature", "target_entropy", "entropy_share"),
    ),
)
class CompiledSAC:
    """Gradients of draws of single transitions."""

    def __init__(self, learner: Any, actor: CompiledMLP, online: CompiledMLP, target: CompiledMLP) -> None:
        """``online``, ``target``: the critics and their slow copies."""
        critic, flat, head = learner.critic, learner.actor_flat, learner.head
        self.learner, self.actor, self.online, self.target = learner, actor, online, target
        self.critic_flat, self.flat, self.flats = critic.flat, flat, [critic.flat, flat]
        self.nets = actor.net, Critics(online.net.flat, target.net.flat, online.layers, online.net.activation)
        self.real, self.bounds = head.box.real.numpy(), (head.LOW, head.HIGH)
        depth = max(len(actor.layers), len(online.layers))
        scratch = [Scratch(actor.layers, online.layers) for _ in range(2)]
        widest, size = max(actor.widest, online.widest), scratch[0].size
        self.spaces = [
            Workspace(
                one.x, aligned(1 + critic.count, depth, widest, size), one.z,
                aligned(4 + 4 * self.real.shape[1], size), one.places[0],
            )
            for one in scratch
        ]  # fmt: skip
        # Multiplications of a row by one set's work alone, so that an agent of many learns, to the last bit, what it
        # learns alone.
        self.work = int(actor.sizes.max()) * int((online.layers[:, 0] * online.layers[:, 1]).sum())
        self.seconds = torch.zeros_like(critic.flat.gradients), torch.zeros_like(flat.gradients)  # the other half's

    @classmethod
    def modules(cls, learner: Any) -> Iterable[nn.Module]:
        """The actor, the critics and their slow copies."""
        return learner.actor, learner.critic

    @classmethod
    def refuses(cls, learner: Any) -> str | None:
        """Why these are no gradients of a learner of its class."""
        head = learner.head
        if whole_name(head) != "marl.nets.action_head.SquashedHead" or "reparameterized" in vars(head):
            return "the kernel computes squashed Gaussians (Box actions) alone"
        if whole_name(learner.critic) != "marl.action_critic.ActionCritic":
            return "the kernel computes the library's own critics alone"
        if learner.critic.joint and (learner.team.num_agents > 1 or not learner.settings.critic.is_view(learner.spec)):
            return "the kernel computes critics of one agent's view alone"
        if learner.cross_team is not None:
            return "the kernel computes no critics across teams"
        if learner.length > 1:
            return "the kernel computes no sequences"
        if whole_name(learner.memory) != "marl.memory.replay.ring.Replay":
            return "the kernel computes draws of the library's own replay alone"
        if learner.actor.norm is not None or None in cls._networks(learner):
            return "the kernel computes networks of plain tanh or relu layers over vectors, on a CPU, alone"
        return None

    @staticmethod
    def _networks(learner: Any) -> tuple[CompiledMLP | None, ...]:
        nets = learner.actor, learner.critic.online, learner.critic.target
        return tuple(CompiledMLP.maybe(net.dense()) for net in nets)

    @classmethod
    def of(cls, learner: Any) -> CompiledSAC:
        """For a learner that they fit."""
        actor, online, target = cls._networks(learner)
        assert actor is not None
        assert online is not None
        assert target is not None
        return cls(learner, actor, online, target)

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now."""
        return self.actor.stale or self.online.stale or self.target.stale

    def _draws(self, alpha: Tensor, seen: Tensor) -> Draws:
        """What a draw of the policy takes from chance."""
        learner = self.learner
        like, generator = torch.empty(*seen.shape[:3], learner.code.size, dtype=torch.float32), learner.generator
        noise = drawn(lambda x: x.normal_(generator=generator), like, generator)  # (1, B, N, A)
        return Draws(alpha.contiguous().numpy(), only_row(noise), self.real, *self.bounds)

    def fill_critic(
        self, sample: Any, seen: Tensor, next_seen: Tensor, weight: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fill the critics' gradients; the loss, and what priorities are made of, ``(B, N)``."""
        error = np.zeros(seen.shape[1:3], dtype=np.float32)
        data = (
            only_row(seen), only_row(next_seen), only_row(sample.action), only_row(sample.acting),
            only_row(sample.complete), only_row(sample.reward), only_row(sample.discount), only_row(weight), error,
        )  # fmt: skip
        (actor, critics), draws = self.nets, self._draws(alpha, seen)

        def half(which: int, start: int, stop: int, gradient: Array) -> float:
            return _critics(*actor, *critics, *draws, *data, *self.spaces[which], start, stop, gradient)

        loss = self._in_halves(half, len(error), self.critic_flat.gradients, self.seconds[0])
        self.critic_flat.loss = loss
        return loss, torch.from_numpy(error)

    def fill_actor(self, sample: Any, seen: Tensor, weight: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Fill the actor's gradients; the loss and the policy's entropy ``(1, B, N)``."""
        entropy = np.zeros((1, *seen.shape[1:3]), dtype=np.float32)
        data = only_row(seen), only_row(sample.acting), only_row(weight), entropy[0]
        (actor, critics), draws = self.nets, self._draws(alpha, seen)

        def half(which: int, start: int, stop: int, gradient: Array) -> float:
            return _policy(*actor, *critics, *draws, *data, *self.spaces[which], start, stop, gradient)

        loss = self._in_halves(half, seen.shape[1], self.flat.gradients, self.seconds[1])
        self.flat.loss = loss
        return loss, torch.from_numpy(entropy)

    def _in_halves(
        self, half: Callable[[int, int, int, Array], float], rows: int, gradients: Tensor, second: Tensor
    ) -> Tensor:
        """All rows, the second half of them on the other thread; the sum of what they return."""
        gradients.zero_()
        if threads() == 1 or rows * self.work < WORTH:
            return number(half(0, 0, rows, gradients.numpy()))
        second.zero_()
        losses = both(
            lambda: half(0, 0, rows // 2, gradients.numpy()), lambda: half(1, rows // 2, rows, second.numpy())
        )
        gradients.add_(second)
        return number(sum(losses))


@fast_kernel
def _draw(out: Array, begin: int, draws: Draws, space: Workspace, columns: int) -> None:
    """Squash a Gaussian's draw: unit actions into ``x[begin:]``, log-probabilities into ``rows[0]``.

    Of component ``a``, rows ``4 + 4 a`` and on keep ``tanh`` of the raw scale, the deviation times the noise, and the
    unit action, for the way back.
    """
    noise, real, x, rows, place = draws.noise, draws.real, space.x, space.rows, space.place
    width, agents = real.shape[1], real.shape[0]
    low, reach = np.float32(draws.low), np.float32(0.5 * (draws.high - draws.low))
    for j in range(columns):
        rows[0, j] = 0
    for a in range(width):
        squashed, moved, unit = rows[4 + 4 * a], rows[5 + 4 * a], rows[6 + 4 * a]
        for j in range(columns):
            drawn, counts = noise.flat[place[j] * width + a], real[place[j] % agents, a]
            squashed[j] = tanh(out[width + a, j])
            log_std = low + reach * (squashed[j] + _ONE)
            moved[j] = exp(log_std) * drawn
            raw = out[a, j] + moved[j]
            unit[j] = tanh(raw)
            tail = _TWO * raw
            softplus = max(-tail, _ZERO) + np.log1p(exp(-abs(tail)))
            log_slope = _TWO * (_LOG_2 - raw - softplus)
            rows[0, j] += (-_HALF * drawn * drawn - log_std - _LOG_ROOT - log_slope) * counts
            x[begin + a, j] = unit[j] * counts


@fast_kernel
def _act(net: Net, which: int, begin: int, draws: Draws, space: Workspace, columns: int) -> None:
    """The actor on observations ``x[:begin]``, and a draw of its actions beside them; zeros beyond the last column."""
    x, hidden, full = space.x, space.hidden[0], padded(columns)
    forward(net.flat[which], net.layers, net.activation, x, hidden, full)
    for a in range(draws.real.shape[1]):
        for j in range(columns, full):
            x[begin + a, j] = 0
    _draw(hidden[net.layers.shape[0] - 1], begin, draws, space, columns)


@fast_kernel
def _critics(*arguments: Any) -> float:
    """:func:`_critic_gradient` of its tuples end to end."""
    return _critic_gradient(
        Net(*arguments[_NET]), Critics(*arguments[_CRITICS]), Draws(*arguments[_DRAWS]),
        SACTransitions(*arguments[_TRANSITIONS]), Workspace(*arguments[_CRITIC_SPACE]), *arguments[_CRITIC_REST],
    )  # fmt: skip


@fast_kernel
def _critic_gradient(
    net: Net,
    critics: Critics,
    draws: Draws,
    data: SACTransitions,
    space: Workspace,
    start: int,
    stop: int,
    gradient: Array,
) -> float:
    """Add the gradient of ``sum_c w (y - Q_c)^2 / 2`` of rows ``start`` to ``stop``; the loss."""
    members, sizes, alpha, real = net.members, net.sizes, draws.temperature, draws.real
    now, later, critic, critic_activation = critics.online, critics.target, critics.layers, critics.activation
    obs, next_obs, action, acting, complete = data.obs, data.next_obs, data.action, data.acting, data.complete
    reward, discount, weight, error = data.reward, data.discount, data.weight, data.error
    x, hidden, z, rows, place = space.x, space.hidden, space.z, space.rows, space.place
    agents, begin, width, sets = obs.shape[1], obs.shape[2], real.shape[1], sizes.size
    several, last = now.shape[0] // sets, critic.shape[0] - 1
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
            gather_columns(x[:begin], next_obs.reshape(-1, begin), place, columns)
            _act(net, which, begin, draws, space, columns)
            for j in range(columns):
                p = place[j]
                if not (complete.flat[p] and discount.flat[p] > 0):  # has no next action
                    for a in range(width):
                        x[begin + a, j] = 0
            for c in range(several):
                forward(later[which + c * sets], critic, critic_activation, x, hidden[1], full)
                for j in range(columns):
                    value = hidden[1, last, 0, j]
                    least[j] = value if c == 0 or value < least[j] or value != value else least[j]
            for j in range(columns):
                p = place[j]
                aim[j] = reward.flat[p] + discount.flat[p] * (least[j] - alpha[p % agents] * rows[0, j])
            gather_columns(x[:begin], obs.reshape(-1, begin), place, columns)
            for a in range(width):
                for j in range(columns):
                    x[begin + a, j] = (
                        action.flat[place[j] * width + a] * real[place[j] % agents, a] if acting.flat[place[j]] else 0
                    )
            for c in range(several):
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
                        error.flat[p] += abs(delta) / several
                backward(
                    now[which + c * sets], critic, critic_activation, x, hidden[1], z, full,
                    gradient[which + c * sets], True, 0, 0,
                )  # fmt: skip
    return loss


@fast_kernel
def _policy(*arguments: Any) -> float:
    """:func:`_policy_gradient` of its tuples end to end."""
    return _policy_gradient(
        Net(*arguments[_NET]), Critics(*arguments[_CRITICS]), Draws(*arguments[_DRAWS]),
        States(*arguments[_STATES]), Workspace(*arguments[_ACTOR_SPACE]), *arguments[_ACTOR_REST],
    )  # fmt: skip


@fast_kernel
def _policy_gradient(
    net: Net, critics: Critics, draws: Draws, data: States, space: Workspace, start: int, stop: int, gradient: Array
) -> float:
    """Add the gradient of ``w (alpha log pi(a|o) - min_c Q_c(o, a))`` of rows ``start`` to ``stop``; the loss."""
    flat, layers, activation, members, sizes = net.flat, net.layers, net.activation, net.members, net.sizes
    now, critic, critic_activation = critics.online, critics.layers, critics.activation
    alpha, real, reach = draws.temperature, draws.real, np.float32(0.5 * (draws.high - draws.low))
    obs, acting, weight, entropy = data.obs, data.acting, data.weight, data.entropy
    x, hidden, z, rows, place = space.x, space.hidden, space.z, space.rows, space.place
    agents, begin, width, sets = obs.shape[1], obs.shape[2], real.shape[1], sizes.size
    several, last = now.shape[0] // sets, critic.shape[0] - 1
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
            gather_columns(x[:begin], obs.reshape(-1, begin), place, columns)
            _act(net, which, begin, draws, space, columns)
            for j in range(columns):
                if not acting.flat[place[j]]:
                    for a in range(width):
                        x[begin + a, j] = 0
            for c in range(several):
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
            for c in range(several):
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
                    z[0, width + a, j] = to_log_std * reach * (_ONE - squashed[j] * squashed[j])
            backward(flat[which], layers, activation, x, hidden[0], z, full, gradient[which], True, 0, 0)
    return loss
