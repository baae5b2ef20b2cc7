"""Copies of an environment spread over worker processes that share memory with the learner.

Each worker hosts one in-process batch over a contiguous range of copies and writes its share of every step straight
into one block of shared memory; a socket carries commands and small answers only. The block is an anonymous file: it
has no name, so nothing can be left behind however the processes end.

A worker is a fresh interpreter (:mod:`marl.adapters.spawn`): it does not pay for what the user's main module imports,
and environments may have children of their own. A worker for mpe2 is ready after 0.4 s.

Waiting blocks. With two workers on two cores an exchange costs 80 us; spinning for 50 us first saved 30 us of it where
one worker serves alone and cost up to 60 us where two compete with the learner for the cores.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import math
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from types import FunctionType, MethodType, ModuleType
from typing import Any

import cloudpickle
import numpy as np

from marl.adapters.faults import Ledger, Tell
from marl.adapters.lifecycle import name_of
from marl.adapters.spawn import die_with, kill, spawn
from marl.types import (
    Array,
    BatchEnv,
    CheckpointError,
    ConfigError,
    EnvContractError,
    Episode,
    MarlError,
    ResourceError,
    Spec,
    Step,
    TeamStep,
    legal_widths,
)

START_SECONDS = 120.0  # to import the environment's modules and create the copies
FAULTS = ("killed", "hung", "exited", "raised")
Counted = tuple[dict[str, int], list[tuple[int, str, str]]]  # faults by kind, and whose episodes were lost and why
Published = tuple[bool, tuple[Episode, ...], Counted | None]  # successors differ, finished, what went wrong

_dumps: Callable[[object], bytes] = cloudpickle.dumps  # typed names for an untyped library
_by_value: Callable[[ModuleType], None] = cloudpickle.register_pickle_by_value
_by_name: Callable[[ModuleType], None] = cloudpickle.unregister_pickle_by_value


class WorkerBatch:
    """A ``BatchEnv`` whose copies live in worker processes; results do not depend on how many there are.

    factory, num_envs, patterns, max_steps, on_bad_obs, env_kwargs: as for ``marl.adapters.in_process``; the factory may
        be a lambda or a closure.
    workers: how many processes; more than ``num_envs`` are not started. Copies are divided as evenly as possible.
    deadline: seconds a worker may take for one step or reset before it counts as hung.
    restarts: how often in a row one worker is replaced; an episode finished by one of its copies starts a new count.
    build: creates a worker's batch, ``marl.adapters.in_process`` unless given; called as
        ``build(factory, count, patterns, first_copy=, max_steps=, on_bad_obs=, env_kwargs=)`` inside the worker.

    A worker that is killed, hangs, exits or whose environment raises is replaced; its copies start new episodes from
    fresh seeds derived from ``reset``'s, and the step marks them ``discarded`` and ``started``. ``faults`` counts what
    happened, and the first of each kind is logged.
    After too many restarts in a row: EnvContractError if the environment itself raised or exited, ResourceError if the
    worker was killed or hung; both name the worker and what it last said. A breach of the environment contract is not
    worth a restart: it is raised here as it was there.
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        num_envs: int,
        patterns: Sequence[str] | None = None,
        workers: int = 2,
        *,
        max_steps: int | None = None,
        on_bad_obs: str = "error",
        env_kwargs: Mapping[str, Any] | None = None,
        deadline: float = 60.0,
        restarts: int = 3,
        build: Callable[..., BatchEnv] | None = None,
    ) -> None:
        """Start the workers and wait until all copies exist."""
        if os.name != "posix":
            raise ConfigError("worker processes need Linux or macOS; use workers=0 on this system")
        if num_envs < 1 or workers < 1:
            raise ConfigError(f"num_envs and workers must be at least 1, got num_envs={num_envs}, workers={workers}")
        if not (deadline > 0 and math.isfinite(deadline)):
            raise ConfigError(f"deadline must be a positive number of seconds, got {deadline}")
        self._num_envs = num_envs
        self._deadline = deadline
        self._restarts = restarts
        self._seed = 0
        self._options: Mapping[str, Any] | None = None
        self._begun = False  # reset or loaded at least once
        self._stepping: float | None = None  # when the step under way was sent
        self._faults = dict.fromkeys(FAULTS, 0)
        self._ledger = Ledger("the environment")

        options = {"max_steps": max_steps, "on_bad_obs": on_bad_obs, "env_kwargs": env_kwargs}
        payload = _sendable(build, factory, patterns, options)
        self._memory = _anonymous_file("marl-step")
        hear = self._ledger.hear
        edges = [num_envs * k // min(workers, num_envs) for k in range(min(workers, num_envs) + 1)]
        self._workers = [
            _Worker(k, first, stop - first, num_envs, payload, self._memory, hear)
            for k, (first, stop) in enumerate(pairwise(edges))
        ]
        self._finalizer = weakref.finalize(self, _close_all, self._workers, self._memory, os.getpid())
        try:
            self._spec = self._start()
            self._ledger.env = self._spec.env
            self._map_memory()
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> Spec:
        """What the environment looks like; worker 0's answer, which all others must share."""
        return self._spec

    @property
    def num_envs(self) -> int:
        """Copies over all workers."""
        return self._num_envs

    @property
    def faults(self) -> dict[str, int]:
        """How often workers were ``killed``, ``hung``, ``exited`` or ``raised``, and what the copies counted.

        Of the latter workers report when an episode ends.
        """
        total = dict(self._faults)
        for worker in self._workers:
            for fault, count in worker.counted.items():
                total[fault] = total.get(fault, 0) + count
        return total

    @property
    def lost_episodes(self) -> int:
        """How many episodes were thrown away, over all copies."""
        return self._ledger.lost

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers, in the order of their copies; 0 for one that is down."""
        return tuple(worker.pid for worker in self._workers)

    def reset(self, seed: int, options: Mapping[str, Any] | None = None) -> Step:
        """Start every copy afresh; copy ``e`` draws from a stream that depends on ``(seed, e)`` alone."""
        self._refuse_closed()
        self._seed, self._options, self._stepping = seed, options, None
        for worker in self._workers:
            worker.generation, worker.strikes, worker.pending = 0, 0, False
        faults = self._ask(lambda worker: ("reset", seed, options), self._deadline)
        self._replace(faults, self._fresh_reset)
        self._begun = True
        return self._whole_step(faults, {})

    def step(self, actions: Sequence[Array]) -> Step:
        """Take one step in every copy."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Sequence[Array]) -> None:
        """Hand the actions out and return at once; the arrays of the last step are being overwritten from here on."""
        self._refuse_closed()
        if not self._begun:
            raise ConfigError("step before reset: call reset(seed) first")
        if len(actions) != len(self._actions):
            raise ConfigError(f"expected actions for {len(self._actions)} teams, got {len(actions)}")
        for team, shared, given in zip(self._spec.teams, self._actions, actions, strict=True):
            if np.shape(given) != shared.shape:
                raise ConfigError(f"actions of team {team.name!r}: expected {shared.shape}, got {np.shape(given)}")
            np.copyto(shared, given, casting="same_kind")
        self._stepping = time.monotonic()
        for worker in self._workers:
            if not worker.pending:
                worker.send(("step",))

    def step_wait(self) -> Step:
        """Wait for the step handed out by ``step_async``; workers that fail it are replaced before this returns."""
        if self._stepping is None:
            raise ConfigError("step_wait() without step_async()")
        stepped = [worker for worker in self._workers if not worker.pending]
        lost = [worker for worker in self._workers if worker.pending]  # replaced since the last step, not yet reported
        replies, faults = self._gather(stepped, self._stepping + self._deadline)
        self._stepping = None
        for worker, (_, finished, _) in replies.items():
            if finished:
                worker.strikes = 0
        for worker in lost:
            worker.pending = False
        for worker, fault in faults.items():
            self._mourn(worker, fault)
        self._replace(faults, self._fresh_reset)
        return self._whole_step([*lost, *faults], replies)

    def state_dict(self) -> dict[str, Any]:
        """The state of all copies.

        As long as no worker had to be replaced since ``reset`` it has the form of an in-process batch's state, and can
        be loaded with any number of workers. Otherwise it holds a part for every worker, None for one found dead,
        whose copies start anew on loading.
        """
        self._refuse_closed()
        if not self._begun:
            raise ConfigError("state_dict before reset: call reset(seed) first")
        for worker in self._workers:
            worker.send(("state",))
        replies, _ = self._gather(self._workers, time.monotonic() + self._deadline)
        states = [replies.get(worker) for worker in self._workers]
        if all(
            w.generation == 0 and not w.pending and _is_divisible(s) for w, s in zip(self._workers, states, strict=True)
        ):
            copies = [copy for state in states if state is not None for copy in state["copies"]]
            return {**(states[0] or {}), "faults": self.faults, "lost": self._ledger.lost, "copies": copies}
        parts = [
            {
                "first_copy": worker.first,
                "count": worker.count,
                "generation": worker.generation + (state is None),
                "pending": worker.pending or state is None,
                "state": state,
            }
            for worker, state in zip(self._workers, states, strict=True)
        ]
        common = {"seed": self._seed, "options": self._options, "faults": self.faults, "lost": self._ledger.lost}
        return {**common, "parts": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> Step:
        """Go back to a saved state. One with a part for every worker needs the number of workers it was saved with."""
        self._refuse_closed()
        parts = state["parts"] if "parts" in state else self._divide(state)
        saved = [(part["first_copy"], part["count"]) for part in parts]
        here = [(worker.first, worker.count) for worker in self._workers]
        if saved != here:
            raise CheckpointError(
                f"the environment was saved with {len(saved)} workers over {sum(count for _, count in saved)} copies "
                f"and cannot be loaded with {len(here)} over {self._num_envs}; use the same workers and num_envs"
            )
        self._seed, self._options, self._stepping = int(state["seed"]), state["options"], None
        for worker, part in zip(self._workers, parts, strict=True):
            worker.generation, worker.strikes, worker.pending = int(part["generation"]), 0, bool(part["pending"])

        def message(worker: _Worker) -> tuple[Any, ...]:
            part = parts[worker.index]
            if part["state"] is None:
                return ("reset", self._derived_seed(worker), self._options)
            return ("load", {**part["state"], "faults": {}})

        self._replace(self._ask(message, START_SECONDS), message)
        known = {str(kind): int(count) for kind, count in state["faults"].items()}
        self._faults = {**dict.fromkeys(FAULTS, 0), **known}
        self._ledger.lost = int(state.get("lost", 0))
        for worker in self._workers:
            worker.counted = {}
        self._begun = True
        return self._whole_step([worker for worker in self._workers if worker.pending], {})

    def _divide(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Deal the copies of an in-process batch's state out to the workers."""
        if not _is_divisible(state) or len(state["copies"]) != self._num_envs:
            found = len(state["copies"]) if _is_divisible(state) else "no"
            raise CheckpointError(f"the saved environment has {found} copies, expected {self._num_envs}")
        parts = []
        for worker in self._workers:
            mine = {**state, "first_copy": worker.first, "copies": state["copies"][worker.rows]}
            parts.append(
                {"first_copy": worker.first, "count": worker.count, "generation": 0, "pending": False, "state": mine}
            )
        return parts

    def close(self) -> None:
        """End the workers; harmless when repeated. Happens by itself at garbage collection and at interpreter exit."""
        self._finalizer()

    def _refuse_closed(self) -> None:
        if not self._finalizer.alive:
            raise ConfigError("the worker processes were closed; make the environment anew")

    def _start(self) -> Spec:
        """Start all workers together and agree on the specification."""
        for worker in self._workers:
            worker.start()
        _, faults = self._gather(self._workers, time.monotonic() + START_SECONDS)
        for worker, fault in faults.items():
            if fault.kind == "raised":
                raise EnvContractError(f"worker {worker.index} could not create the environment: {fault.detail}")
        self._replace(faults, None)
        for worker in self._workers:
            worker.send(("spec",))
        answers, faults = self._gather(self._workers, time.monotonic() + START_SECONDS)
        answers.update(self._replace(faults, lambda worker: ("spec",)))  # those lost while their fellows still started
        # What our own children answer, over socket pairs that nobody else holds.
        specs: list[Spec] = [pickle.loads(answers[worker]) for worker in self._workers]
        for worker, spec in zip(self._workers, specs, strict=True):
            if spec != specs[0]:
                raise EnvContractError(
                    f"worker {worker.index} sees other agents or spaces than worker 0; "
                    "the factory must make the same environment every time"
                )
        return specs[0]

    def _map_memory(self) -> None:
        """Size the shared block and lay the step over it."""
        sizer = _Arena(None)
        _lay_out(self._spec, self._num_envs, sizer)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._memory, 0, sizer.size)
            else:
                os.ftruncate(self._memory, sizer.size)
            block = mmap.mmap(self._memory, sizer.size)
        except OSError as error:
            raise ResourceError(
                f"no room for {sizer.size / 2**20:.1f} MiB of shared memory for {self._num_envs} copies ({error}); "
                "lower num_envs or use workers=0"
            ) from error
        self._step, self._actions = _lay_out(self._spec, self._num_envs, _Arena(block))
        self._same = tuple(replace(team, next_obs=team.obs, next_legal=team.legal) for team in self._step.teams)

    def _ask(self, message: Callable[[_Worker], tuple[Any, ...]], seconds: float) -> dict[_Worker, _WorkerFault]:
        """Have every worker do something; returns those that did not."""
        for worker in self._workers:
            worker.send(message(worker))
        return self._gather(self._workers, time.monotonic() + seconds)[1]

    def _gather(
        self, workers: Iterable[_Worker], until: float
    ) -> tuple[dict[_Worker, Any], dict[_Worker, _WorkerFault]]:
        """Everyone's answer, or why there is none. Raises a contract breach only when all have been heard."""
        replies: dict[_Worker, Any] = {}
        faults: dict[_Worker, _WorkerFault] = {}
        breaches: list[MarlError] = []
        for worker in workers:
            try:
                replies[worker] = worker.receive(until)
            except _WorkerFault as fault:
                faults[worker] = fault
            except MarlError as breach:
                breaches.append(breach)
        if breaches:
            raise breaches[0]
        return replies, faults

    def _replace(
        self, faults: Mapping[_Worker, _WorkerFault], message: Callable[[_Worker], tuple[Any, ...]] | None
    ) -> dict[_Worker, Any]:
        """Put new processes in the place of failed ones and have them answer ``message``, within the restart budget."""
        answers: dict[_Worker, Any] = {}
        while faults:
            for worker, fault in faults.items():
                self._faults[fault.kind] += 1
                self._ledger.first(fault.kind, f"{self._named(worker)} is replaced: {fault}")
                for counted, count in worker.counted.items():
                    self._faults[counted] = self._faults.get(counted, 0) + count
                worker.counted = {}
                worker.strikes += 1
                worker.kill()
                if worker.strikes > self._restarts:
                    raise self._give_up(worker, fault)
            time.sleep(max(_back_off(worker.strikes) for worker in faults))
            for worker in faults:
                worker.generation += 1
                worker.start()
            ready, again = self._gather(faults, time.monotonic() + START_SECONDS)
            if message is not None:
                for worker in ready:
                    worker.send(message(worker))
                answered, failed = self._gather(ready, time.monotonic() + self._deadline)
                answers.update(answered)
                again.update(failed)
            faults = again
        return answers

    def _mourn(self, worker: _Worker, fault: _WorkerFault) -> None:
        """The episodes of a worker's copies are lost with it. Raises if they are some of too many."""
        for copy in range(worker.first, worker.first + worker.count):
            self._ledger.lose(copy, fault.kind, f"{self._named(worker)}: {fault}")

    def _named(self, worker: _Worker) -> str:
        return f"worker {worker.index} (copies {worker.first} to {worker.first + worker.count - 1})"

    def _give_up(self, worker: _Worker, fault: _WorkerFault) -> MarlError:
        """The error that ends a run whose worker does not come back."""
        text = f"{self._named(worker)} failed {worker.strikes} times in a row and is not restarted again; last: {fault}"
        if fault.kind in ("raised", "exited"):
            return EnvContractError(f"{text}\nfix the environment, or try it alone with workers=0")
        advice = f"look for memory limits, or raise deadline (now {self._deadline:g} s) or restarts"
        return ResourceError(f"{text}\n{advice}")

    def _derived_seed(self, worker: _Worker) -> int:
        """The seed of a worker's replacement: fresh for every replacement, the same in every repetition of the run."""
        sequence = np.random.SeedSequence(self._seed, spawn_key=(worker.first, worker.generation))
        return int(sequence.generate_state(1)[0])

    def _fresh_reset(self, worker: _Worker) -> tuple[Any, ...]:
        """What a replacement is told."""
        return ("reset", self._derived_seed(worker), self._options)

    def _whole_step(self, lost: Iterable[_Worker], replies: Mapping[_Worker, Published]) -> Step:
        """The step over all copies; the arrays are already in place, except where workers differ in what they wrote."""
        step = self._step
        for worker in lost:
            step.started[worker.rows] = True
            step.discarded[worker.rows] = True
        for worker, (_, episodes, counted) in replies.items():
            if counted is None:
                continue
            worker.counted, losses = counted
            for episode in episodes:
                self._ledger.end(episode.copy)
            for loss in losses:
                self._ledger.lose(*loss)
        finished = tuple(episode for _, episodes, _ in replies.values() for episode in episodes)
        if not any(changed for changed, _, _ in replies.values()):
            return Step(self._same, step.started, step.discarded, step.state, step.state, finished)
        for worker in self._workers:
            if worker not in replies or not replies[worker][0]:
                for team in step.teams:
                    team.next_obs[worker.rows] = team.obs[worker.rows]
                    if team.legal is not None and team.next_legal is not None:
                        team.next_legal[worker.rows] = team.legal[worker.rows]
                if step.state is not None and step.next_state is not None:
                    step.next_state[worker.rows] = step.state[worker.rows]
        return replace(step, finished=finished)


class _WorkerFault(Exception):
    """Why a worker did not answer: ``killed``, ``hung``, ``exited`` or ``raised``, and what it left to read."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class _Channel:
    """Whole messages over a socket, with a time limit. Small messages cost one system call each way."""

    LENGTH = struct.Struct("!Q")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()

    def send(self, message: tuple[Any, ...], seconds: float | None = None) -> None:
        """Send one message; TimeoutError if the other side does not take it."""
        data = pickle.dumps(message, protocol=5)
        self._sock.settimeout(seconds)
        self._sock.sendall(self.LENGTH.pack(len(data)) + data)

    def receive(self, seconds: float | None = None) -> tuple[Any, ...]:
        """The next message; TimeoutError if none comes, EOFError if none ever will."""
        self._sock.settimeout(seconds)
        end = self.LENGTH.size
        while len(self._received) < end or len(self._received) < (end := self._end()):
            data = self._sock.recv(1 << 18)
            if not data:
                raise EOFError
            self._received += data
        # Only the learner and the children that it has started hold the two ends of a channel.
        message: tuple[Any, ...] = pickle.loads(memoryview(self._received)[self.LENGTH.size : end].tobytes())
        del self._received[:end]
        return message

    def _end(self) -> int:
        """Where the first message in the buffer ends."""
        length: int = self.LENGTH.unpack_from(self._received)[0]
        return self.LENGTH.size + length

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class _Worker:
    """The learner's end of one worker: its process, its range of copies, and how it has fared."""

    def __init__(
        self, index: int, first: int, count: int, num_envs: int, payload: bytes, memory: int, hear: Tell
    ) -> None:
        self.index = index
        self.hear = hear  # what its copies tell of their first faults
        self.first = first
        self.count = count
        self.rows = slice(first, first + count)
        self.generation = 0  # how often its copies got a new process since reset
        self.strikes = 0  # faults since one of its copies last finished an episode
        self.counted: dict[str, int] = {}  # what its copies mended or threw away
        self.pending = False  # its copies start anew, which the next step has to tell
        self._init = (payload, first, count, num_envs)
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._trace = -1
        self._fault = _WorkerFault("exited", "never started")
        self._awaited = False  # an answer is due

    @property
    def pid(self) -> int:
        """The process id, 0 while there is no process."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; its first answer says that its copies exist."""
        with contextlib.ExitStack() as undo:
            try:
                mine, theirs = socket.socketpair()
                undo.callback(mine.close)
                with theirs:
                    trace = _anonymous_file("marl-trace")
                    undo.callback(os.close, trace)
                    fds = (theirs.fileno(), self._memory, trace)
                    self._process = spawn("marl.adapters.workers", "serve", fds)
            except OSError as error:
                raise ResourceError(f"cannot start worker {self.index} ({error}); lower workers") from error
            undo.pop_all()
        self._trace = trace
        self._channel = _Channel(mine)
        self._awaited = False
        self.send(self._init)

    def send(self, message: tuple[Any, ...]) -> None:
        """Ask for something. A worker that cannot be asked says so in ``receive``."""
        if self._process is None:
            return
        with contextlib.suppress(OSError, EOFError):
            while self._awaited:  # the caller was interrupted before it read the last answer
                self._awaited = self._channel.receive(START_SECONDS)[0] == "told"
            self._awaited = True
            self._channel.send(message, START_SECONDS)

    def receive(self, until: float) -> Any:
        """The answer to the last question. Raises what the worker reports, or a fault if it is lost."""
        if self._process is None:
            raise self._fault
        answer = None
        while answer is None:
            left = until - time.monotonic()
            try:
                answer = self._channel.receive(min(max(left, 0.001), 1.0))
            except TimeoutError:
                # Children that an environment forked may hold the socket open: look at the process itself too.
                if self._process.poll() is not None:
                    raise self._lost("exited") from None
                if time.monotonic() >= until:
                    raise self._lost("hung") from None
            except (OSError, EOFError):
                raise self._lost("exited") from None
            if answer is not None and answer[0] == "told":
                self.hear(*answer[1])
                answer = None
        verdict, value = answer
        self._awaited = False
        if verdict == "breach":
            kind, text, where = value
            raise kind(text) from _WorkerFault("raised", where)
        if verdict == "raised":
            self._fault = _WorkerFault("raised", value)
            self.kill()
            raise self._fault
        return value

    def _lost(self, kind: str) -> _WorkerFault:
        """End what is left of the process and say what happened to it."""
        assert self._process is not None
        if kind == "hung":
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR1)  # it writes where it stands, if it still can
            time.sleep(0.05)
            detail = "no answer within the deadline"
        else:
            try:
                code = self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                code = 0
            if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
                kind = "killed"
            detail = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        trace = os.pread(self._trace, 1 << 16, 0).decode(errors="replace").strip()
        self._fault = _WorkerFault(kind, f"{detail}\n{trace}" if trace else detail)
        self.kill()
        return self._fault

    def kill(self) -> None:
        """End the process, and whatever it has started itself, at once."""
        if self._process is None:
            return
        process, self._process = self._process, None
        kill(process)
        self._channel.close()
        os.close(self._trace)

    def ask_to_close(self) -> None:
        """Let the environment close itself; ``close`` follows."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._channel.send(("close",), 0.1)

    def close(self, until: float) -> None:
        """Wait for the process to end, then end it."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=max(until - time.monotonic(), 0.001))
            self.kill()


def _close_all(workers: list[_Worker], memory: int, owner: int) -> None:
    """End all workers, politely for two seconds. Does nothing in a forked child, which does not own them."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.ask_to_close()
    until = time.monotonic() + 2.0
    for worker in workers:
        worker.close(until)
    os.close(memory)


def _back_off(strikes: int) -> float:
    """Seconds to wait before a restart: none the first time, then twice as long each time."""
    return 0.0 if strikes < 2 else min(0.25 * 2.0 ** (strikes - 2), 4.0)


def _anonymous_file(name: str) -> int:
    """A file without a name, in memory where the system can: it is gone when the last process that holds it is."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _is_divisible(state: Mapping[str, Any] | None) -> bool:
    """Whether a batch's state lists its copies one by one, as that of `marl.adapters.copies.Copies` does."""
    return state is not None and isinstance(state.get("copies"), list | tuple)


def _sendable(build: object, factory: object, patterns: object, options: object) -> bytes:
    """The same for workers. Raises ConfigError that names what cannot be sent."""
    try:
        return _dumps_factory((build, factory, patterns, options))
    except Exception as error:
        where = _unpicklable(factory) or _unpicklable(options) or "something that it needs"
        raise ConfigError(
            f"workers: the function that makes the environment ({name_of(factory)}) cannot be sent to other processes "
            f"because of {where} ({type(error).__name__}: {' '.join(str(error).split())}); create that inside the "
            "function, define the function in a module, or use workers=0"
        ) from error


def _unpicklable(thing: Any, name: str = "", seen: frozenset[int] = frozenset()) -> str | None:
    """What of a thing cannot be pickled, and where it is: the innermost that can be told. None: it all can."""
    if id(thing) in seen or len(seen) > 20:
        return None
    try:
        _dumps_factory(thing)
        return None
    except Exception:
        inner = next(filter(None, (_unpicklable(part, at, seen | {id(thing)}) for at, part in _parts(thing))), None)
        return inner or (f"{name}, " if name else "") + f"a {type(thing).__module__}.{type(thing).__qualname__}"


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a thing is pickled with: variables of a function, arguments of a partial, attributes, entries."""
    if isinstance(thing, functools.partial):
        yield from ((f"argument {k}", part) for k, part in enumerate((thing.func, *thing.args)))
        yield from ((f"argument {key!r}", part) for key, part in thing.keywords.items())
    elif isinstance(thing, FunctionType):
        for at, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # not yet assigned
                yield f"variable {at!r}", cell.cell_contents
        yield from (
            (f"variable {at!r}", thing.__globals__[at]) for at in thing.__code__.co_names if at in thing.__globals__
        )
        yield from ((f"default of {thing.__qualname__}", part) for part in thing.__defaults__ or ())
    elif isinstance(thing, MethodType):
        yield f"the object of {thing.__qualname__}", thing.__self__
    elif isinstance(thing, Mapping):
        yield from ((f"entry {key!r}", part) for key, part in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from (("an entry", part) for part in thing)
    elif not isinstance(thing, type | ModuleType):
        yield from ((f"attribute {key!r}", part) for key, part in getattr(thing, "__dict__", {}).items())


def _dumps_factory(payload: object) -> bytes:
    """Pickle for a fresh interpreter. What comes from files that cannot be imported by name travels by value."""
    modules = [module for name, module in list(sys.modules.items()) if _is_stray(name, module)]
    for module in modules:
        _by_value(module)
    try:
        return _dumps(payload)
    finally:
        for module in modules:
            _by_name(module)


def _is_stray(name: str, module: ModuleType) -> bool:
    """Whether a module came from a file, or from no file, that importing its name elsewhere would not find."""
    file = getattr(module, "__file__", None)
    if name == "__main__" or getattr(module, "__name__", None) != name:
        return False
    if file is None:  # a notebook's cells, or what exec() filled: no loader ever saw it
        return "." not in name and getattr(module, "__spec__", None) is None
    if not file.endswith(".py"):
        return False
    folder, base = os.path.split(os.path.abspath(file))
    if base == "__init__.py":
        folder, base = os.path.split(folder)
    parent, _, last = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", ()) if parent else sys.path
    if base.partition(".")[0] == last and any(os.path.abspath(entry) == folder for entry in path):
        return False
    try:
        found = [finder.find_spec(name, None if not parent else path) for finder in sys.meta_path]
    except Exception:
        return True
    return not any(spec is not None and spec.origin == file for spec in found)


class _Arena:
    """Arrays laid end to end in one block, each on its own cache line; without a block it only measures."""

    LINE = 64

    def __init__(self, block: mmap.mmap | None) -> None:
        self._block = block
        self.size = 0

    def take(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The next array."""
        start = self.size
        self.size += -(-max(math.prod(shape) * np.dtype(dtype).itemsize, 1) // self.LINE) * self.LINE
        if self._block is None:
            return np.broadcast_to(np.zeros((), dtype=dtype), shape)
        return np.ndarray(shape, dtype, buffer=self._block, offset=start)


def _lay_out(spec: Spec, num_envs: int, arena: _Arena) -> tuple[Step, tuple[Array, ...]]:
    """The arrays of a step and of the actions for it. Learner and workers must call this with the same arguments."""
    teams: list[TeamStep] = []
    actions: list[Array] = []
    for team in spec.teams:
        rows = (num_envs, team.num_agents)
        teams.append(
            TeamStep(
                obs=arena.take((*rows, *team.obs.shape), team.obs.dtype),
                next_obs=arena.take((*rows, *team.obs.shape), team.obs.dtype),
                reward=arena.take(rows, "float32"),
                terminated=arena.take(rows, "bool"),
                truncated=arena.take(rows, "bool"),
                alive=arena.take(rows, "bool"),
                legal=arena.take((*rows, team.action.num_legal), "bool") if team.masked else None,
                next_legal=arena.take((*rows, team.action.num_legal), "bool") if team.masked else None,
            )
        )
        actions.append(arena.take((*rows, *team.action.shape), team.action.dtype))
    states = [
        None if spec.state_shape is None else arena.take((num_envs, *spec.state_shape), "float32") for _ in range(2)
    ]
    started, discarded = arena.take((num_envs,), "bool"), arena.take((num_envs,), "bool")
    return Step(tuple(teams), started, discarded, states[0], states[1], ()), tuple(actions)


# --- the worker's side ---


def serve(sock: int, memory: int, trace: int, parent: int, from_main: int) -> None:
    """A worker's life: create the copies, answer until told to close or the learner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the learner's to handle
    faulthandler.enable(file=trace)
    faulthandler.register(signal.SIGUSR1, file=trace, all_threads=False)
    die_with(parent, bool(from_main))
    channel = _Channel(socket.socket(fileno=sock))
    with contextlib.suppress(EOFError, ConnectionError):
        payload, first, count, num_envs = channel.receive()
        host = _Host(memory, first, count, num_envs, lambda kind, text: channel.send(("told", (kind, text))))
        answer = _attempt(lambda: host.create(payload))
        channel.send(answer)
        while answer[0] != "raised" and (message := channel.receive())[0] != "close":
            answer = _attempt(lambda: host.handle(*message))
            channel.send(answer)
    host.close()


def _attempt(action: Callable[[], object]) -> tuple[str, object]:
    """What came of it: ``("done", value)``, ``("breach", (class, text, traceback))`` or ``("raised", traceback)``."""
    try:
        return "done", action()
    except MarlError as error:
        return "breach", (type(error), str(error), "".join(traceback.format_exception(error)).strip())
    except BaseException as error:  # sys.exit and KeyboardInterrupt inside an environment are its failures too
        return "raised", "".join(traceback.format_exception(error)).strip()


class _Host:
    """A worker's batch and its rows of the shared block."""

    def __init__(self, memory: int, first: int, count: int, num_envs: int, tell: Tell) -> None:
        self._memory = memory
        self._tell = tell
        self._ledger: Ledger | None = None  # that of the copies, if they keep one
        self._rows = slice(first, first + count)
        self._num_envs = num_envs
        self._env: BatchEnv | None = None

    def create(self, payload: bytes) -> None:
        """Create the copies."""
        # The environment of the user who started the learner that sent this.
        build, factory, patterns, options = pickle.loads(payload)
        if build is None:
            from marl.adapters import in_process as build
        first, stop = self._rows.start, self._rows.stop
        self._env = build(factory, stop - first, patterns, first_copy=first, **options)
        self._ledger = getattr(self._env, "ledger", None)
        if self._ledger is not None:
            self._ledger.forward(self._tell)

    def handle(self, command: str, *arguments: Any) -> object:
        """Do what the learner asks."""
        assert self._env is not None
        if command == "step":
            return self._publish(self._env.step(self._actions))
        if command == "reset":
            self._map()
            return self._publish(self._env.reset(*arguments))
        if command == "load":
            self._map()
            return self._publish(self._env.load_state_dict(*arguments))
        if command == "state":
            return self._env.state_dict()
        assert command == "spec"
        return _dumps(self._env.spec)

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()

    def _map(self) -> None:
        """Find this worker's rows; the learner has sized the block by now."""
        assert self._env is not None
        size = os.fstat(self._memory).st_size
        sizer = _Arena(None)
        _lay_out(self._env.spec, self._num_envs, sizer)
        if sizer.size != size:
            raise EnvContractError(
                "a replaced worker's environment has other agents or spaces than the first; "
                "the factory must make the same environment every time"
            )
        step, actions = _lay_out(self._env.spec, self._num_envs, _Arena(mmap.mmap(self._memory, size)))
        self._actions = [array[self._rows] for array in actions]
        self._mine = _rows_of(step, self._rows)

    def _publish(self, step: Step) -> Published:
        """Copy the step into the shared block; says whether successors differ from ``obs``, and what ended."""
        mine = self._mine
        changed = step.next_state is not step.state or any(team.next_obs is not team.obs for team in step.teams)
        assert self._env is not None
        for ours, theirs, team in zip(mine.teams, step.teams, self._env.spec.teams, strict=True):
            ours.obs[...] = theirs.obs
            ours.reward[...] = theirs.reward
            ours.terminated[...] = theirs.terminated
            ours.truncated[...] = theirs.truncated
            ours.alive[...] = theirs.alive
            if ours.legal is not None:
                ours.legal[...] = theirs.legal
            if changed:
                ours.next_obs[...] = theirs.next_obs
                if ours.next_legal is not None:
                    known = theirs.next_legal is not None
                    ours.next_legal[...] = theirs.next_legal if known else legal_widths(team.action)
        if mine.state is not None and mine.next_state is not None:
            mine.state[...] = step.state
            if changed:
                mine.next_state[...] = step.next_state
        mine.started[...] = step.started
        mine.discarded[...] = step.discarded
        counted: Counted | None = None
        if step.finished or step.discarded.any():
            losses = [] if self._ledger is None else self._ledger.taken()
            counted = getattr(self._env, "faults", {}), losses
        return changed, tuple(step.finished), counted


def _rows_of(step: Step, rows: slice) -> Step:
    """Views of some copies of a step."""

    def view(array: Array | None) -> Any:
        return None if array is None else array[rows]

    teams = tuple(TeamStep(*(view(getattr(team, entry.name)) for entry in fields(TeamStep))) for team in step.teams)
    return Step(teams, view(step.started), view(step.discarded), view(step.state), view(step.next_state), ())
