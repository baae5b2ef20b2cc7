"""Compilation while it happens: one line for who waits, and a clock that does not count it.

numba tells when it begins to compile, which is only where its cache on disk has nothing that fits. So worlds, kernels
of the library and compiled code of users are heard of alike.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Seconds of processor time, by module or package: a world takes two to seven, a compiled network somewhat less, the
# rest of the library 0.3 or less a function. What takes less than LEAST is not worth a line.
SECONDS = {"marl_envs": 5.0, "marl.compiled": 4.0, "marl": 1.0}
LEAST = 2.0

now = time.perf_counter


class Compilation:
    """What this process has compiled so far: how long that took, and which files were told of."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.seconds = 0.0
        self.notes: list[Callable[[str], None]] = [logging.getLogger("marl.compiled").info]
        self._told: set[str] = set()
        self._depth, self._began = 0, 0.0  # compiled functions call others, which are compiled meanwhile

    def begin(self, dispatcher: Any) -> None:
        """numba begins to compile a function."""
        self._depth += 1
        if self._depth == 1:
            self._began = now()
            self._tell(dispatcher)

    def end(self) -> None:
        """numba has compiled a function, or failed to."""
        self._depth -= 1
        if self._depth == 0:
            self.seconds += now() - self._began

    def _tell(self, dispatcher: Any) -> None:
        function = dispatcher.py_func
        file, seconds = function.__code__.co_filename, expected(function.__module__ or "")
        if file in self._told or (seconds is not None and seconds < LEAST):
            return
        self._told.add(file)
        once = ", once" if hasattr(getattr(dispatcher, "_cache", None), "_cache_file") else ""
        about = "" if seconds is None else f", about {seconds:.0f} s"
        self.notes[-1](f"compiling {Path(file).stem}{once}{about}")

    def clock(self) -> float:
        """Seconds, of which none pass while something is compiled."""
        moment = now()
        return moment - self.seconds - (moment - self._began if self._depth else 0.0)


compilation = Compilation()
_listening = False


def expected(module: str) -> float | None:
    """About how many seconds it takes to compile what is in a module; None: nobody has measured it."""
    parts = module.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((SECONDS[name] for name in names if name in SECONDS), None)


def clock() -> float:
    """Seconds since some moment, without those in which this process compiled: for speeds and times left."""
    return compilation.clock()


@contextmanager
def telling(note: Callable[[str], None]) -> Iterator[None]:
    """While inside: ``note`` gets the line that tells of a compilation, instead of whoever got it before."""
    notes = compilation.notes
    notes.append(note)
    try:
        yield
    finally:
        notes.remove(note)


def listen() -> None:
    """Begin to hear numba's compiler, unless that has begun."""
    global _listening
    if _listening:
        return
    _listening = True
    from numba.core import event

    class Listener(event.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            compilation.begin(event.data["dispatcher"])

        def on_end(self, event: Any) -> None:
            compilation.end()

    event.register("numba:compile", Listener())
