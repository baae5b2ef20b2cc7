"""Ctrl-C and the signals of schedulers, before and after a training."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import types
from typing import Any


class Interrupts:
    """Ctrl-C and what schedulers send, for a training before and after the training itself (there the run listens).

    Whatever comes, processes end and temporary folders go. It remembers the signal: libraries may turn it into an error
    of their own while they are imported.
    """

    def __init__(self, preemptible: bool) -> None:
        """``preemptible``: what schedulers send means that the run will go on later."""
        self.code = 0
        self._preemptible = preemptible
        names = ("SIGINT", "SIGTERM", "SIGUSR1") if preemptible else ("SIGINT", "SIGTERM")
        self._numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self._before: dict[int, Any] = {}
        self._hook = sys.unraisablehook
        self._again: threading.Timer | None = None
        self._leaving = False

    def __enter__(self) -> Interrupts:
        """Listen."""
        with contextlib.suppress(ValueError):  # not in the main thread
            self._before = {number: signal.signal(number, self._press) for number in self._numbers}
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unheard
        return self

    def _press(self, number: int, frame: types.FrameType | None) -> None:
        if self._leaving:
            return
        self.code = 75 if self._preemptible and number != signal.SIGINT else 128 + number
        raise KeyboardInterrupt

    def _unheard(self, unraisable: sys.UnraisableHookArgs) -> None:
        """A KeyboardInterrupt inside a finalizer or a callback of C code is dropped by Python: raise it once more."""
        if not (self.code and issubclass(unraisable.exc_type, KeyboardInterrupt)):
            self._hook(unraisable)
            return
        number = signal.SIGTERM if self.code in (75, 128 + signal.SIGTERM) else signal.SIGINT
        self._again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        self._again.daemon = True
        self._again.start()

    def __exit__(self, *exception: object) -> None:
        """Listen no more."""
        again, self._leaving = self._again, True
        if again is not None:
            again.cancel()
            again.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            sys.unraisablehook = self._hook
