"""Reading a replay: rows by their places, and one draw of sequences with the successors of their transitions.

A place is ``row * E + copy`` in the ring; below 0 it is a kept successor: -2 is slot 0, -3 slot 1, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.compiled.cache import jit
from marl.grid.scope import as_joint
from marl.memory.hindsight import Relabel
from marl.ranks import uniform
from marl.types import Array, ConfigError

PENDING = -1  # a link not known yet
WALKED = ("reward", "terminated", "truncated", "link", "acting")


@jit(nogil=True)
def walk(
    cells: Array, reward: Array, terminated: Array, truncated: Array, link: Array, acting: Array, by_team: bool,
    copies: int, batch: int, n_step: int, discount: float, total: Array, worth: Array, successor: Array,
    complete: Array, ahead: Array,
) -> bool:  # fmt: skip
    """Follow each agent's links for ``n_step`` turns: summed reward, worth of the successor, where it is.

    ``ahead``: which of the ``batch`` sequences' rows that is, -1: none. Returns whether any successor is a kept end.
    """
    over, length, size = False, cells.shape[0] // batch, len(reward) // copies
    for b in range(cells.shape[0]):
        time, first = b // batch, b % batch
        for n in range(cells.shape[1]):
            place = cells[b, n]
            known = link[place, n] != -1 and (by_team or acting[place, n])
            complete[b, n] = known
            total[b, n], worth[b, n], successor[b, n], ahead[b, n] = 0.0, 0.0, place, -1
            if not known:
                continue
            factor, row = 1.0, place // copies
            copy = place - row * copies
            for _ in range(n_step):
                after = link[place, n]
                if after == -1:  # the newest row: stop at it, with as many turns as there are
                    break
                total[b, n] += factor * reward[place, n]
                factor *= discount
                if terminated[place, n]:
                    factor = 0.0
                    successor[b, n] = after if after < 0 else place
                    break
                if truncated[place, n]:
                    successor[b, n] = after
                    break
                row, place = after, after * copies + copy
                successor[b, n] = place
            worth[b, n] = factor
            over |= successor[b, n] < 0
            onward = (row - cells[first, n] // copies + size) % size
            if successor[b, n] >= 0 and time < onward < length:
                ahead[b, n] = onward
    return over


class Stored:
    """The rows of a ring ``(R, E, N, ...)`` and the successors kept beside it, read by place."""

    def __init__(self, rows: Mapping[str, Array], ends: Mapping[str, Tensor]) -> None:
        """``rows`` and kept ``ends`` by name; both are the replay's own and change with it."""
        self.rows, self.ends = rows, ends
        self.size, self.copies, self.num_agents = rows["acting"].shape
        self.agents = np.arange(self.num_agents)
        self.cells = {name: rows[name].reshape(-1, self.num_agents) for name in WALKED}

    def whole(self, name: str, place: Array, over: bool = False) -> Array:
        """Rows of a whole team, ``(*, N, ...)``, at places ``(*)``; if some are ``over``, negative ones are of ends."""
        ring = self.rows[name]
        flat = ring.reshape(-1, *ring.shape[2:])
        if not over:
            return flat.take(place, axis=0)
        found, gone = flat.take(np.maximum(place, 0), axis=0), place < 0
        found[gone] = self.ends[name].numpy()[-2 - place[gone]]
        return found

    def own(self, name: str, place: Array, over: bool = False) -> Array:
        """Each agent's own cell, ``(K, N, ...)``, at places ``(K, N)``; negative places are kept successors."""
        ring = self.rows[name]
        found: Array = ring.reshape(-1, *ring.shape[3:]).take(
            np.maximum(place, 0) * self.num_agents + self.agents, axis=0
        )
        if over:
            row, agent = np.nonzero(place < 0)
            found[row, agent] = self.ends[name].numpy()[-2 - place[row, agent], agent]
        return found


class Cut:
    """One draw: ``B`` sequences of ``L`` rows that follow each other, and what came of every action in them.

    Attributes:
        own: whether each agent has a place of its own (``L`` 1 only).
        each: whether each agent has a successor of its own.
        where: places of the rows, ``(L * B,)``, or ``(L * B, N)`` if ``own``.
        cells: places of each agent's row, ``(L * B, N)``.
        reward: summed over ``n_step`` own turns, fewer at ends and at the newest row, ``(L * B, N)``.
        worth: what the successor's value is worth, ``(L * B, N)``.
        successor: where it is, ``(L * B, N)``.
        ahead: which row of its sequence that is, ``(L * B, N)``; -1: none of them.
        complete: whether what came of the action is known, ``(L * B, N)``.
        over: whether any successor is a kept end.
        after: places of the successors, ``(L * B, N)`` if ``each``, else ``(L * B,)``.
    """

    def __init__(
        self, stored: Stored, places: Array, length: int, n_step: int, discount: float, by_team: bool, ragged: bool
    ) -> None:
        """``places`` of the first rows: ``(B, 1)``, or ``(B, N)``."""
        self._stored = stored
        self.batch, self.length, self.own = len(places), length, places.shape[1] > 1
        if length > 1:
            row, copy = np.divmod(places[:, 0], stored.copies)
            self.where = ((row + np.arange(length)[:, None]) % stored.size * stored.copies + copy).reshape(-1)
        else:
            self.where = places if self.own else places[:, 0]
        agents = stored.num_agents
        self.cells = self.where if self.own else np.repeat(self.where, agents).reshape(-1, agents)
        self._follow(by_team, n_step, discount)
        self.each = self.own or (ragged and not by_team)  # by team, all agents have one successor
        self.after = self.successor if self.each else self.successor[:, 0]

    def _follow(self, by_team: bool, n_step: int, discount: float) -> None:
        """Rewards, successors and ends of the actions in ``cells``."""
        shape, cells = self.cells.shape, self._stored.cells
        self.reward, self.worth = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
        self.successor, self.complete = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=bool)
        self.ahead = np.empty(shape, dtype=np.int64)
        self.over = walk(
            self.cells,
            cells["reward"],
            cells["terminated"],
            cells["truncated"],
            cells["link"],
            cells["acting"],
            by_team,
            self._stored.copies,
            self.batch,
            n_step,
            discount,
            self.reward,
            self.worth,
            self.successor,
            self.complete,
            self.ahead,
        )

    @property
    def goes_on(self) -> Array:
        """Transitions whose successor has a value, ``(L * B, N)``."""
        return self.complete & (self.worth > 0)

    def here(self, name: str) -> Array:
        """Stored values in the rows ``(L * B, N, ...)``."""
        return (self._stored.own if self.own else self._stored.whole)(name, self.where)

    def at_successors(self, name: str) -> Array:
        """Stored values at each agent's successor ``(L * B, N, ...)``."""
        return (self._stored.own if self.each else self._stored.whole)(name, self.after, self.over)

    def sequences(self, x: Array) -> Tensor:
        """Rows ``(L * B, ...)`` as sequences ``(L, B, ...)``."""
        return torch.from_numpy(x.reshape(self.length, self.batch, *x.shape[1:]))

    def starts(self, remembers: bool) -> tuple[Tensor, Tensor]:
        """Where episodes begin ``(L, B)``, and the carries before the first rows ``(B, N, H)``."""
        begins, where = self._stored.rows["started"].reshape(-1), self.where
        started = begins.take(where[:, 0] if self.own else where)
        if not remembers:
            empty = torch.zeros(self.batch, self._stored.num_agents, 0, dtype=torch.float32)
            return self.sequences(started), empty
        read = self._stored.own if self.own else self._stored.whole
        carry = read("carry", where[: self.batch])
        if self.own:  # every agent's row begins an episode or not: that is settled here
            carry[begins.take(where)] = 0
            started = np.zeros_like(started)
        return self.sequences(started), torch.from_numpy(carry)

    def acting_at_successors(self) -> Array:
        """Agents that act at the successor, ``(L * B, N)``; an agent's own successor is its own turn, if it has one."""
        if self.each and self._stored.num_agents > 1:
            return self.goes_on
        return self._stored.whole("acting", self.successor[:, 0], self.over)

    def for_others(self, heads: Sequence[int]) -> tuple[Array, Array]:
        """The next row as other teams see it, ``(L * B,)``: where it shows who acts, and where what they do there.

        They have one next row for all our agents: where ours have several, that of the first who goes on. What is not
        known of it, since it is a kept end or one of ``heads``, where nobody has acted yet, is as it was.
        """
        onward = self.after
        if self.each:
            onward = np.take_along_axis(onward, self.goes_on.argmax(1)[:, None], 1)[:, 0]
        known = onward >= 0
        for head in heads:
            known &= onward // self._stored.copies != head
        return onward, np.where(known, onward, self.where)

    def joint_inputs(
        self, seen: Tensor, next_seen: Tensor, next_obs: Array, relabel: Relabel | None
    ) -> tuple[Tensor, Tensor]:
        """What a joint critic or mixer reads, ``(L, B, *J)``, and at successors ``(L, B, *J)`` or ``(L, B, N, *J)``.

        Args:
            seen: (L, B, N, *O) the team's observations.
            next_seen: (L, B, N, *O) those at each agent's successor.
            next_obs: (L * B, N, *O) the same as an array.
            relabel: who has put new goals there, if anybody.
        """
        if self.own:
            raise ConfigError("replay: a joint input needs one place for all agents")
        if "joint" in self._stored.rows:
            here = self._stored.whole("joint", self.where)
            return self.sequences(here), self.sequences(self._stored.whole("joint", self.after, self.over))
        # The same numbers as the observations, side by side.
        if not self.each:
            return as_joint(seen), as_joint(next_seen)
        team = self._stored.whole("obs", self.after, self.over)  # (K, N, N, O): all agents at each agent's successor
        if relabel is not None:
            team[..., relabel.desired] = next_obs[:, None, :, relabel.desired]
        return as_joint(seen), as_joint(self.sequences(team))

    def of_others(self, num_teams: int, heads: Sequence[int]) -> dict[str, Any]:
        """Actions, action masks and acting flags of each other team, at rows and successors: fields of a sample."""
        if not num_teams:
            none = ("others", "next_others", "acting_others", "next_acting_others", "next_action_mask_others")
            return dict.fromkeys(none, ())
        if self.own:
            raise ConfigError("replay: what other teams do needs one place for all agents")
        onward, acted = self.for_others(heads)

        def of_each(name: str, place: Array, over: bool = False) -> tuple[Tensor | None, ...]:
            names = [f"{name}.{k}" for k in range(num_teams)]
            return tuple(
                self.sequences(self._stored.whole(each, place, over)) if each in self._stored.rows else None
                for each in names
            )

        return {
            "others": of_each("others", self.where),
            "next_others": of_each("others", acted),
            "acting_others": of_each("others_acting", self.where),
            "next_acting_others": of_each("others_acting", onward, self.over),
            "next_action_mask_others": of_each("others_action_mask", onward, self.over),
        }

    def put_new_goals(
        self,
        relabel: Relabel,
        obs: Array,
        next_obs: Array,
        head: int,
        size: int,
        generator: torch.Generator | None,
    ) -> None:
        """Relabel a share of the observations ``(L * B, N, O)`` and of the rewards, in place.

        ``head`` and ``size``: where the ring stands.
        """
        choice, stored, rows = relabel.choice, self._stored, self._stored.rows
        index = self.cells if self.each else self.cells[:, :1]  # (B, N) or (B, 1)
        row, copy = np.divmod(index, stored.copies)
        last = rows["_final"].reshape(-1)[index].astype(np.int64)
        newest = (head - 1) % stored.size
        last = np.where(last >= 0, last, newest)  # the episode that still runs ends, for now, in the newest row
        ahead = (last - row) % stored.size  # rows that follow in the episode
        chance = uniform((2, len(index), 1), generator).numpy()
        if choice.strategy == "final":
            jump = ahead
        else:
            jump = (chance[0] * (ahead + 1).astype(np.float32)).astype(np.int64)
        if choice.strategy == "episode":
            oldest = (head - size) % stored.size
            since = np.minimum(rows["_since"].reshape(-1)[index], (row - oldest) % stored.size)
            jump = (chance[0] * (ahead + since + 1).astype(np.float32)).astype(np.int64) - since
        other = np.broadcast_to((row + jump) % stored.size * stored.copies + copy, self.cells.shape)
        link = stored.own("link", other).astype(np.int64)  # (B, N)
        known = link != PENDING
        after = np.where(known, np.where(link >= 0, link * stored.copies + copy, link), other)
        found = stored.own("obs", after, over=True) if self.each else stored.whole("obs", after[:, 0], over=True)
        acted = stored.own("acting", np.broadcast_to(index, self.cells.shape))
        chosen = known & acted & (chance[1] < choice.share)
        relabel(*map(torch.from_numpy, (obs, next_obs, self.reward, found[..., relabel.achieved], chosen)))
