"""Statistics of messages while a team trains: how often, how much, about what, and to what effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from marl.channels.net import ChannelNet
from marl.types import Array, Step

ROWS = 64  # steps of which a report is made, the first ones after the last report
BITS = 8  # a message, an observation, an action are each coded in at most so many bits
WORDS = 62  # entries of a message in an observation that are looked at: of words one at most is above 0
LINES = 32  # pairs of speaker and listener that are looked at


class ChannelStats:
    """Statistics of one team's messages over a number of steps.

    Messages and observations are coded by the signs of their first entries (of observations, those above their mean, of
    the entries that vary most), since mutual information of numbers is hopeless to estimate from a few thousand draws.
    What is left by chance is measured on shuffled pairs and taken off.
    """

    def __init__(self, net: ChannelNet) -> None:
        """``net``: the network that acts."""
        self.net = net
        self._rows: list[tuple[Array, ...]] = []

    def note(self, obs: Tensor, action: Tensor, acting: Tensor, started: Tensor) -> None:
        """Record a step: observations ``(E, N, *O)``, actions ``(E, N[, A])``, and the network's last messages."""
        if len(self._rows) < ROWS and self.net.last is not None:
            rows = (*self.net.last, obs.flatten(2), action, acting, started)
            self._rows.append(tuple(row.cpu().numpy().copy() for row in rows))

    def state_dict(self) -> list[Array]:
        """Records since the last report, steps first."""
        return [np.stack(column) for column in zip(*self._rows, strict=True)]

    def load_state_dict(self, state: Sequence[Array]) -> None:
        """Go back to saved records."""
        self._rows = list(zip(*state, strict=True))

    def metrics(self) -> dict[str, float]:
        """The report on the steps since the last one; entropies and informations in bits.

        ``rate``: part of the agents alive that spoke; ``entropy`` of a message; ``observation``: what a message says of
        its sender's observation; ``action``: what it says of what a listener does on hearing it.
        """
        if len(self._rows) < 2:
            return {}
        said, loud, obs, action, acting, started = (np.stack(column) for column in zip(*self._rows, strict=True))
        self._rows.clear()
        spoke = (loud > 0) & acting
        report = {"messages/rate": float(spoke.sum() / max(acting.sum(), 1))}
        message = _signs(said)  # (T, E, N)
        seen = _signs(obs - obs.mean((0, 1, 2)), order=np.argsort(-obs.var((0, 1, 2))))
        taken = action if action.ndim == 3 and action.dtype.kind == "i" else _signs(action.reshape(*acting.shape, -1))
        report["messages/entropy"] = entropy(message[spoke])
        report["messages/observation"] = information(message[spoke], seen[spoke])
        lag = self.net.link.delay + (not self.net.channel.rounds)  # steps until a message is heard
        sender, listener = spoke[: max(len(spoke) - lag, 0)], acting[lag:].copy()
        for step in range(1, lag + 1):  # what is on its way when an episode begins never arrives
            listener &= ~started[step : step + len(listener), :, None]
        agents = acting.shape[-1]
        pairs = [(i, j) for i in range(agents) for j in range(agents) if i != j and self.net.adjacency.weight[i, j] > 0]
        pairs = pairs[:: max(1, len(pairs) // LINES)]
        found = []
        for i, j in pairs:
            both = sender[..., j] & listener[..., i]
            found.append(information(message[: len(sender), :, j][both], taken[lag:, :, i][both]))
        if found:
            report["messages/action"] = float(np.mean(found))
        return report


@dataclass(frozen=True)
class MessageSlot:
    """Entries ``first`` to ``last`` of a listener's observation show a speaker's message; both by team and index."""

    listener: tuple[int, int]
    speaker: tuple[int, int]
    first: int
    last: int


class ActionMessageStats:
    """Statistics of messages that are actions and that observations show."""

    def __init__(self, lines: Sequence[MessageSlot], delay: int) -> None:
        """``delay``: steps that a message takes beyond the one in which it is said."""
        self.lines, self.lag = list(lines)[:: max(1, len(lines) // LINES)], 1 + delay
        self._rows: list[tuple[Array, ...]] = []

    def note(self, step: Step, actions: Sequence[Array]) -> None:
        """Record a step and the joint action: ``(E, N[, A])`` of every team."""
        if len(self._rows) < ROWS:
            teams = [(team.obs.reshape(*team.acting.shape, -1), team.acting) for team in step.teams]
            flat = (step.started, *(array for team in teams for array in team), *actions)
            self._rows.append(tuple(array.copy() for array in flat))

    def state_dict(self) -> list[Array]:
        """Records since the last report, steps first."""
        return [np.stack(column) for column in zip(*self._rows, strict=True)]

    def load_state_dict(self, state: Sequence[Array]) -> None:
        """Go back to saved records."""
        self._rows = list(zip(*state, strict=True))

    def metrics(self) -> dict[str, float]:
        """As :meth:`ChannelStats.metrics`; means over lines of what their listeners, alive, have before them.

        ``rate``: how often that is anything, once a message can have come.
        """
        if len(self._rows) <= self.lag:
            return {}
        started, *columns = (np.stack(column) for column in zip(*self._rows, strict=True))
        self._rows.clear()
        count = len(columns) // 3
        obs, acting, action = columns[0 : 2 * count : 2], columns[1 : 2 * count : 2], columns[2 * count :]
        length, lag = len(started) - self.lag, self.lag
        going = np.ones((length, started.shape[1]), bool)  # no episode begins while the message is on its way
        for step in range(1, lag + 1):
            going &= ~started[step : step + length]
        found: dict[str, list[float]] = {"rate": [], "entropy": [], "observation": [], "action": []}
        for line in self.lines:
            (team, n), (other, m) = line.listener, line.speaker
            heard = obs[team][lag:, :, n, line.first : line.last + 1][..., :WORDS]
            could = going & acting[team][lag:, :, n] & acting[other][:length, :, m]
            spoke = could & (heard != 0).any(-1)
            message, seen = _signs(heard, most=WORDS)[spoke], obs[other][:length, :, m]
            seen = _signs(seen - seen.mean((0, 1)), order=np.argsort(-seen.var((0, 1))))
            did = action[team][lag:, :, n]
            did = did if did.ndim == 2 else _signs(did)
            found["rate"].append(float(spoke.sum() / max(could.sum(), 1)))
            found["entropy"].append(entropy(message))
            found["observation"].append(information(message, seen[spoke]))
            found["action"].append(information(message, did[spoke]))
        return {f"words/{name}": float(np.mean(values)) for name, values in found.items()}


def _signs(x: Array, order: Array | None = None, most: int = BITS) -> Array:
    """``(..., K)`` numbers as one whole number of at most ``most`` bits."""
    x = x if order is None else x[..., order]
    bits = x[..., :most] > 0
    code: Array = bits @ (1 << np.arange(bits.shape[-1]))
    return code


def entropy(code: Array) -> float:
    """``-sum p log2 p`` of the values met."""
    if not code.size:
        return 0.0
    share = np.unique(code, return_counts=True)[1] / code.size
    return float(-(share * np.log2(share)).sum() + 0.0)


def information(a: Array, b: Array) -> float:
    """Mutual information ``H(a) + H(b) - H(a, b)`` in bits, minus that of shuffled pairs (the bias); at least 0."""
    if not a.size:
        return 0.0
    a, b = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    width, rng = int(b.max()) + 1, np.random.default_rng(0)
    together = entropy(a * width + b)
    apart = entropy(a * width + rng.permutation(b))
    return max(0.0, apart - together)
