"""A cluster in this process with a clock of its own: what actors answer, in the order in which they would."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

import marl
from marl.training import fleet

COPIES = 4  # of small systems


class RayError(Exception):
    """An actor is gone."""


class RayTaskError(RayError):
    """An actor's code raised."""


@dataclass(eq=False)
class Handle:
    """An actor. busy: until when; calls: how many rollouts it was asked for."""

    ray: Pretend
    inner: Any
    rank: int
    busy: float = 0.0
    dead: bool = False
    calls: int = 0

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._call(name, arguments))

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Answer:
        took = self.ray.takes.get(self.rank, 1.0) if name == "collect" else 0.0
        self.busy = max(self.busy, self.ray.now) + took
        self.calls += name == "collect"
        return Answer(self, self.busy, None if self.dead else getattr(self.inner, name)(*arguments))


@dataclass(eq=False)
class Answer:
    """What an actor answers, and when."""

    actor: Handle
    at: float
    value: Any


@dataclass
class Pretend:
    """Ray's module, as far as a fleet needs it.

    takes: the time that each actor takes for a rollout, 1 unless said.
    update: the time that the learner takes for an update.
    handles: every actor so far.
    """

    takes: Mapping[int, float] = field(default_factory=dict)
    update: float = 0.0
    now: float = 0.0
    handles: list[Handle] = field(default_factory=list)
    exceptions: Any = field(default_factory=lambda: SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))

    def remote(self, cls: type) -> Any:
        def make(rank: int, size: int) -> Handle:
            self.handles.append(Handle(self, cls(rank, size), rank))
            return self.handles[-1]

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def put(self, value: Any) -> Any:
        self.now += self.update  # there are new policies after every update
        return value

    def wait(self, answers: list[Answer], num_returns: int = 1, timeout: float = 0.0) -> tuple[list[Answer], Any]:
        gone = [one for one in answers if one.actor.dead]
        if gone:
            return gone[:1], ()
        self.now = max(self.now, min(one.at for one in answers))
        return [one for one in answers if one.at <= self.now][:num_returns], ()

    def get(self, answer: Answer) -> Any:
        if answer.actor.dead:
            raise RayError("it was killed")
        return answer.value

    def kill(self, handle: Handle) -> None:
        handle.dead = True

    def is_initialized(self) -> bool:
        return True


def made(agents: Any, env: Any, **how: Any) -> marl.MultiAgentSystem:
    """A small system in one process."""
    return marl.MultiAgentSystem(agents, env, **{"num_envs": COPIES, "seed": 7, **how})


def asynchronous(agents: Any, env: Any, actors: int = 2, staleness: int = 2, **how: Any) -> marl.MultiAgentSystem:
    """The same with actors that hold the policy."""
    return made(agents, env, ray="auto", actors=actors, staleness=staleness, **how)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """A pretended cluster in which fleets begin."""
    ray = Pretend()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(fleet, "joined_with", lambda actors: (ray, contextlib.ExitStack()))
    return ray
