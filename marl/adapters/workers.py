"""Copies of an environment spread over workers: processes that share memory with the learner, or Ray's actors.

Each worker hosts one in-process batch over a contiguous range of copies. What is here does not know where workers live
and how their arrays travel: that is a :class:`marl.adapters.handle.Place`.

Processes of this machine write their share of every step straight into one block of shared memory; a socket carries
commands and small answers only. The block is an anonymous file: it has no name, so nothing can be left behind however
the processes end.

A worker is a fresh interpreter (:mod:`marl.adapters.spawn`): it does not pay for what the user's main module imports,
and environments may have children of their own. A worker for mpe2 is ready after 0.4 s.

Waiting blocks. With two workers on two cores an exchange costs 80 us; spinning for 50 us first saved 30 us of it where
one worker serves alone and cost up to 60 us where two compete with the learner for the cores.
"""

from __future__ import annotations

import math
import os
import pickle
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from marl.adapters.faults import Ledger
from marl.adapters.handle import START_SECONDS, Handle, Place, WorkerFault
from marl.adapters.sendable import sendable
from marl.adapters.serve import Published
from marl.adapters.tasks import CopyTasks, PlainTask, Ranges
from marl.adapters.worker import Processes
from marl.types import (
    Array,
    BatchEnv,
    CheckpointError,
    ConfigError,
    EnvContractError,
    MarlError,
    ResourceError,
    Spec,
    Step,
)

FAULTS = ("killed", "hung", "exited", "raised")


class WorkerBatch:
    """A ``BatchEnv`` whose copies live in worker processes; results do not depend on how many there are.

    factory, num_envs, patterns, max_steps, on_bad_obs, env_kwargs: as for ``marl.adapters.in_process``; the factory may
        be a lambda or a closure.
    workers: how many processes; more than ``num_envs`` are not started. Copies are divided as evenly as possible.
    deadline: seconds a worker may take for one step or reset before it counts as hung.
    restarts: how often in a row one worker is replaced; an episode finished by one of its copies starts a new count.
    build: creates a worker's batch, ``marl.adapters.in_process`` unless given; called as
        ``build(factory, count, patterns, first_copy=, max_steps=, on_bad_obs=, env_kwargs=)`` inside the worker.
    tasks: what is known of the tasks of all copies; each worker's batch knows by itself how to reach its own.
    place: makes the place for so many workers: processes of this machine, unless given.

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
        tasks: CopyTasks | None = None,
        place: Callable[[int], Place] | None = None,
    ) -> None:
        """Start the workers and wait until all copies exist."""
        if num_envs < 1 or workers < 1:
            raise ConfigError(f"num_envs and workers must be at least 1, got num_envs={num_envs}, workers={workers}")
        if not (deadline > 0 and math.isfinite(deadline)):
            raise ConfigError(f"deadline must be a positive number of seconds, got {deadline}")
        self._num_envs = num_envs
        self._deadline = deadline
        self._restarts = restarts
        self._seed = 0
        self._options: Mapping[str, Any] | None = None
        self._tasks = tasks or CopyTasks(num_envs, None, None, {})
        self._untold: set[int] = set()  # copies of whose next tasks their workers do not know yet
        self._begun = False  # reset or loaded at least once
        self._stepping: float | None = None  # when the step under way was sent
        self._faults = dict.fromkeys(FAULTS, 0)
        self._ledger = Ledger("the environment")

        options = {"max_steps": max_steps, "on_bad_obs": on_bad_obs, "env_kwargs": env_kwargs}
        payload = sendable(build, factory, patterns, options)
        hear = self._ledger.hear
        edges = [num_envs * k // min(workers, num_envs) for k in range(min(workers, num_envs) + 1)]
        self._place = Processes() if place is None else place(len(edges) - 1)
        self._workers = [
            self._place.worker(k, first, stop - first, num_envs, payload, hear)
            for k, (first, stop) in enumerate(pairwise(edges))
        ]
        self._finalizer = weakref.finalize(self, _close_all, self._workers, self._place, os.getpid())
        try:
            self._spec = self._start()
            self._ledger.env = self._spec.env
            self._step, self._actions = self._place.lay(self._spec, num_envs)
            self._same = tuple(
                replace(team, next_obs=team.obs, next_action_mask=team.action_mask) for team in self._step.teams
            )
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

    @property
    def task_space(self) -> Ranges:
        """The parameters of the copies' tasks; none where tasks cannot reach the environment."""
        return self._tasks.space

    def set_tasks(self, tasks: Mapping[str, Any], copies: Sequence[int] | slice = slice(None)) -> None:
        """Choose tasks of some copies, one number for all or one each; workers are told with the next step."""
        chosen = range(self._num_envs)[copies] if isinstance(copies, slice) else copies
        self._tasks.choose(tasks, chosen)
        self._untold.update(chosen)

    def _news(self, worker: Handle, copies: Iterable[int]) -> dict[int, PlainTask]:
        """The next tasks of a worker's copies, by its own numbers, which it is told now."""
        mine = [e for e in copies if worker.first <= e < worker.first + worker.count]
        self._untold.difference_update(mine)
        return {e - worker.first: self._tasks.coming[e] for e in mine}

    def _all_news(self, worker: Handle) -> dict[int, PlainTask]:
        """The same of all of its copies that have one."""
        return self._news(worker, [e for e, task in enumerate(self._tasks.coming) if task])

    def reset(self, seed: int, options: Mapping[str, Any] | None = None) -> Step:
        """Start every copy afresh; copy ``e`` draws from a stream that depends on ``(seed, e)`` alone.

        ``options`` go to the environment, but for ``{"task": {name: numbers}}`` if it has tasks.
        """
        self._refuse_closed()
        self._seed, self._options, self._stepping = seed, self._tasks.taken_from(options), None
        for worker in self._workers:
            worker.generation, worker.strikes, worker.pending = 0, 0, False
        faults = self._ask(lambda worker: ("reset", self._all_news(worker), seed, self._options), self._deadline)
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
                worker.send(("step", self._news(worker, self._untold)))

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
            worker.send(("state", self._news(worker, self._untold)))
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
        return {**common, "coming": [dict(task) for task in self._tasks.coming], "parts": parts}

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
        coming = state["coming"] if "coming" in state else _coming_in(state)
        self._tasks.coming = [dict(task) for task in coming] or self._tasks.coming
        self._untold.clear()
        for worker, part in zip(self._workers, parts, strict=True):
            worker.generation, worker.strikes, worker.pending = int(part["generation"]), 0, bool(part["pending"])

        def message(worker: Handle) -> tuple[Any, ...]:
            part = parts[worker.index]
            if part["state"] is None:
                return self._fresh_reset(worker)
            return ("load", {}, {**part["state"], "faults": {}})

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
                who = f"{self._place.called} {worker.index}"
                raise EnvContractError(f"{who} could not create the environment: {fault.detail}")
        self._replace(faults, None)
        for worker in self._workers:
            worker.send(("spec", {}))
        answers, faults = self._gather(self._workers, time.monotonic() + START_SECONDS)
        # Those lost while their fellows still started.
        answers.update(self._replace(faults, lambda worker: ("spec", {})))
        # What the workers that we have started answer, in ways that are ours alone.
        specs: list[Spec] = [pickle.loads(answers[worker]) for worker in self._workers]
        for worker, spec in zip(self._workers, specs, strict=True):
            if spec != specs[0]:
                raise EnvContractError(
                    f"{self._place.called} {worker.index} sees other agents or spaces than {self._place.called} 0; "
                    "the factory must make the same environment every time"
                )
        return specs[0]

    def _ask(self, message: Callable[[Handle], tuple[Any, ...]], seconds: float) -> dict[Handle, WorkerFault]:
        """Have every worker do something; returns those that did not."""
        for worker in self._workers:
            worker.send(message(worker))
        return self._gather(self._workers, time.monotonic() + seconds)[1]

    def _gather(self, workers: Iterable[Handle], until: float) -> tuple[dict[Handle, Any], dict[Handle, WorkerFault]]:
        """Everyone's answer, or why there is none. Raises a contract breach only when all have been heard."""
        replies: dict[Handle, Any] = {}
        faults: dict[Handle, WorkerFault] = {}
        breaches: list[MarlError] = []
        for worker in workers:
            try:
                replies[worker] = worker.receive(until)
            except WorkerFault as fault:
                faults[worker] = fault
            except MarlError as violation:
                breaches.append(violation)
        if breaches:
            raise breaches[0]
        return replies, faults

    def _replace(
        self, faults: Mapping[Handle, WorkerFault], message: Callable[[Handle], tuple[Any, ...]] | None
    ) -> dict[Handle, Any]:
        """Put new processes in the place of failed ones and have them answer ``message``, within the restart budget."""
        answers: dict[Handle, Any] = {}
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

    def _mourn(self, worker: Handle, fault: WorkerFault) -> None:
        """The episodes of a worker's copies are lost with it. Raises if they are some of too many."""
        for copy in range(worker.first, worker.first + worker.count):
            self._ledger.lose(copy, fault.kind, f"{self._named(worker)}: {fault}")

    def _named(self, worker: Handle) -> str:
        return f"{self._place.called} {worker.index} (copies {worker.first} to {worker.first + worker.count - 1})"

    def _give_up(self, worker: Handle, fault: WorkerFault) -> MarlError:
        """The error that ends a run whose worker does not come back."""
        text = f"{self._named(worker)} failed {worker.strikes} times in a row and is not restarted again; last: {fault}"
        if fault.kind in ("raised", "exited"):
            return EnvContractError(f"{text}\nfix the environment, or try it alone with {self._place.alone}")
        advice = f"look for memory limits, or raise deadline (now {self._deadline:g} s) or restarts"
        return ResourceError(f"{text}\n{advice}")

    def _derived_seed(self, worker: Handle) -> int:
        """The seed of a worker's replacement: fresh for every replacement, the same in every repetition of the run."""
        sequence = np.random.SeedSequence(self._seed, spawn_key=(worker.first, worker.generation))
        return int(sequence.generate_state(1)[0])

    def _fresh_reset(self, worker: Handle) -> tuple[Any, ...]:
        """What a replacement is told."""
        return ("reset", self._all_news(worker), self._derived_seed(worker), self._options)

    def _whole_step(self, lost: Iterable[Handle], replies: Mapping[Handle, Published]) -> Step:
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
                    if team.action_mask is not None and team.next_action_mask is not None:
                        team.next_action_mask[worker.rows] = team.action_mask[worker.rows]
                if step.state is not None and step.next_state is not None:
                    step.next_state[worker.rows] = step.state[worker.rows]
        return replace(step, finished=finished)


def _close_all(workers: list[Handle], place: Place, owner: int) -> None:
    """End all workers, politely for two seconds. Does nothing in a forked child, which does not own them."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.ask_to_close()
    until = time.monotonic() + 2.0
    for worker in workers:
        worker.close(until)
    place.close()


def _back_off(strikes: int) -> float:
    """Seconds to wait before a restart: none the first time, then twice as long each time."""
    return 0.0 if strikes < 2 else min(0.25 * 2.0 ** (strikes - 2), 4.0)


def _coming_in(state: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The next task of every copy in a batch's state that lists its copies; none if it has none."""
    told = [copy.get("tasks") for copy in state.get("copies", ())]
    return [tasks["coming"] for tasks in told if tasks is not None]


def _is_divisible(state: Mapping[str, Any] | None) -> bool:
    """Whether a batch's state lists its copies one by one, as that of `marl.adapters.copies.LocalBatch` does."""
    return state is not None and isinstance(state.get("copies"), list | tuple)
