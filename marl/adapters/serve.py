"""A worker process: it makes its copies of the environment, steps them when told, and writes into shared memory."""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import pickle
import signal
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from marl.adapters.copies import LocalBatch, in_process
from marl.adapters.faults import Ledger, Tell
from marl.adapters.pipe import Pipe
from marl.adapters.sendable import dumps
from marl.adapters.shared import Arena, lay_out, rows_of
from marl.adapters.spawn import die_with
from marl.adapters.tasks import PlainTask
from marl.types import Array, BatchEnv, EnvContractError, Episode, MarlError, Spec, Step, valid_choices

Counted = tuple[dict[str, int], list[tuple[int, str, str]]]  # faults by kind, and whose episodes were lost and why
Published = tuple[bool, tuple[Episode, ...], Counted | None]  # successors differ, finished, what went wrong
Views = tuple[Step, Sequence[Array]]  # a worker's rows of the step and of the actions
OTHER = (
    "a replaced worker's environment has other agents or spaces than the first; "
    "the factory must make the same environment every time"
)


def serve(sock: int, memory: int, trace: int, parent: int, from_main: int) -> None:
    """The main function of a worker process: create the copies, answer until told to close or the learner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the learner's to handle
    faulthandler.enable(file=trace)
    faulthandler.register(signal.SIGUSR1, file=trace, all_threads=False)
    die_with(parent, bool(from_main))
    pipe = Pipe(socket.socket(fileno=sock))
    with contextlib.suppress(EOFError, ConnectionError):
        payload, first, count, num_envs = pipe.receive()
        views = partial(_shared, memory, num_envs, slice(first, first + count))
        host = Host(first, count, views, lambda kind, text: pipe.send(("told", (kind, text))))
        answer = attempt(lambda: host.create(payload))
        pipe.send(answer)
        while answer[0] != "raised" and (message := pipe.receive())[0] != "close":
            answer = attempt(lambda: host.handle(*message))
            pipe.send(answer)
    host.close()


def attempt(action: Callable[[], object]) -> tuple[str, object]:
    """What came of it: ``("done", value)``, ``("breach", (class, text, traceback))`` or ``("raised", traceback)``."""
    try:
        return "done", action()
    except MarlError as error:
        return "breach", (type(error), str(error), "".join(traceback.format_exception(error)).strip())
    except BaseException as error:  # sys.exit and KeyboardInterrupt inside an environment are its failures too
        return "raised", "".join(traceback.format_exception(error)).strip()


def _shared(memory: int, num_envs: int, rows: slice, spec: Spec) -> Views:
    """Some rows of the shared block; the learner has sized it by now."""
    size = os.fstat(memory).st_size
    sizer = Arena(None)
    lay_out(spec, num_envs, sizer)
    if sizer.size != size:
        raise EnvContractError(OTHER)
    step, actions = lay_out(spec, num_envs, Arena(mmap.mmap(memory, size)))
    return rows_of(step, rows), [array[rows] for array in actions]


class Host:
    """A worker's batch, and the arrays that it answers in."""

    def __init__(self, first: int, count: int, views: Callable[[Spec], Views], tell: Tell) -> None:
        """Copies ``first`` to ``first + count`` are this worker's; ``views`` finds their arrays. Nothing is made."""
        self._first, self._count = first, count
        self._views = views
        self._tell = tell
        self._ledger: Ledger | None = None  # that of the copies, if they keep one
        self._env: BatchEnv | None = None
        self._actions: Sequence[Array] = ()

    def create(self, payload: bytes) -> None:
        """Create the copies."""
        # The environment of the user who started the learner that sent this.
        build, factory, patterns, options = pickle.loads(payload)
        self._env = (build or in_process)(factory, self._count, patterns, first_copy=self._first, **options)
        self._ledger = getattr(self._env, "ledger", None)
        if self._ledger is not None:
            self._ledger.forward(self._tell)

    def handle(self, command: str, tasks: Mapping[int, PlainTask], *arguments: Any) -> object:
        """Do what the learner asks, after it has been noted which tasks some copies play next."""
        assert self._env is not None
        if tasks:
            assert isinstance(self._env, LocalBatch)
            self._env.assign_tasks(tasks)
        if command == "step":
            return self._publish(self._env.step(self._actions))
        if command == "reset":
            self._mine, self._actions = self._views(self._env.spec)
            return self._publish(self._env.reset(*arguments))
        if command == "load":
            self._mine, self._actions = self._views(self._env.spec)
            return self._publish(self._env.load_state_dict(*arguments))
        if command == "state":
            return self._env.state_dict()
        assert command == "spec"
        return dumps(self._env.spec)

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()

    def _publish(self, step: Step) -> Published:
        """Copy the step into the arrays to answer in; says whether successors differ from ``obs``, and what ended."""
        mine = self._mine
        changed = step.next_state is not step.state or any(team.next_obs is not team.obs for team in step.teams)
        assert self._env is not None
        for ours, theirs, team in zip(mine.teams, step.teams, self._env.spec.teams, strict=True):
            ours.obs[...] = theirs.obs
            ours.reward[...] = theirs.reward
            ours.terminated[...] = theirs.terminated
            ours.truncated[...] = theirs.truncated
            ours.acting[...] = theirs.acting
            if ours.action_mask is not None:
                ours.action_mask[...] = theirs.action_mask
            if changed:
                ours.next_obs[...] = theirs.next_obs
                if ours.next_action_mask is not None:
                    known = theirs.next_action_mask is not None
                    ours.next_action_mask[...] = theirs.next_action_mask if known else valid_choices(team.action)
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
