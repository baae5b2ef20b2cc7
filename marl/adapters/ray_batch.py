"""Actors of a Ray cluster as a place for workers.

An actor answers one call per step for all of its copies: a call costs 1 ms, ten times as much as a message to a process
of this machine. What goes each way is one ``bytes``, which Ray sends as it is; of objects it would look at every array.
It holds the message, and the rows of the step or of the actions as they lie in memory.

Ray's own restarts are off: an actor that came back by itself would know nothing of its copies' seeds.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from marl.adapters.faults import Tell
from marl.adapters.handle import START_SECONDS, Handle, WorkerFault
from marl.adapters.serve import OTHER, Host, Views, attempt
from marl.adapters.shared import Arena, lay_out, rows_of
from marl.adapters.spawn import THREAD_VARIABLES
from marl.cluster import Actors, joined
from marl.types import Array, EnvContractError, ResourceError, Spec, Step, TeamStep

SUCCESSORS = ("next_obs", "next_action_mask")


class Block:
    """The arrays of some copies' step and of their actions, one behind another; both ends lay them out alike."""

    def __init__(self, spec: Spec, count: int) -> None:
        """Room for ``count`` copies."""
        sizer = Arena(None)
        lay_out(spec, count, sizer)
        self.bytes = bytearray(sizer.size)
        self.step, self.actions = lay_out(spec, count, Arena(self.bytes))
        self._successors, self._actions = sizer.successors, sizer.actions

    def step_bytes(self, changed: bool) -> bytes:
        """The step, with its successors if there are any."""
        return bytes(memoryview(self.bytes)[: self._actions if changed else self._successors])

    def put_step(self, data: bytes) -> bool:
        """Take a step in; whether it fits."""
        self.bytes[: len(data)] = data
        return len(data) in (self._successors, self._actions)

    def actions_bytes(self) -> bytes:
        """The actions."""
        return bytes(memoryview(self.bytes)[self._actions :])

    def put_actions(self, data: bytes) -> None:
        """Take actions in."""
        self.bytes[self._actions :] = data


class Actor:
    """The far end: a worker's batch in an actor's process."""

    def __init__(self, first: int, count: int) -> None:
        """Copies ``first`` to ``first + count``; nothing is made yet."""
        self._count = count
        self._told: list[tuple[str, str]] = []
        self._host = Host(first, count, self._views, lambda kind, text: self._told.append((kind, text)))
        self._block: Block | None = None

    def create(self, payload: bytes) -> bytes:
        """Create the copies."""
        for name in THREAD_VARIABLES:
            os.environ[name] = "1"
        verdict, value = attempt(lambda: self._host.create(payload))
        if "torch" in sys.modules:  # the environment's, and begun before anyone could tell it
            sys.modules["torch"].set_num_threads(1)
        return self._answer(verdict, value)

    def ask(self, data: bytes) -> bytes:
        """Do what the learner asks."""
        # From the learner, over Ray, which could make us run anything.
        message, actions = pickle.loads(data)
        if actions is not None and self._block is not None:
            self._block.put_actions(actions)
        verdict, value = attempt(lambda: self._host.handle(*message))
        stepped = verdict == "done" and message[0] in ("step", "reset", "load")
        return self._answer(verdict, value, stepped)

    def close(self) -> None:
        """Close the environment."""
        self._host.close()

    def _views(self, spec: Spec) -> Views:
        self._block = Block(spec, self._count)
        return self._block.step, self._block.actions

    def _answer(self, verdict: str, value: Any, stepped: bool = False) -> bytes:
        told, self._told = self._told, []
        rows = self._block.step_bytes(value[0]) if stepped and self._block is not None else None
        return pickle.dumps((os.getpid(), told, verdict, value, rows), protocol=5)


class Remote(Handle):
    """The learner's end of one actor."""

    def __init__(self, ray: Any, actors: int, index: int, first: int, count: int, payload: bytes, hear: Tell) -> None:
        """``actors``: how many there are in all; nothing is started yet."""
        super().__init__(index, first, count, hear)
        self._ray, self._actors, self._payload = ray, actors, payload
        self._actor: Any = None
        self._answer: Any = None  # a reference to the answer that is due
        self._pid = 0

    @property
    def pid(self) -> int:
        """The process id on its node, 0 while it is not known."""
        return self._pid

    def lay(self, spec: Spec, step: Step, actions: tuple[Array, ...]) -> None:
        """Learn where in the whole step this actor's rows belong."""
        self._block = Block(spec, self.count)
        ours, mine = rows_of(step, self.rows), self._block.step
        self._now, self._next = _pairs(ours, mine, False), _pairs(ours, mine, True)
        self._given = [(mine, all_[self.rows]) for mine, all_ in zip(self._block.actions, actions, strict=True)]

    def start(self) -> None:
        """Ask the cluster for an actor, and the actor for its copies."""
        self.fault = WorkerFault("killed", "this process has left the cluster")
        if not self._ray.is_initialized():
            return
        remote = self._ray.remote(Actor).options(num_cpus=1, max_restarts=0, max_task_retries=0)
        self._actor = remote.remote(self.first, self.count)
        self._answer = self._actor.create.remote(self._payload)

    def send(self, message: tuple[Any, ...]) -> None:
        """Ask for something; an answer that nobody has read is forgotten."""
        if self._actor is None:
            return
        actions = None
        if message[0] == "step":
            for mine, given in self._given:
                mine[...] = given
            actions = self._block.actions_bytes()
        try:
            self._answer = self._actor.ask.remote(pickle.dumps((message, actions), protocol=5))
        except self._ray.exceptions.RayError as error:
            self._lose("killed", _told(error))

    def receive(self, until: float) -> Any:
        """The answer to the last question. Raises what the actor reports, or a fault if it is lost."""
        if self._actor is None:
            raise self.fault
        try:
            data = self._ray.get(self._answer, timeout=max(until - time.monotonic(), 0.001))
        except self._ray.exceptions.GetTimeoutError:
            if not self._pid:
                self.kill()
                raise not_begun(self._ray, self.index, self._actors) from None
            raise self._lose("hung", "no answer within the deadline") from None
        except self._ray.exceptions.RayError as error:
            fault = fault_of(self._ray, error)
            raise self._lose(fault.kind, fault.detail) from None
        # From an actor that runs what we have sent it, over Ray, which has unpickled its calls and answers anyway.
        self._pid, told, verdict, value, rows = pickle.loads(data)
        for kind, text in told:
            self.hear(kind, text)
        value = self.judged(verdict, value)
        if rows is not None:
            if not self._block.put_step(rows):
                raise EnvContractError(OTHER)
            for ours, mine in (*self._now, *(self._next if value[0] else ())):
                ours[...] = mine
        return value

    def _lose(self, kind: str, detail: str) -> WorkerFault:
        self.fault = WorkerFault(kind, detail)
        self.kill()
        return self.fault

    def kill(self) -> None:
        """End the actor's process at once; Ray does it by signal where the process does not."""
        actor, self._actor, self._answer, self._pid = self._actor, None, None, 0
        if actor is not None and self._ray.is_initialized():  # else Ray has ended it
            with contextlib.suppress(Exception):
                self._ray.kill(actor)

    def ask_to_close(self) -> None:
        """Let the environment close itself."""
        if self._actor is not None and self._ray.is_initialized():
            with contextlib.suppress(Exception):
                self._answer = self._actor.close.remote()

    def close(self, until: float) -> None:
        """Wait for that, then end the actor."""
        if self._actor is not None and self._ray.is_initialized():
            with contextlib.suppress(Exception):
                self._ray.wait([self._answer], timeout=max(until - time.monotonic(), 0.001))
        self.kill()


class Cluster:
    """A Ray cluster as a place for workers; this process belongs to it for as long as they live."""

    called, alone = "ray actor", "workers=0 and without ray"

    def __init__(self, actors: Actors) -> None:
        """Join the cluster, or begin one. Raises ConfigError without Ray, ResourceError without so many cores."""
        self._actors = actors
        self._handles: list[Remote] = []
        self._ray, self._leave = joined_with(actors)

    def worker(self, index: int, first: int, count: int, num_envs: int, payload: bytes, hear: Tell) -> Handle:
        """A handle on one actor, not started yet."""
        self._handles.append(Remote(self._ray, self._actors.count, index, first, count, payload, hear))
        return self._handles[-1]

    def lay(self, spec: Spec, num_envs: int) -> tuple[Step, tuple[Array, ...]]:
        """The arrays of all copies, in this process's own memory."""
        block = Block(spec, num_envs)
        for handle in self._handles:
            handle.lay(spec, block.step, block.actions)
        return block.step, block.actions

    def close(self) -> None:
        """Leave the cluster; it ends if it began with us."""
        self._leave.close()


def on_ray(actors: Actors) -> Callable[[int], Cluster]:
    """What makes the place for so many workers, at most ``actors``."""
    return lambda count: Cluster(Actors(count, actors.address))


def _pairs(ours: Step, mine: Step, successors: bool) -> list[tuple[Array, Array]]:
    """What is copied from where to where: the successors, or everything else."""
    found: list[tuple[Array | None, Array | None]] = []
    for to, source in zip(ours.teams, mine.teams, strict=True):
        names = [one.name for one in fields(TeamStep) if (one.name in SUCCESSORS) == successors]
        found += [(getattr(to, name), getattr(source, name)) for name in names]
    names = ["next_state"] if successors else ["state", "started", "discarded"]
    found += [(getattr(ours, name), getattr(mine, name)) for name in names]
    return [(to, source) for to, source in found if to is not None and source is not None]


def joined_with(actors: Actors) -> tuple[Any, contextlib.ExitStack]:
    """Ray's module in a cluster with a core for each actor, and what leaves it. Raises ConfigError, ResourceError."""
    with contextlib.ExitStack() as undo:
        ray = undo.enter_context(joined(actors.address, max(actors.count, os.cpu_count() or 1)))
        if _cores(ray) < actors.count:
            raise ResourceError(
                f"ray: {actors.count} actors need a core each, and the cluster has {_cores(ray):g}; lower actors, or "
                "add nodes"
            )
        return ray, undo.pop_all()


def not_begun(ray: Any, index: int, actors: int) -> ResourceError:
    """What to say of an actor that does not begin: one of so many."""
    free = "the cluster does not say how many are"
    with contextlib.suppress(Exception):
        free = f"{ray.available_resources().get('CPU', 0):g} of {_cores(ray):g} are"
    return ResourceError(
        f"ray: actor {index} did not begin within {START_SECONDS:g} s: one core each for {actors} actors has to be "
        f"free ({free}); lower actors, or wait"
    )


def fault_of(ray: Any, error: BaseException) -> WorkerFault:
    """What one of Ray's errors says of an actor."""
    if isinstance(error, ray.exceptions.RayTaskError) or getattr(error, "actor_init_failed", False):
        last = str(error).strip().splitlines()[-1].strip()  # our own code never raises where it is found and new enough
        return WorkerFault("raised", f"{last}; does this node have the same marl?")
    return WorkerFault("killed", _told(error))


def _cores(ray: Any) -> float:
    return float(ray.cluster_resources().get("CPU", 0.0))


def _told(error: BaseException) -> str:
    """Ray's words, without the lines of numbers between them."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return " ".join(" ".join(lines).split())
