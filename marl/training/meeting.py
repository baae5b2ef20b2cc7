"""Trainings that come from anywhere to train stacked: each in a thread of its own, of which one runs at a time.

A thread goes up to the loop of its training and waits there. When all have come, the last of them trains all in
lockstep; then each goes on from where it waited, with what it has to save and to tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass

from marl.training import loop, stacked
from marl.training.history import History
from marl.training.loop import INSTEAD, Request
from marl.training.state import TrainingState

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Asked:
    """The arguments of :func:`marl.training.loop.train`."""

    state: TrainingState
    request: Request
    log: Callable[[dict[str, float]], None] | None
    tick: Callable[[], bool] | None


class Meeting:
    """Where they meet.

    Args:
        say: told why they cannot be trained as one, if so; then each is trained alone, in its turn.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Nobody has come yet."""
        self._say = say
        self._turn = threading.Condition()
        self._here: list[Asked] = []
        self._missing = 0
        self._over, self._trained = False, False
        self._error: BaseException | None = None
        self._stop = threading.Event()

    def run(self, tasks: Sequence[Callable[[], int]]) -> list[int | BaseException]:
        """What each task returns, or the error that ended it.

        Raises:
            KeyboardInterrupt: on Ctrl-C; the trainings end where they are.
        """
        found: list[int | BaseException] = [0] * len(tasks)
        self._missing = len(tasks)

        def one(which: int, task: Callable[[], int]) -> None:
            with self._turn:
                INSTEAD.set(self._attend)
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
        state: TrainingState,
        asked: Request,
        log: Callable[[dict[str, float]], None] | None,
        tick: Callable[[], bool] | None,
    ) -> History:
        """Wait for the others, and be trained."""
        INSTEAD.set(None)
        self._here.append(Asked(state, asked, log, self._stoppable(tick)))
        self._count()
        while not self._over:
            self._turn.wait()
        if self._error is not None:
            raise self._error
        return state.log.history if self._trained else loop.train(state, asked, log, self._stoppable(tick))

    def _count(self) -> None:
        """One more is here, or has nothing to train: begin if that was the last one."""
        self._missing -= 1
        if self._missing:
            return
        try:
            if self._here:
                self._train()
        except BaseException as error:
            self._error = error
        self._over = True
        self._turn.notify_all()

    def _train(self) -> None:
        """Train all that are here, if they can be stacked; else each is to train alone, when its turn comes."""
        states = [one.state for one in self._here]
        why = stacked.refusal(states)
        if why is None:
            stacked.train(
                states,
                [one.request for one in self._here],
                [one.log for one in self._here],
                [one.tick for one in self._here],
            )
            self._trained = True
        else:
            self._say(why)

    def _stoppable(self, tick: Callable[[], bool] | None) -> Callable[[], bool]:
        def stoppable() -> bool:
            if self._stop.is_set():
                raise KeyboardInterrupt
            return tick is not None and tick()

        return stoppable
