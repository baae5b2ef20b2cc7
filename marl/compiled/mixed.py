"""The gradient of VDN and QMIX with a recurrent network without autograd, on a CPU.

Networks, hypernetworks and mixing are the compiled ones that a loss with autograd would call; here nothing of torch's
stands between them, and the rows whose successors lie outside of their sequence are looked up once for both networks.
The numbers are those of ``DQNLearner.compute_loss`` in ``marl/learners/dqn.py``, which serves everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from marl.compiled.acting import ILLEGAL
from marl.compiled.backend import covers, whole_name
from marl.compiled.mixing import mix, unmix
from marl.compiled.recurrent_net import CompiledRecurrent
from marl.compiled.recurrent_steps import Passage
from marl.compiled.side_by_side import CompiledNets
from marl.compiled.tiles import exact_kernel, number
from marl.types import Array

_NO_MASK = np.zeros((0, 0, 0, 0), dtype=np.bool_)
HYPERNETWORKS = ("weight_1", "bias_1", "weight_2", "value")  # of MonotonicMixer


class Mixing(Protocol):
    """A mixer of values ``q (R, N)`` of who is ``acting (R, N)`` in states ``(R, S)``."""

    def later(self, q: Array, acting: Array, state: Tensor) -> Array:
        """What the target says, ``(R,)``."""
        ...

    def now(self, q: Array, acting: Array, state: Tensor) -> tuple[Array, Callable[[Array], Array]]:
        """``Q_tot (R,)``, and what makes of its gradient that of ``q`` and fills that of the mixer's parameters."""
        ...


class SumMixing:
    """VDN's."""

    def later(self, q: Array, acting: Array, state: Tensor) -> Array:
        """As :meth:`Mixing.later`."""
        total: Array = np.where(acting, q, np.float32(0)).sum(-1)
        return total

    def now(self, q: Array, acting: Array, state: Tensor) -> tuple[Array, Callable[[Array], Array]]:
        """As :meth:`Mixing.now`."""
        return self.later(q, acting, state), lambda slope: np.where(acting, slope[:, None], np.float32(0))


class MonotonicMixing:
    """QMIX's."""

    def __init__(self, mixer: Any, online: CompiledNets, target: CompiledNets) -> None:
        """``online`` and ``target``: the hypernetworks of ``mixer``."""
        self.flat, self.online, self.target = mixer.flat, online, target

    def later(self, q: Array, acting: Array, state: Tensor) -> Array:
        """As :meth:`Mixing.later`."""
        return mix(q, acting, self.target.forward(state, keep=False)[0])

    def now(self, q: Array, acting: Array, state: Tensor) -> tuple[Array, Callable[[Array], Array]]:
        """As :meth:`Mixing.now`."""
        made, hidden = self.online.forward(state, keep=True)

        def back(slope: Array) -> Array:
            to_q, to_made = unmix(q, acting, made, slope)
            self.flat.gradients.numpy()[:] = self.online.backward(state, hidden, torch.from_numpy(to_made), False)[0]
            return to_q

        return mix(q, acting, made), back


@covers(
    "marl.learners.dqn.DQNLearner",
    "marl.learners.dqn.DQN",
    credits=("marl.grid.mixers.VDN", "marl.grid.mixers.QMix"),
    equations=(
        *("compute_loss", "mixed_loss", "cost", "mixer.now", "mixer.later", "mixer.loss"),
        *("mixer.online.forward", "mixer.target.forward"),
    ),
    settings=(
        *("sharing", "credit", "network", "agent_id", "normalize_obs", "sequence", "burn_in", "stored_carry"),
        *("exploration", "learning_starts", "updates_per_step", "update_every", "overlap"),
        *("memory", "buffer", "buffer_dir", "batch", "prioritized", "discount"),
        *("lr", "optimizer", "max_grad_norm", "target_every", "tau"),
        *("double", "huber", "hysteresis"),
    ),
)
class CompiledMixedDQN:
    """Gradients of draws of sequences, the team's value mixed from its members'."""

    def __init__(self, learner: Any, net: CompiledRecurrent, target: CompiledRecurrent, mixing: Mixing) -> None:
        """``net`` and ``target``: compiled networks of one shape."""
        self.learner, self.net, self.target, self.mixing = learner, net, target, mixing
        self.flats, settings = learner.flats, learner.settings
        self.costs = -1.0 if settings.huber is None else settings.huber, settings.hysteresis
        self._places = self._found()

    @classmethod
    def modules(cls, learner: Any) -> Iterable[nn.Module]:
        """The network, the mixer, and their slow copies."""
        return learner.net, learner.target, learner.mixer

    @classmethod
    def refuses(cls, learner: Any) -> str | None:
        """Why this is no gradient of a learner of its class."""
        if whole_name(learner.memory) != "marl.memory.replay.ring.Replay":
            return "the kernel computes draws of the library's own replay alone"
        if None in cls._networks(learner):
            return "the kernel mixes values of networks with a GRU or LSTM between plain layers, on a CPU, alone"
        return None if cls._mixing(learner) else "the kernel computes mixers of plain layers over vectors alone"

    @staticmethod
    def _networks(learner: Any) -> list[CompiledRecurrent | None]:
        return [CompiledRecurrent.maybe(net.around_unit()) for net in (learner.net, learner.target)]

    @staticmethod
    def _mixing(learner: Any) -> Mixing | None:
        mixer = learner.mixer
        if mixer.flat is None:
            return SumMixing()
        sides = [(side, [getattr(side, name) for name in HYPERNETWORKS]) for side in (mixer.online, mixer.target)]
        found = [side.together.chosen(*nets).nets for side, nets in sides]
        return MonotonicMixing(mixer, *found) if None not in found else None

    @classmethod
    def of(cls, learner: Any) -> CompiledMixedDQN:
        """For a learner that it fits."""
        net, target = cls._networks(learner)
        assert net is not None
        assert target is not None
        return cls(learner, net, target, cast(Mixing, cls._mixing(learner)))

    def _found(self) -> list[int]:
        """Where parameters lie."""
        learner = self.learner
        mixers = [] if learner.mixer.flat is None else [learner.mixer.online.value[0], learner.mixer.target.value[0]]
        return [part.weight.data_ptr() for part in (learner.net.head, learner.target.head, *mixers)]

    @property
    def stale(self) -> bool:
        """Whether parameters lie elsewhere by now."""
        return self._found() != self._places

    def fill(self, sample: Any, seen: Tensor, next_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fill the flat gradients; the loss, what priorities are made of ``(B, 1)``, and ``Q(s, a)``, ``(L, B, N)``."""
        known = sample.acting, sample.action, sample.successor, sample.discount
        acting, action, successor, discount = (x.numpy() for x in known)
        rows = seen, sample.carry, sample.started, sample.acting
        online, target = self.net.forward(*rows, keep=True), self.target.forward(*rows, keep=False)
        outside = _outside(successor, acting, discount)
        judge = target.out, _beyond(self.target, target, next_seen, outside)
        chooser = judge
        if self.learner.settings.double:
            chooser = online.out, _beyond(self.net, online, next_seen, outside)
        mask = _NO_MASK if sample.next_action_mask is None else sample.next_action_mask.numpy()
        later = _bootstrapped(successor, outside, *chooser, *judge, mask)  # (L, B, N): Q'(s', a*)
        now = _picked(online.out, action)  # (L, B, N)
        states, next_states = (joint.flatten(2).flatten(0, 1) for joint in (sample.joint, sample.next_joint))
        agents = acting.shape[-1]
        total, back = self.mixing.now(now.reshape(-1, agents), acting.reshape(-1, agents), states)
        next_acting = sample.next_acting.numpy().reshape(-1, agents)
        next_total = self.mixing.later(later.reshape(-1, agents), next_acting, next_states)
        counts = self.learner.experience.counts(sample).numpy()
        loss, slope, error = _td_errors(
            total, next_total, sample.reward.numpy(), discount, counts, sample.weight.numpy(), *self.costs
        )
        to_out = _put(back(slope), action, online.out)
        gradient, _ = self.net.backward(online, torch.from_numpy(to_out), None, to_x=False)
        self.learner.flat.gradients.numpy()[:] = gradient
        for flat in self.flats:
            flat.loss = loss
        return number(loss), torch.from_numpy(error), torch.from_numpy(now)


def _beyond(net: CompiledRecurrent, found: Passage, next_seen: Tensor, outside: Array) -> Array:
    """Outputs ``(K, N, O)`` at the successors of some rows ``(K,)``, one step after the rows' own carries."""
    rows = len(outside), *found.acting.shape[2:]
    if not len(outside):
        return np.zeros((*rows, net.outputs), dtype=np.float32)
    x, carry = (part.reshape(-1, *part.shape[2:])[outside] for part in (next_seen.numpy(), found.after))
    start, acting = np.zeros((1, len(outside)), dtype=np.bool_), np.ones((1, *rows), dtype=np.bool_)
    seen, before, begins, acts = (torch.from_numpy(part) for part in (x[None], carry, start, acting))
    out: Array = net.forward(seen, before, begins, acts, keep=False).out[0]
    return out


@exact_kernel
def _picked(out: Array, action: Array) -> Array:
    """The values ``(L, B, N)`` of the actions taken."""
    found, of = np.empty(action.size, dtype=np.float32), action.reshape(-1)
    values = out.reshape(-1, out.shape[-1])
    for row in range(found.size):
        found[row] = values[row, of[row]]
    return found.reshape(action.shape)


@exact_kernel
def _put(slope: Array, action: Array, out: Array) -> Array:
    """The gradient of ``out`` from that of the values of the actions taken, ``(L B, N)``."""
    to_out, of = np.zeros(out.shape, dtype=np.float32), action.reshape(-1)
    rows, slopes = to_out.reshape(-1, out.shape[-1]), slope.reshape(-1)
    for row in range(of.size):
        rows[row, of[row]] = slopes[row]
    return to_out


@exact_kernel
def _outside(successor: Array, acting: Array, discount: Array) -> Array:
    """Rows ``t B + b`` with a successor that has a value and is no row of the sequence in which its agent acts."""
    time, batch, agents = successor.shape
    found, count = np.empty(time * batch, dtype=np.int64), 0
    for row in range(time * batch):
        t, b = row // batch, row % batch
        for n in range(agents):
            place = successor[t, b, n]
            if discount[t, b, n] > 0 and (place < 0 or not acting[place, b, n]):
                found[count] = row
                count += 1
                break
    return found[:count]


@exact_kernel
def _bootstrapped(
    successor: Array, outside: Array, chooser: Array, chooser_beyond: Array, judge: Array, judge_beyond: Array,
    action_mask: Array,
) -> Array:  # fmt: skip
    """What the judge says ``(L, B, N)`` of the action that the chooser likes best, at every row's successor."""
    time, batch, agents, choices = chooser.shape
    found, at, masked = np.empty((time, batch, agents), dtype=np.float32), 0, action_mask.size > 0
    for row in range(time * batch):
        t, b = row // batch, row % batch
        beyond = at < outside.size and outside[at] == row
        for n in range(agents):
            place = max(successor[t, b, n], 0)
            values = chooser_beyond[at, n] if beyond else chooser[place, b, n]
            said = judge_beyond[at, n] if beyond else judge[place, b, n]
            best, top = 0, ILLEGAL
            for a in range(choices):
                value = ILLEGAL if masked and not action_mask[t, b, n, a] else values[a]
                if a == 0 or value > top:
                    best, top = a, value
            found[t, b, n] = said[best]
        at += beyond
    return found


@exact_kernel
def _td_errors(
    total: Array, next_total: Array, reward: Array, discount: Array, counts: Array, weight: Array, huber: float,
    hysteresis: float,
) -> tuple[float, Array, Array]:  # fmt: skip
    """The loss, its gradient by ``total (L B,)``, and the sequences' mean absolute TD errors ``(B, 1)``."""
    time, batch, _ = reward.shape
    slope, error = np.zeros(total.size, dtype=np.float32), np.zeros((batch, 1), dtype=np.float32)
    bound, smaller, loss, every = np.float32(huber), np.float32(hysteresis), 0.0, 0
    for row in range(total.size):
        every += counts[row // batch, row % batch, 0]
    share = np.float32(1) / np.float32(max(every, 1))
    for row in range(total.size):
        t, b = row // batch, row % batch
        if not counts[t, b, 0]:
            continue
        delta = reward[t, b, 0] + discount[t, b, 0] * next_total[row] - total[row]
        error[b, 0] += abs(delta) / np.float32(time)
        cost, into = np.float32(0.5) * delta * delta, delta
        if bound >= 0 and abs(delta) > bound:
            cost, into = bound * (abs(delta) - np.float32(0.5) * bound), bound if delta > 0 else -bound
        w = share * weight[b, 0] * (smaller if delta < 0 else np.float32(1))
        loss += cost * w
        slope[row] = -into * w
    return loss, slope, error
