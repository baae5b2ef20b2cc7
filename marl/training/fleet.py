"""Actors of a Ray cluster that collect whole fragments, as the learner sees them.

Back-pressure: an actor has at most two fragments on its way, the one that it collects and one that it begins next, so
it never waits for the learner; and fragments are asked for only as long as all that are on their way would be fresh
enough when they are learnt from, if they came in that order. A slow actor's may still be overtaken: what comes with a
policy older than the bound is thrown away and counted.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from marl.adapters.faults import Ledger
from marl.adapters.handle import START_SECONDS, WorkerFault
from marl.adapters.ray_batch import fault_of, joined_with, not_begun
from marl.cluster import Actors
from marl.training.collecting import Collected, Collector, Policies
from marl.training.intake import Intake
from marl.types import ConfigError, EnvContractError, MarlError, ResourceError, Spec

AT_ONCE = 2  # fragments on their way to and from one actor
RESTARTS = 3  # of one actor in a row, without a fragment in between
STEP_SECONDS = 60.0  # that an actor may take for a row of a fragment
POLL_SECONDS = 1.0


@dataclass(eq=False)
class Actor:
    """The learner's end of one actor."""

    rank: int
    handle: Any = None
    generation: int = 0  # how often it was replaced
    strikes: int = 0  # how often since it sent a fragment
    pid: int = 0  # 0 while it has not begun
    since: float = 0.0  # when it was last heard of, or asked after it had nothing to do
    faults: dict[str, int] = field(default_factory=dict)  # of its copies


@dataclass(frozen=True)
class Asked:
    """What an actor was asked for. version: of the policies for a fragment; None: to make its copies."""

    answer: Any  # Ray's reference
    actor: Actor
    version: int | None


class Fleet:
    """Actors with all copies among them; it stands where otherwise the copies stand that train.

    spec: of the environment.
    num_envs: copies of all actors.
    rows: of a fragment.
    bound: by how many updates policies may be stale.
    intakes: where each team's parts of the fragments go.
    counts: environment steps ``begun``, ``learned`` and ``discarded``; what was begun and is neither is on its way.
    """

    def __init__(
        self, actors: Actors, spec: Spec, num_envs: int, rows: int, payload: bytes, seed: int, begun_at: int,
        counts: dict[str, Any],
    ) -> None:  # fmt: skip
        """Ask the cluster for the actors.

        Args:
            actors: how many, where, and how stale policies may be.
            spec, num_envs, rows: as above.
            payload: what actors make their learners and copies of.
            seed: of the copies; those of replacements derive from it.
            begun_at: the step at which they begin; another than 0 makes other episodes.
            counts: is kept up to date.

        Raises:
            ConfigError: without Ray, or for an address that is none.
            ResourceError: without so many cores, or if nobody answers.
        """
        self.spec, self.num_envs, self.rows, self.counts = spec, num_envs, rows, counts
        self._size, self.bound = actors.count, actors.staleness or 0
        self._payload, self._seed, self._begun_at = payload, seed, begun_at
        self.intakes: list[Intake] = []
        self.lost_episodes = 0
        self._lost: Counter[str] = Counter()
        self._ledger = Ledger(spec.env)
        self._asked: list[Asked] = []  # the oldest first
        self._policies: tuple[int, Any] | None = None  # the newest in the cluster, by version
        self._ray, leave = joined_with(actors)
        self.actors = [Actor(rank) for rank in range(self._size)]
        self._finalizer = weakref.finalize(self, _end, self._ray, self.actors, leave, os.getpid())
        for actor in self.actors:
            self._start(actor)

    @property
    def copies(self) -> int:
        """Copies of one actor."""
        return self.num_envs // self._size

    @property
    def steps(self) -> int:
        """Environment steps of one fragment."""
        return self.rows * self.copies

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong and was survived, by kind."""
        total = Counter(self._lost)
        for actor in self.actors:
            total.update(actor.faults)
        total.pop("lost_episodes", None)
        return dict(total)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the actors; 0 for one that has not begun."""
        return tuple(actor.pid for actor in self.actors)

    def take(self, version: int, policies: Callable[[], Policies]) -> list[tuple[int, Collected]]:
        """The next fragments to learn from, as many as actors, whoever sent them, with the numbers of these.

        They are those that came first, in the order of actors. ``version``: of the policies that learn.

        Raises:
            ResourceError: if an actor is lost too often in a row.
            EnvContractError: if the environment breaks its contract.
        """
        if not self._finalizer.alive:
            raise ConfigError("the actors were closed; make the system anew")
        taken: list[tuple[int, Collected]] = []
        while len(taken) < self._size:
            self._ask(version, policies, len(taken))
            answered = self._answer()
            if answered is None:
                continue
            actor, found = answered
            if version - found.version > self.bound:
                self.counts["discarded"] += self.steps
            else:
                taken.append((actor.rank, found))
        self.counts["learned"] += self._size * self.steps
        return sorted(taken, key=lambda one: one[0])

    def close(self) -> None:
        """End the actors, and leave the cluster; harmless when repeated."""
        self._drop(lambda one: True)
        self._finalizer()

    def _ask(self, version: int, policies: Callable[[], Policies], waiting: int) -> None:
        """Ask for fragments, as far as the bound allows; ``waiting``: those that have come."""
        on_way = Counter(one.actor for one in self._asked if one.version is not None)
        for depth in range(min(AT_ONCE, self.bound + 1)):
            for actor in self.actors:
                room = on_way.total() + waiting < self._size * (self.bound + 1)
                if not room or on_way[actor] > depth:
                    continue
                if self._policies is None or self._policies[0] != version:
                    self._policies = version, self._ray.put(pickle.dumps(policies(), protocol=5))
                if not any(one.actor is actor for one in self._asked):
                    actor.since = time.monotonic()
                answer = actor.handle.collect.remote(self._policies[1])
                self._asked.append(Asked(answer, actor, version))
                on_way[actor] += 1
                self.counts["begun"] += self.steps

    def _answer(self) -> tuple[Actor, Collected] | None:
        """The fragment that was asked for first, of those that have come; None: there is none yet."""
        ready, _ = self._ray.wait([one.answer for one in self._asked], num_returns=1, timeout=POLL_SECONDS)
        if not ready:
            self._look_for_hung()
            return None
        place = next(k for k, one in enumerate(self._asked) if one.answer == ready[0])
        asked = self._asked[place]
        actor = asked.actor
        try:
            data = self._ray.get(asked.answer)
        except self._ray.exceptions.RayError as error:
            self._replace(actor, fault_of(self._ray, error))
            return None
        # From an actor that runs what we have sent it, over Ray, which has unpickled its calls and answers anyway.
        actor.pid, told, verdict, value = pickle.loads(data)
        actor.since = time.monotonic()
        for kind, text in told:
            self._ledger.hear(kind, text)
        if verdict == "breach":
            kind, text, where = value
            raise kind(text) from WorkerFault("raised", where)
        if verdict == "raised":
            if asked.version is None:
                raise EnvContractError(f"ray actor {actor.rank} could not make the environment: {value}")
            self._replace(actor, WorkerFault("raised", value))
            return None
        del self._asked[place]
        if asked.version is None:
            return None
        assert isinstance(value, Collected)
        actor.faults, actor.strikes = value.faults, 0
        return actor, value

    def _start(self, actor: Actor) -> None:
        remote = self._ray.remote(Collector).options(num_cpus=1, max_restarts=0, max_task_retries=0)
        actor.handle, actor.pid, actor.since = remote.remote(actor.rank, self._size), 0, time.monotonic()
        seeds = None
        if self._begun_at or actor.generation:
            key = (self._begun_at, actor.rank, actor.generation)
            copies, actions = np.random.SeedSequence(self._seed, spawn_key=key).generate_state(2, np.uint32)
            seeds = int(copies), int(actions)
        self._asked.append(Asked(actor.handle.create.remote(self._payload, seeds), actor, None))

    def _look_for_hung(self) -> None:
        now = time.monotonic()
        for actor in {one.actor: None for one in self._asked}:
            if not actor.pid and now - actor.since > START_SECONDS:
                raise not_begun(self._ray, actor.rank, self._size)
            if actor.pid and now - actor.since > STEP_SECONDS * self.rows:
                self._replace(actor, WorkerFault("hung", f"no fragment within {STEP_SECONDS * self.rows:g} s"))

    def _replace(self, actor: Actor, fault: WorkerFault) -> None:
        """Put another actor in the place of one that is lost. Raises after too many in a row."""
        named = f"ray actor {actor.rank} (copies {actor.rank * self.copies} to {(actor.rank + 1) * self.copies - 1})"
        self._ledger.first(fault.kind, f"{named} is replaced: {fault}")
        self._lost[fault.kind] += 1
        self._lost.update(actor.faults)
        self.lost_episodes += self.copies + actor.faults.get("lost_episodes", 0)
        actor.faults = {}
        actor.strikes += 1
        self._drop(lambda one: one.actor is actor)
        _kill(self._ray, actor)
        if actor.strikes > RESTARTS:
            raise _given_up(named, actor.strikes, fault)
        actor.generation += 1
        self._start(actor)

    def _drop(self, which: Callable[[Asked], bool]) -> None:
        """Wait for some fragments no more: what was begun of them is thrown away."""
        dropped = [one for one in self._asked if which(one)]
        self._asked = [one for one in self._asked if not which(one)]
        self.counts["discarded"] += self.steps * sum(one.version is not None for one in dropped)


def _given_up(named: str, strikes: int, fault: WorkerFault) -> MarlError:
    text = f"{named} failed {strikes} times in a row and is not replaced again; last: {fault}"
    if fault.kind == "raised":
        return EnvContractError(f"{text}\nfix the environment, or try it alone without ray")
    return ResourceError(f"{text}\nlook for memory limits of the nodes")


def _kill(ray: Any, actor: Actor) -> None:
    """End an actor's process at once."""
    handle, actor.handle = actor.handle, None
    if handle is not None and ray.is_initialized():
        with contextlib.suppress(Exception):
            ray.kill(handle)


def _end(ray: Any, actors: list[Actor], leave: contextlib.ExitStack, owner: int) -> None:
    """End all actors, politely for two seconds, and leave the cluster. Does nothing in a forked child."""
    if os.getpid() != owner:
        return
    if ray.is_initialized():
        with contextlib.suppress(Exception):
            closing = [actor.handle.close.remote() for actor in actors if actor.handle is not None and actor.pid]
            if closing:
                ray.wait(closing, num_returns=len(closing), timeout=2.0)
    for actor in actors:
        _kill(ray, actor)
    leave.close()
