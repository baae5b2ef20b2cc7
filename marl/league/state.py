"""The state of a league: who plays each copy, results, ratings, and everything a checkpoint needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from marl.config import unknown
from marl.curriculum.tasks import Task
from marl.league.matches import side_returns
from marl.league.members import Member, PolicyParts, SideKind, sides_of
from marl.league.ratings import RatingName, RatingSystem, rating_system
from marl.learners import Learner, LearnerConfig
from marl.learners.base import restore_generator
from marl.playing.team import OWN, SeatAssignment, Side, Strategy
from marl.schedules import Clock
from marl.types import Array, BatchEnv, ConfigError, Episode, Spec, Step

RECENT = 100  # games that the win rates of the log are of


@runtime_checkable
class PolicySource(Protocol):
    """A source of trained policies, such as a loaded system."""

    spec: Spec

    def strategy(self, team: str) -> Strategy:
        """A team's policies and their probabilities."""
        ...


Opponent = LearnerConfig | PolicySource | str
Opponents = Sequence[Opponent] | Mapping[str, Sequence[Opponent]]


@dataclass(frozen=True)
class LeagueContext:
    """What a league is built from: the environment, its copies, random streams, and how to make and load more."""

    spec: Spec
    num_envs: int
    seed: np.random.SeedSequence
    device: torch.device
    learners: Sequence[Learner]
    make_env: Callable[[int], BatchEnv]
    load: Callable[[str], PolicySource]
    team: Callable[[str], str]  # the name of a team from a key of a mapping
    task: Task  # that matches between members are played on


class LeagueState:
    """The common part of leagues; subclasses draw opponents and decide when the pool grows."""

    def __init__(
        self,
        context: LeagueContext,
        between: SideKind,
        opponents: Opponents,
        greedy: bool,
        rating: RatingName,
        winner: Callable[[Episode], str | None] | None = None,
    ) -> None:
        """Build the sides and the pool of invited opponents. Raises ConfigError for games without two sides."""
        self.context, self.spec, self.learners = context, context.spec, context.learners
        self.sides: tuple[Side, ...] = sides_of(context.spec, between)
        self.greedy, self.winner = greedy, winner
        self.system: RatingSystem = rating_system(rating)
        draws, plays = context.seed.spawn(2)
        self.random = np.random.default_rng(draws)
        self.generator = torch.Generator(context.device).manual_seed(int(plays.generate_state(1, np.uint64)[0] >> 1))
        self.members: dict[int, Member] = {}
        self.next_uid = 0
        self.assigned = np.full((context.num_envs, len(self.sides)), OWN, dtype=np.int64)
        self.turn = np.arange(context.num_envs) % len(self.sides)  # whose turn it is to learn; sides swap each episode
        self.learning: int | None = None  # the only side that learns; None: all do
        self.ignored_until_reset = [
            np.zeros(context.num_envs, dtype=bool) for _ in self.spec.teams
        ]  # begun by an earlier learner
        self.seats = SeatAssignment(self.spec, context.num_envs, context.device)
        self.ratings = [self.system.start for _ in self.spec.teams]
        self.recent: list[deque[float]] = [deque(maxlen=RECENT) for _ in self.sides]
        self._invite(opponents)

    # --- the pool -----------------------------------------------------------------------------------------------------

    def _invite(self, opponents: Opponents) -> None:
        """Add the opponents that stay in the pool for good."""
        lists: dict[str, Sequence[Opponent]] = {team.name: () for team in self.spec.teams}
        if isinstance(opponents, Mapping):
            lists |= {self.context.team(key): guests for key, guests in opponents.items()}
        else:
            lists = dict.fromkeys(lists, opponents)
        for place, guests in enumerate(lists.values()):
            for guest in guests:
                for share, name, policy, greedy in self._policies(guest, place):
                    self._add(
                        Member(
                            self.next_uid, place, name, policy, self.system.start,
                            greedy=self.greedy or greedy, lasting=True, share=share,
                        )
                    )  # fmt: skip

    def _policies(self, guest: Opponent, place: int) -> list[tuple[float, str, PolicyParts, bool]]:
        """An opponent's policies, one unless it is a mixture: probability, name, policy, whether it is greedy."""
        team, name = self.spec.teams[place], str(guest)
        if isinstance(guest, str):
            guest = self.context.load(guest)
        elif isinstance(guest, PolicySource):
            name = f"a system of {guest.spec.env}"
        if isinstance(guest, PolicySource):
            for theirs in guest.spec.teams:
                if theirs.agents == team.agents and (theirs.obs, theirs.action) == (team.obs, team.action):
                    strategy = guest.strategy(theirs.name)
                    return [
                        (
                            chance,
                            name if len(strategy) == 1 else f"{name}, {member.name}",
                            (member.net, member.distribution),
                            member.greedy,
                        )
                        for chance, member in strategy
                    ]
            raise ConfigError(
                f"league: opponent {name:.80} has no team of {', '.join(team.agents)} with the same spaces"
            )
        if isinstance(guest, type) or not isinstance(guest, LearnerConfig):
            raise ConfigError(
                f"league: opponents are learners such as marl.Random() or marl.Fixed(0), paths of checkpoints, or "
                f"systems; got {guest!r:.80}"
            )
        seed = np.random.SeedSequence([self.next_uid, *self.context.seed.generate_state(2)])
        return [(1.0, name, guest.build(self.spec, team, 1, seed, self.context.device).policy(None), False)]

    def _add(self, member: Member) -> Member:
        self.members[member.uid] = member
        self.next_uid += 1
        return member

    def snapshot(self, place: int, name: str, *, pooled: bool = True) -> Member:
        """Add a frozen copy of a team's current policy."""
        policy = self.learners[place].policy(None)
        return self._add(
            Member(self.next_uid, place, name, policy, self.ratings[place], greedy=self.greedy, pooled=pooled)
        )

    def pool(self, place: int) -> list[Member]:
        """The members of a team that may be drawn, oldest first."""
        return [member for member in self.members.values() if member.place == place and member.pooled]

    def _sweep(self, keep: Iterable[int] = ()) -> None:
        """Remove members that can no longer be drawn and that play in no copy."""
        needed = {*keep, *np.unique(self.assigned).tolist()}
        for uid in [uid for uid, member in self.members.items() if not member.pooled and uid not in needed]:
            del self.members[uid]
            self.seats.carries.pop(uid, None)

    # --- for those who extend it --------------------------------------------------------------------------------------

    @property
    def latest(self) -> float:
        """The share of games against the opponent as it is now."""
        raise NotImplementedError

    def weights(self, place: int) -> Array:
        """How likely each member of :meth:`pool` is drawn."""
        raise NotImplementedError

    def current_member(self, place: int) -> int:
        """The member that plays for a team while it does not learn."""
        raise NotImplementedError

    def first(self, clock: Clock) -> None:
        """Fill the pool before the first step."""
        raise NotImplementedError

    def tick(self, clock: Clock) -> Sequence[int]:
        """After the updates of a step: let the pool grow; returns the places of the learners to restart."""
        raise NotImplementedError

    def strategy(self, team: str) -> Strategy:
        """How a team mixes its pool where that is the league's result; nothing: it plays as its learner does."""
        return []

    # --- playing ------------------------------------------------------------------------------------------------------

    def begin(self, clock: Clock) -> None:
        """Before the first step: fill the pools and assign players."""
        self.first(clock)
        self._draw(np.arange(self.context.num_envs))

    def play(self, step: Step, actions: list[Array]) -> list[Array]:
        """Replace the learners' actions on seats that members play."""
        if all((seats == OWN).all() for seats in self.seats.of):
            return actions
        mixed = [action.copy() for action in actions]
        self.seats.act(self.members, step, mixed, self.generator)
        return mixed

    def take(self, step: Step) -> Step:
        """Record finished games, assign players to the next ones, and mask other players' steps for the learners."""
        finished = [replace(episode, info=episode.info | self._record(episode)) for episode in step.finished]
        if step.started.any():
            begun = np.flatnonzero(step.started)
            for ignored_until_reset in self.ignored_until_reset:
                ignored_until_reset[begun] = False
            self._draw(begun)
        return replace(self.seen(step), finished=finished)

    def seen(self, step: Step) -> Step:
        """The step as learners see it: only agents that their learner controls are acting."""
        teams = tuple(
            replace(team, acting=team.acting & (seats == OWN) & ~ignored_until_reset[:, None])
            for team, seats, ignored_until_reset in zip(
                step.teams, self.seats.of, self.ignored_until_reset, strict=True
            )
        )
        return replace(step, teams=teams)

    def learns(self, place: int) -> bool:
        """Whether a team's learner may update now."""
        return self.learning is None or self.sides[self.learning].place == place

    def restart(self, places: Sequence[int]) -> Sequence[int]:
        """The learners at these places restart: they learn nothing of the games that run."""
        for place in places:
            self.ignored_until_reset[place][:] = True
        return places

    def _draw(self, copies: Array) -> None:
        """Draw the players of the next game in these copies."""
        for copy in copies.tolist():
            if self.learning is None and self.random.random() < self.latest:
                self.assigned[copy] = OWN
            else:
                live = int(self.turn[copy]) if self.learning is None else self.learning
                for number, side in enumerate(self.sides):
                    self.assigned[copy, number] = OWN if number == live else self._opponent(side)
                self.turn[copy] = (live + 1) % len(self.sides)
        for number, side in enumerate(self.sides):
            self.seats.of[side.place][np.ix_(copies, np.array(side.columns))] = self.assigned[copies, number][:, None]

    def _opponent(self, side: Side) -> int:
        if self.learning is not None and self.random.random() < self.latest:
            return self.current_member(side.place)
        pool = self.pool(side.place)
        return pool[int(self.random.choice(len(pool), p=self.weights(side.place)))].uid

    # --- results ------------------------------------------------------------------------------------------------------

    def _record(self, episode: Episode) -> dict[str, float]:
        """Record the result of a game; returns infos for curricula: ``absent`` marks teams that members played."""
        info: dict[str, float] = {}
        row = self.assigned[episode.copy].tolist()
        several = len(self.spec.teams) > 1
        for number, side in enumerate(self.sides):
            team = self.spec.teams[side.place].name
            if row[number] != OWN:
                if several:
                    info[f"absent/{team}"] = 1.0
                continue
            met = [self._met(episode, number, other, self.members[uid]) for other, uid in enumerate(row) if uid != OWN]
            if met:
                self.recent[number].append(sum(met) / len(met))
            rivals = [
                self._score(episode, number, other)
                for other, uid in enumerate(row)
                if uid == OWN and self.sides[other].place != side.place
            ]
            score = sum(met + rivals) / len(met + rivals) if met + rivals else 0.5  # against oneself
            rating = self.system.value(self.ratings[side.place])
            info |= {f"win/{team}": score, f"rating/{team}": rating}
            if not several:
                info |= {"win": score, "rating": rating}
        return info

    def _score(self, episode: Episode, number: int, other: int) -> float:
        """The score of one side against another: 1 won, 0.5 drawn, 0 lost."""
        if self.winner is None:
            found = side_returns(self.sides, episode.returns)
            return float(0.5 * (1 + np.sign(found[number] - found[other])))
        name = self.winner(episode)
        names = [side.name for side in self.sides]
        if name is not None and name not in names:
            raise ConfigError(unknown("League.winner", str(name), names, "side"))
        return 0.5 if name is None else float(name == names[number])

    def _met(self, episode: Episode, number: int, other: int, member: Member) -> float:
        """The score against a member, whose record and rating change."""
        score = self._score(episode, number, other)
        member.record(score)
        place = self.sides[number].place
        self.ratings[place], member.rating = self.system.update(self.ratings[place], member.rating, score)
        return score

    def metrics(self) -> dict[str, float]:
        """Sizes of pools, ratings, and the share of recent games against others that were won (draws are half)."""
        found: dict[str, float] = {}
        for place, team in enumerate(self.spec.teams):
            prefix = f"{team.name}/league/" if len(self.spec.teams) > 1 else "league/"
            found[f"{prefix}pool"] = len(self.pool(place))
            found[f"{prefix}rating"] = self.system.value(self.ratings[place])
            recent = [x for side, won in zip(self.sides, self.recent, strict=True) if side.place == place for x in won]
            if recent:
                found[f"{prefix}win_rate"] = sum(recent) / len(recent)
        return found

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Members, seats, results, ratings, streams."""
        return {
            "members": [member.state_dict() for member in self.members.values()],
            "next_uid": self.next_uid,
            "assigned": self.assigned.copy(),
            "turn": self.turn.copy(),
            "learning": self.learning,
            "ignored_until_reset": [ignored_until_reset.copy() for ignored_until_reset in self.ignored_until_reset],
            "carries": [[uid, carry.clone()] for uid, carry in self.seats.carries.items()],
            "ratings": [list(rating) for rating in self.ratings],
            "recent": [list(recent) for recent in self.recent],
            "random": dict(self.random.bit_generator.state),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        lasting = {uid: member for uid, member in self.members.items() if member.lasting}
        self.members = {}
        for saved in state["members"]:
            uid, place = int(saved["uid"]), int(saved["place"])
            if saved["lasting"]:
                member = lasting[uid]
            else:
                policy = self.learners[place].policy(None)
                member = Member(uid, place, saved["name"], policy, self.system.start, greedy=self.greedy)
            member.load_state_dict(saved)
            self.members[uid] = member
        self.next_uid = int(state["next_uid"])
        self.assigned[...], self.turn[...] = state["assigned"], state["turn"]
        self.learning = None if state["learning"] is None else int(state["learning"])
        for ignored_until_reset, saved in zip(self.ignored_until_reset, state["ignored_until_reset"], strict=True):
            ignored_until_reset[...] = saved
        for number, side in enumerate(self.sides):
            self.seats.of[side.place][:, side.columns] = self.assigned[:, number][:, None]
        self.seats.carries = {int(uid): carry.clone().to(self.generator.device) for uid, carry in state["carries"]}
        self.ratings = [tuple(float(x) for x in rating) for rating in state["ratings"]]
        self.recent = [deque(recent, maxlen=RECENT) for recent in state["recent"]]
        self.random.bit_generator.state = state["random"]
        restore_generator(self.generator, state["generator"])
