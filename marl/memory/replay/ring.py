"""The off-policy memory: a ring of rows of ``E`` copies, allocated once, agents as an axis.

Every observation is stored once: the successor of a row is a later row of the same copy, which ``link`` names. Where an
episode was cut, the true successor is kept beside the ring. A turn-based agent's transition runs from its turn to its
next one: what it earns in between is added to the row of its turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.compiled.cache import jit
from marl.grid.credit import Credit
from marl.grid.scope import Scope
from marl.memory.base import Decision, DrawSpec, PolicyInput, refuse_wild_actions
from marl.memory.hindsight import Hindsight, Relabel
from marl.memory.priorities import Priorities, Prioritized, importance_weights
from marl.memory.replay.draw import PENDING, Cut, Stored
from marl.memory.replay.room import Room
from marl.memory.replay.share import draw_share
from marl.memory.replay.streams import Streams
from marl.memory.sample import Sample
from marl.ranks import Ranks
from marl.schedules import Clock, value_at
from marl.spaces import base_action_mask
from marl.types import Array, ConfigError, Spec, Step, TeamSpec, TeamStep

CANCELLED = 20  # payments that add up to nothing make a team of opponents
SHOWN = ("obs", "acting", "action_mask", "joint", "others_acting", "others_action_mask")  # kept of successors


@jit(nogil=True)
def settle(
    last: Array, paid: Array, terminated: Array, truncated: Array, kept: Array, slots: Array, reward: Array,
    is_terminated: Array, is_truncated: Array, link: Array,
) -> None:  # fmt: skip
    """Add rewards and ends to the row of each agent's running turn."""
    for e in range(last.shape[0]):
        for n in range(last.shape[1]):
            row = last[e, n]
            if row < 0:
                continue
            reward[row, e, n] += paid[e, n]
            if terminated[e, n] or truncated[e, n]:
                is_terminated[row, e, n] = terminated[e, n]
                is_truncated[row, e, n] = truncated[e, n]
                link[row, e, n] = -2 - slots[e] if kept[e, n] else row
                last[e, n] = -1


@jit(nogil=True)
def take_turns(last: Array, turn: Array, row: int, link: Array) -> None:
    """End the previous turn of every agent that acts now, and begin the next one."""
    for e in range(last.shape[0]):
        for n in range(last.shape[1]):
            if last[e, n] == row:  # waited for as long as the ring is: its turn has been overwritten
                last[e, n] = -1
            if turn[e, n]:
                if last[e, n] >= 0:
                    link[last[e, n], e, n] = row
                last[e, n] = row


class Ends:
    """True successors of ended episodes, a queue that grows where it must: oldest rows leave first."""

    def __init__(self, rings: Mapping[str, Tensor]) -> None:
        """``rings (R, E, ...)``: what is kept of each, by name."""
        self._rings = rings
        self.per_row = np.zeros(len(rings["obs"]), dtype=np.int64)  # how many belong to each row of the ring
        self.first = self.count = 0
        self.arrays: dict[str, Tensor] = {}
        self._allocate(64)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        # The dictionary stays the same one: whoever reads draws has it.
        self.arrays.update({name: ring.new_zeros(capacity, *ring.shape[2:]) for name, ring in self._rings.items()})

    def add(self, row: int, link: Tensor, shown: Mapping[str, Array]) -> Array:
        """Store some successors of one row, ``(K, ...)`` by name; their slots."""
        new = len(shown["obs"])
        while self.count + new > self.capacity:
            self._grow(link)
        slots: Array = (self.first + self.count + np.arange(new)) % self.capacity
        for name, array in self.arrays.items():
            array.numpy()[slots] = shown[name]
        self.count += new
        self.per_row[row] += new
        return slots

    def release(self, row: int) -> None:
        """The row is about to be overwritten: so are its successors."""
        gone = int(self.per_row[row])
        self.first = (self.first + gone) % self.capacity
        self.count -= gone
        self.per_row[row] = 0

    def _grow(self, link: Tensor) -> None:
        """Twice the room; what had wrapped round moves behind the rest, and the links to it with it."""
        old, capacity = dict(self.arrays), self.capacity
        wrapped = max(0, self.first + self.count - capacity)
        self._allocate(2 * capacity)
        for name, tensor in self.arrays.items():
            tensor[:capacity] = old[name]
            tensor[capacity : capacity + wrapped] = old[name][:wrapped]
        moved = (link <= -2) & (link > -2 - wrapped)
        link[moved] -= capacity

    def state_dict(self) -> dict[str, Any]:
        """The kept successors and the position of the queue."""
        return {
            "arrays": self.arrays,
            "per_row": self.per_row,
            "first": self.first,
            "count": self.count,
            "capacity": self.capacity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self._allocate(int(state["capacity"]))
        for name, tensor in self.arrays.items():
            tensor.copy_(state["arrays"][name])
        self.per_row[...] = state["per_row"]
        self.first, self.count = int(state["first"]), int(state["count"])


def action_mask_at_successor(spec: TeamSpec, team: TeamStep) -> Array:
    """The action mask at the successor; where it is not known, all valid choices."""
    if team.next_action_mask is not None:
        return team.next_action_mask
    action_mask = base_action_mask(spec.action, spec.action_spaces)
    return np.broadcast_to(action_mask, (len(team.acting), *action_mask.shape))


class Replay:
    """A ring of rows ``(R, E, N, ...)``; the row at ``head`` is the one to act on next, ``newest`` the last one begun.

    ``acting`` says who chose an action in a row. A transition is ``complete`` once its agent's next turn or end is
    known. With a team reward that several agents are credited for at once (``by_team``) turns are the team's: a
    transition runs from a row in which anybody acts to the next such row.
    """

    def __init__(
        self,
        spec: Spec,
        team: TeamSpec,
        scope: Scope,
        credit: Credit,
        capacity: int,
        num_envs: int,
        carry_width: int,
        device: torch.device | str = "cpu",
        *,
        other_actions: bool = False,
        keep_ends: bool = False,
        directory: str | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Room for ``capacity`` environment steps.

        Args:
            spec: the environment.
            team: whose memory it is.
            scope: what the critic or mixer reads beside the agents' own observations.
            credit: whose reward is stored.
            capacity: environment steps, all copies counted.
            num_envs: ``E``.
            carry_width: ``H`` of the actor.
            device: where samples go; the ring itself stays in main memory.
            other_actions: keep what the agents of the other teams did too.
            keep_ends: keep the last observation of terminated episodes as well (hindsight needs it).
            directory: keep observations in files there instead of in memory.
            ranks: who holds the rows of other copies; a draw is of the rows of all of them.

        Raises:
            ResourceError: if the arrays do not fit into memory.
        """
        self.spec, self.team = spec, team
        self.place = spec.teams.index(team)
        self.num_envs, self.device = num_envs, torch.device(device)
        self.ranks, self.everybody = ranks, num_envs * (1 if ranks is None else ranks.size)  # copies of all ranks
        self.rows = math.ceil(capacity / num_envs) + 1
        self.by_team = credit.by_team
        self.keep_ends = keep_ends
        agents = team.num_agents
        cells = (self.rows, num_envs, agents)
        obs_dtype = torch.uint8 if team.obs.dtype == "uint8" else torch.float32
        action_dtype = torch.float32 if team.action.dtype == "float32" else torch.int64
        shape = scope.shape(spec, team)
        self._reads_joint = shape is not None
        self._gathered = None if shape is None or scope.is_view(spec) else scope
        recorded_teams = [other for other in spec.teams if other is not team] if other_actions else []
        self._others = [spec.teams.index(other) for other in recorded_teams]
        room = Room(team, cells, directory)
        room.check(carry_width, shape if self._gathered else None, recorded_teams)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype)

        self.obs = room.array("obs", (*cells, *team.obs.shape), obs_dtype)
        self.acting = zeros(*cells, dtype=torch.bool)
        self.action_mask = zeros(*cells, team.action.num_choices, dtype=torch.bool) if team.masked else None
        self.started = zeros(self.rows, num_envs, dtype=torch.bool)
        self.carry = zeros(*cells, carry_width)
        self._remembers = carry_width > 0
        self.action = zeros(*cells, *team.action.shape, dtype=action_dtype)
        self.reward = zeros(*cells)
        self.terminated = zeros(*cells, dtype=torch.bool)
        self.truncated = zeros(*cells, dtype=torch.bool)
        self.link = torch.full(cells, PENDING, dtype=torch.int32)
        self.joint = None
        if shape is not None and self._gathered is not None:
            self.joint = room.array("joint", (self.rows, num_envs, *shape), torch.float32)
        self.others = tuple(
            torch.zeros(
                self.rows,
                num_envs,
                other.num_agents,
                *other.action.shape,
                dtype=torch.float32 if other.action.dtype == "float32" else torch.int64,
            )
            for other in recorded_teams
        )
        self.others_acting = tuple(
            zeros(self.rows, num_envs, other.num_agents, dtype=torch.bool) for other in recorded_teams
        )
        self.others_action_mask = tuple(
            zeros(self.rows, num_envs, other.num_agents, other.action.num_choices, dtype=torch.bool)
            if other.masked
            else None
            for other in recorded_teams
        )
        self.credit, self.outcome = credit, credit.outcome(num_envs, agents)
        self._cancelled: int | None = 0 if self.by_team else None  # payments so far that added up to nothing
        self._mixer = type(credit).__name__
        self.head = self.newest = 0  # the same but where streams of several collectors take turns
        self.size = 0  # rows before the newest
        self.seen_steps = 0  # environment steps ever observed, by all ranks
        self.ragged = False  # whether anybody ever sat out a row
        self.parted = False  # whether that is known of any rank
        self.priorities: Priorities | None = None
        self._prioritized = Prioritized()
        self._relabel: Relabel | None = None
        self._final = torch.full((self.rows, num_envs), -1, dtype=torch.int32)  # an episode's last row, if it is known
        self._since: Tensor | None = None  # rows since a row's episode began, for hindsight
        stored = dict(self._tensors())
        self._rows = {name: tensor.numpy() for name, tensor in stored.items()}  # the same memory, quicker to reach
        self.ends = Ends({name: ring for name, ring in stored.items() if name.partition(".")[0] in SHOWN})
        self._stored = Stored(self._rows, self.ends.arrays)
        self.streams: Streams | None = None  # where more than one collector writes
        # The carry after the action just taken: the row that it belongs to is the oldest until the step is observed.
        self._decided: Tensor | None = None
        self._last = np.full((num_envs, agents), -1, dtype=np.int64)  # ring row of each agent's running turn
        self._episode = np.zeros(num_envs, dtype=np.int64)  # rows since each copy's episode began

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        tensors = [tensor for _, tensor in self._tensors()] + list(self.ends.arrays.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def relabel(self, choice: Hindsight) -> None:
        """Relabel draws from now on. Raises ConfigError for teams without goals, or if goals are in a state as well."""
        if self._gathered is not None:
            raise ConfigError(
                f"hindsight: team {self.team.name!r} reads {self._gathered!r}, whose goals cannot be "
                "relabeled; use critic=Joint(of='team'), a mixer with state='team', or hindsight=None"
            )
        self._relabel = Relabel(choice, self.team, self.credit)
        self._since = torch.zeros(self.rows, self.num_envs, dtype=torch.int32)
        self._rows["_since"] = self._since.numpy()

    def prioritize(self, choice: Prioritized, separate: bool) -> None:
        """Draw by TD error from now on; ``separate``: every agent has priorities of its own."""
        trees = self.team.num_agents if separate else 1
        alpha = value_at(choice.alpha, Clock(0, 1))
        self._prioritized = choice
        self.priorities = Priorities(trees, self.rows * self.num_envs, alpha, choice.epsilon)

    # --- writing ------------------------------------------------------------------------------------------------------

    def start(self, step: Step) -> None:
        """Begin with the first step of a training run; what is here already does not go on in it."""
        ((self.streams or Streams(self)).begin if self.size else self._see)(step)

    def current(self) -> PolicyInput:
        """The policy's input at the current step."""
        h, rows = self.head, self._rows  # numpy takes out a row in less time than torch
        obs, carry, started, acting = (
            torch.from_numpy(rows[name][h]) for name in ("obs", "carry", "started", "acting")
        )
        inputs = PolicyInput(obs, carry, started, acting, None if self.action_mask is None else self.action_mask[h])
        if self.device.type == "cpu":
            return inputs
        return replace(inputs, **{name: x.to(self.device) for name, x in vars(inputs).items() if x is not None})

    def decide(self, decision: Decision) -> None:
        """Store the chosen actions."""
        self._rows["action"][self.head] = decision.action.cpu().numpy()
        self._decided = decision.carry

    def record_joint_action(self, actions: list[Tensor], step: Step) -> None:
        """Store the actions of the other teams; ``actions[k]`` is what the environment gets from team ``k``."""
        for place, kept in zip(self._others, self.others, strict=True):
            kept[self.head].copy_(actions[place])
        self._see_others(step)

    def _see_others(self, step: Step) -> None:
        for k, place in enumerate(self._others):
            other = step.teams[place]
            self._rows[f"others_acting.{k}"][self.head] = other.acting
            if other.action_mask is not None:
                self._rows[f"others_action_mask.{k}"][self.head] = other.action_mask

    def observe(self, step: Step, reward: Array | None = None) -> None:
        """Store the result of a step, and the step to act on next; ``reward`` replaces the raw reward."""
        h, following = self.head, (self.newest + 1) % self.rows
        if self._remembers and self._decided is not None:
            self._rows["carry"][following] = self._decided.cpu().numpy()
        team = step.teams[self.place]
        paid, terminated, truncated = self.outcome(team, step.started, reward)
        if self._cancelled is not None:
            self._check_opponents(team.reward if reward is None else reward, paid)
        ended = terminated | truncated
        over = np.count_nonzero(ended) > 0  # in a quarter of the time of any()
        even = not self.ragged
        running = None if self.priorities is None else self._last.copy()
        if over and even and not np.array_equal(ended.any(1), ended.all(1)):
            self.ragged = True
            for name in ("reward", "terminated", "truncated"):  # from now on added to; until now overwritten
                self._rows[name][h] = 0
        kept: Array = ended if self.keep_ends else truncated
        slots = self._keep_successors(step, np.any(kept, axis=1), self.newest) if over else None
        if not self.ragged:
            rows = self._rows
            rows["reward"][h] = paid
            rows["terminated"][h] = terminated
            rows["truncated"][h] = truncated
            rows["link"][h] = following
            if slots is not None:
                np.copyto(rows["link"][h], (-2 - slots)[:, None], where=kept)
            if over:
                self._last[ended] = -1
        else:
            arrays = [self._rows[name] for name in ("reward", "terminated", "truncated", "link")]
            slots = np.full(self.num_envs, -1, dtype=np.int64) if slots is None else slots
            settle(self._last, paid, terminated, truncated, kept, slots, *arrays)
        self._episode += 1
        if self._relabel is not None and step.started.any():
            self._close(np.nonzero(step.started)[0])
        if np.count_nonzero(step.discarded):
            self._forget(np.nonzero(step.discarded)[0])
        self._episode[step.started] = 0
        self.seen_steps += self.everybody
        self.head = self.newest = following
        self.size = min(self.size + 1, self.rows - 1)
        self._rows["_final"][following] = -1
        self._see(step)
        if self.priorities is not None and running is not None:
            places = np.arange(self.num_envs)
            self.priorities.remove(following * self.num_envs + places)
            if even and not self.ragged:
                self.priorities.insert(h * self.num_envs + places)
            else:
                self._prioritize(self.priorities, running)

    def _check_opponents(self, reward: Array, paid: Array) -> None:
        """Refuse to mix the values of agents whose rewards always sum to zero: the team reward is then constant."""
        if paid.any():
            self._cancelled = None  # it does earn something: never look again
        elif self._cancelled is not None:
            self._cancelled += int(reward.any(axis=1).sum())
            if self._cancelled >= CANCELLED:
                raise ConfigError(
                    f"{self._mixer} on team {self.team.name!r}: the rewards of its agents always cancel out, so they "
                    "are opponents; a mixer needs what a team earns together: give each side a team of its own, or use "
                    "credit=Independent()"
                )

    def _prioritize(self, priorities: Priorities, running: Array) -> None:
        """Of the turns that were running, those that have ended can be drawn from now on."""
        copies, agents = np.nonzero((running >= 0) & (running != self._last))
        rows = running[copies, agents]
        known = self._rows["link"][rows, copies, agents] != PENDING
        trees = agents if len(priorities.nodes) > 1 else np.zeros_like(agents)
        priorities.insert_one_by_one(trees[known], (rows * self.num_envs + copies)[known])

    def _keep_successors(self, step: Step, copies: Array, row: int) -> Array | None:
        """Store the true successors of some copies; the slot of each copy ``(E,)``, or None if there are none."""
        if not copies.any():
            return None
        which = np.nonzero(copies)[0]
        team = step.teams[self.place]
        shown = {"obs": team.next_obs[which], "acting": team.truncated[which]}
        if self.action_mask is not None:
            shown["action_mask"] = action_mask_at_successor(self.team, team)[which]
        if self._gathered is not None:
            shown["joint"] = self._gathered.gather(step, self.place, successor=True, rows=which)
        for k, place in enumerate(self._others):
            other = step.teams[place]
            # Who lives on acts there: in an episode that goes on for them, or but for its being cut.
            shown[f"others_acting.{k}"] = (other.truncated | other.acting & ~step.started[:, None])[which]
            if self.others_action_mask[k] is not None:
                shown[f"others_action_mask.{k}"] = action_mask_at_successor(self.spec.teams[place], other)[which]
        slots = np.full(self.num_envs, -1, dtype=np.int64)
        slots[which] = self.ends.add(row, self.link, shown)
        return slots

    def _see(self, step: Step) -> None:
        h = self.head
        team = step.teams[self.place]
        self.ends.release(h)
        rows = self._rows
        rows["obs"][h] = team.obs
        rows["acting"][h] = team.acting
        rows["started"][h] = step.started
        if self._since is not None:
            rows["_since"][h] = self._episode
        if self.action_mask is not None and team.action_mask is not None:
            rows["action_mask"][h] = team.action_mask
        if self.joint is not None and self._gathered is not None:
            rows["joint"][h] = self._gathered.gather(step, self.place, successor=False)
        self._see_others(step)
        turn = team.acting
        rows["link"][h] = PENDING
        if np.count_nonzero(turn) < turn.size:
            if self.by_team:
                turn = np.broadcast_to(turn.any(axis=1, keepdims=True), turn.shape)
            if not turn.all():
                self._part()
        if self.ragged:
            rows["reward"][h] = 0
            rows["terminated"][h] = False
            rows["truncated"][h] = False
            take_turns(self._last, turn, h, rows["link"])
        else:
            self._last[...] = h

    def _part(self) -> None:
        """From now on turns end by themselves; until now each was taken to end where the next row begins."""
        if not self.ragged:
            self.ragged = True
            copies, agents = np.nonzero(self._last >= 0)
            self._rows["link"][self._last[copies, agents], copies, agents] = PENDING

    def _close(self, copies: Array) -> None:
        """The episodes of these copies end in the row at the head."""
        for copy in copies.tolist():
            length = min(int(self._episode[copy]), self.rows - 1)
            self._final[torch.from_numpy((self.head - np.arange(length)) % self.rows), copy] = self.head

    def _forget(self, copies: Array) -> None:
        """Exclude the running episode of these copies from learning."""
        for copy in copies.tolist():
            length = min(int(self._episode[copy]), self.rows)
            rows = torch.from_numpy((self.head - np.arange(length)) % self.rows)
            self.acting[rows, copy] = False
            self.link[rows, copy] = PENDING
            self._last[copy] = -1
            if self.priorities is not None:
                self.priorities.remove(rows.numpy() * self.num_envs + copy)
        self._part()

    # --- reading ------------------------------------------------------------------------------------------------------

    def ready(self, wanted: DrawSpec, clock: Clock) -> bool:
        """Whether there are as many rows as a sequence has, and, of prioritized ones, a turn that has ended."""
        if self.priorities is not None:
            self.priorities.alpha = value_at(self._prioritized.alpha, clock)
            if not self.priorities.total.any():
                return False
        return self.size >= wanted.length

    def draw(self, wanted: DrawSpec, clock: Clock, generator: torch.Generator) -> Sample:
        """``B`` places, by chance or by priority, and what is stored there."""
        if self.ranks is not None:
            return draw_share(self, self.ranks, wanted, generator)
        if self.priorities is None:
            index, weight = self.places(wanted.batch, wanted.length, generator), None
        else:
            shape = len(self.priorities.nodes), wanted.batch
            place, probability = self.priorities.sample(
                torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
            )
            beta = value_at(self._prioritized.beta, clock)
            importance = importance_weights(probability, self.size * self.num_envs, beta)
            index = torch.from_numpy(place).t().contiguous()
            weight = torch.from_numpy(importance).t().to(torch.float32)
        return self.sample(index, wanted.length, wanted.n_step, wanted.discount, weight, generator)

    def update_priorities(self, sample: Sample, td_error: Tensor) -> None:
        """Absolute TD errors ``(B, N)`` become each agent's priorities, or their mean over who acted the team's."""
        if self.priorities is None:
            return
        if len(self.priorities.nodes) == 1 and td_error.shape[1] > 1:
            if self.ragged:
                acted = sample.complete[0].sum(-1, keepdim=True).clamp(min=1)
                td_error = td_error.sum(-1, keepdim=True) / acted
            else:
                td_error = td_error.mean(-1, keepdim=True)
        self.priorities.update(sample.index.t().cpu().numpy(), td_error.t().cpu().numpy())

    def places(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """Places ``(B, 1)`` of uniformly drawn first rows of ``length`` complete rows each, in which somebody acted."""
        ragged = self.ragged and length == 1
        row, copy = self.chance(8 * batch if ragged else batch, length, generator)
        index = row * self.num_envs + copy
        if ragged:
            # Rows in which nobody of the team acted hold nothing to learn: take the first of the others.
            index = index[np.argsort(~self.useful(index), kind="stable")[:batch]]
        return torch.from_numpy(index).unsqueeze(1)

    def chance(self, tries: int, length: int, generator: torch.Generator) -> tuple[Array, Array]:
        """Rows of the ring and copies of all ranks, drawn uniformly, ``(tries,)`` each."""
        if self.streams is not None and length > 1:
            return self.streams.chance(tries, length, generator)
        chance = torch.randint((self.size - length + 1) * self.everybody, (tries,), generator=generator)
        row, copy = np.divmod(chance.numpy(), self.everybody)
        return (row + (self.newest - self.size)) % self.rows, copy

    def useful(self, index: Array) -> Array:
        """Whether somebody of the team acted at places ``(K,)``, and what came of it is known."""
        cells = self._stored.cells
        found: Array = np.any((cells["link"][index] != PENDING) & cells["acting"][index], axis=-1)
        return found

    def sample(
        self,
        index: Tensor,
        length: int,
        n_step: int,
        discount: float,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Sample:
        """What is stored at places ``(B, 1)``, or at each agent's own place ``(B, N)`` (``length`` 1 only).

        Rewards are summed over ``n_step`` own turns, fewer at ends and at the newest row; ``L = length`` rows follow
        each other.
        """
        cut = Cut(self._stored, index.numpy(), length, n_step, discount, self.by_team, self.ragged)
        obs, next_obs = cut.here("obs"), cut.at_successors("obs")
        if self._relabel is not None:
            cut.put_new_goals(self._relabel, obs, next_obs, self.newest, self.size, generator)
        seen, next_seen = cut.sequences(obs), cut.sequences(next_obs)
        joint, next_joint = None, None
        if self._reads_joint:
            joint, next_joint = cut.joint_inputs(seen, next_seen, next_obs, self._relabel)
        started, carry = cut.starts(remembers=self.carry.shape[-1] > 0)
        return Sample(
            index=index,
            obs=seen,
            action=cut.sequences(cut.here("action")),
            action_mask=None if self.action_mask is None else cut.sequences(cut.here("action_mask")),
            started=started,
            acting=cut.sequences(cut.here("acting")),
            complete=cut.sequences(cut.complete),
            successor=cut.sequences(cut.ahead),
            reward=cut.sequences(cut.reward),
            discount=cut.sequences(cut.worth),
            next_obs=next_seen,
            next_action_mask=None if self.action_mask is None else cut.sequences(cut.at_successors("action_mask")),
            next_acting=cut.sequences(cut.acting_at_successors()),
            carry=carry,
            joint=joint,
            next_joint=next_joint,
            **cut.of_others(len(self._others), [self.head] if self.streams is None else self.streams.heads),
            weight=torch.ones(index.shape, dtype=torch.float32) if weight is None else weight,
        ).to(self.device)

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All filled rows, where the ring stands, who has ended."""
        filled = self.rows if self.size == self.rows - 1 else self.newest + 1
        return {
            "arrays": {name: tensor[:filled] for name, tensor in self._tensors()},
            "ends": self.ends.state_dict(),
            "priorities": None if self.priorities is None else self.priorities.state_dict(),
            "outcome": self.outcome.state_dict(),
            "last": self._last,
            "episode": self._episode,
            "head": self.head,
            "newest": self.newest,
            "size": self.size,
            "seen_steps": self.seen_steps,
            "ragged": self.ragged,
            "streams": None if self.streams is None else self.streams.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, tensor in self._tensors():
            saved = state["arrays"][name]
            tensor[: len(saved)].copy_(saved)
        self.ends.load_state_dict(state["ends"])
        if self.priorities is not None:
            self.priorities.load_state_dict(state["priorities"])
        self.outcome.load_state_dict(state["outcome"])
        self._last[...], self._episode[...] = state["last"], state["episode"]
        self.head, self.size = int(state["head"]), int(state["size"])
        self.newest = int(state.get("newest", self.head))
        self.streams = Streams.restored(self, state.get("streams"))
        self.seen_steps, self.ragged = int(state["seen_steps"]), bool(state["ragged"])
        self._refuse_wild()

    def _refuse_wild(self) -> None:
        """Raise ValueError for places outside of the ring and the like: compiled code goes there without a look."""
        places = (self.link.numpy(), self._last, self._final.numpy(), np.array([self.head, self.newest, self.size]))
        if (
            max(int(place.max()) for place in places) >= self.rows
            or min(self._last.min(), self.head, self.newest, self.size) < -1
        ):
            raise ValueError(f"replay of team {self.team.name!r}: places outside of its {self.rows} rows")
        refuse_wild_actions(self.action, self.team)
        for place, actions in zip(self._others, self.others, strict=True):
            refuse_wild_actions(actions, self.spec.teams[place])

    def _tensors(self) -> list[tuple[str, Tensor]]:
        stored = "obs acting action_mask started carry action reward terminated truncated link joint _final _since"
        names = stored.split()
        tensors = [(name, tensor) for name in names if isinstance(tensor := getattr(self, name), Tensor)]
        for name in ("others", "others_acting", "others_action_mask"):
            tensors += [(f"{name}.{k}", part) for k, part in enumerate(getattr(self, name)) if part is not None]
        return tensors
