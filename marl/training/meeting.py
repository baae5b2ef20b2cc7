"""Trainings that come from anywhere to train stacked: each in a thread of its own, of which one runs at a time.

A thread goes up to the loop of its training and waits there. When all have come, the last of them trains all in
lockstep, those of one shape together; then each goes on from where it waited, with what it has to save and to tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from marl.training import loop, stacked
from marl.training.history import History
from marl.training.loop import INSTEAD, Request
from marl.training.state import TrainingState

POLL_SECONDS = 0.2


@dataclass
class Asked:
    """The arguments of :func:`marl.training.loop.train`, and what came of it.

    Args:
        which: of all tasks.
        outcome: its history, or the error that ended it; None: nobody trained it.
    """

    which: int
    state: TrainingState
    request: Request
    log: Callable[[dict[str, float]], None] | None
    tick: Callable[[], bool] | None
    outcome: History | BaseException | None = None


class Meeting:
    """Where they meet.

    Args:
        say: told which tasks cannot be trained with others, and why; each of them is trained alone, in its turn.
    """

    def __init__(self, say: Callable[[list[int], str], None]) -> None:
        """Nobody has come yet."""
        self._say = say
        self._turn = threading.Condition()
        self._here: list[Asked] = []
        self._missing = 0
        self._over = False
        self._stop = threading.Event()
        self.groups: list[list[int]] = []  # which tasks were trained stacked with which

    def run(self, tasks: Sequence[Callable[[], int]]) -> list[int | BaseException]:
        """What each task returns, or the error that ended it.

        Raises:
            KeyboardInterrupt: on Ctrl-C; the trainings end where they are.
        """
        found: list[int | BaseException] = [0] * len(tasks)
        self._missing = len(tasks)

        def one(which: int, task: Callable[[], int]) -> None:
            with self._turn:
                INSTEAD.set(partial(self._attend, which))
                before = len(self._here)
                try:
                    found[which] = task()
                except BaseException as error:
                    found[which] = error
                if not self._over and len(self._here) == before:
                    self._count()  # it had nothing to train, so nobody need wait for it

        threads = [
            threading.Thread(target=copy_context().run, args=(one, which, task)) for which, task in enumerate(tasks)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(POLL_SECONDS)
        except BaseException:
            self._stop.set()
            for thread in threads:
                thread.join()
            raise
        return found

    def _attend(
        self,
        which: int,
        state: TrainingState,
        asked: Request,
        log: Callable[[dict[str, float]], None] | None,
        tick: Callable[[], bool] | None,
    ) -> History:
        """Wait for the others, and be trained."""
        INSTEAD.set(None)
        stream = torch.get_rng_state()  # those who come later seed torch's own stream for themselves
        mine = Asked(which, state, asked, log, self._ticking(tick, stream))
        self._here.append(mine)
        self._count()
        while not self._over:
            self._turn.wait()
        torch.set_rng_state(stream)
        if isinstance(mine.outcome, BaseException):
            raise mine.outcome
        return loop.train(state, asked, log, self._stoppable(tick)) if mine.outcome is None else mine.outcome

    def _count(self) -> None:
        """One more is here, or has nothing to train: begin if that was the last one."""
        self._missing -= 1
        if self._missing:
            return
        try:
            self._train()
        except BaseException as error:
            for one in self._here:
                one.outcome = error if one.outcome is None else one.outcome
        self._over = True
        self._turn.notify_all()

    def _train(self) -> None:
        """Train all that can be stacked; the others are to train alone, when their turn comes."""
        here = sorted(self._here, key=lambda one: one.which)
        groups, alone = stacked.groups([one.state for one in here])
        for why in dict.fromkeys(alone.values()):
            self._say([here[place].which for place, said in alone.items() if said == why], why)
        for group in groups:
            members = [here[place] for place in group]
            self.groups.append([one.which for one in members])
            outcomes = stacked.train(
                [one.state for one in members],
                [one.request for one in members],
                [one.log for one in members],
                [one.tick for one in members],
            )
            for one, outcome in zip(members, outcomes, strict=True):
                one.outcome = outcome

    def _ticking(self, tick: Callable[[], bool] | None, stream: Tensor) -> Callable[[], bool]:
        """What is saved as torch's own stream is that of the training, and not of whoever came last."""
        stoppable = self._stoppable(tick)

        def ticking() -> bool:
            shared = torch.get_rng_state()
            torch.set_rng_state(stream)
            try:
                return stoppable()
            finally:
                torch.set_rng_state(shared)

        return ticking

    def _stoppable(self, tick: Callable[[], bool] | None) -> Callable[[], bool]:
        def stoppable() -> bool:
            if self._stop.is_set():
                raise KeyboardInterrupt
            return tick is not None and tick()

        return stoppable
