"""What the command prints: notes on stderr, one answer on stdout."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def first_line(thing: object) -> str:
    """The first line of a docstring."""
    lines = (getattr(thing, "__doc__", None) or "").strip().splitlines()
    return lines[0] if lines else ""


def note(text: str) -> None:
    """Say something on stderr, if it can be said there: no training ends because its log file's disk is full."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def print_json(data: Mapping[str, Any]) -> None:
    """One JSON object on stdout; NaN and infinity become null."""
    from marl.config import finite

    _answer(json.dumps(finite(dict(data)), allow_nan=False) + "\n")


def _answer_plainly(text: str) -> None:
    print(text, end="", flush=True)


_answer: Callable[[str], None] = _answer_plainly


@contextlib.contextmanager
def only_answers(last: bool) -> Iterator[None]:
    """Nothing but our answer reaches stdout: what Python, C libraries and child processes print goes to stderr.

    last: this process ends with the command; then stdout stays closed to what others print as it ends.
    """
    global _answer
    before, stdout, saved = _answer, sys.stdout, -1
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no stdout; one in memory; one that was closed
        stdout.flush()
        if os.path.sameopenfile(stdout.fileno(), 1):
            saved = os.dup(1)
            os.dup2(2, 1)

    def answer(text: str) -> None:
        if saved < 0:
            print(text, end="", file=stdout, flush=True)
            return
        data = text.encode()
        while data:
            data = data[os.write(saved, data) :]

    _answer, sys.stdout = answer, sys.stderr
    try:
        yield
    finally:
        if not last:
            _answer, sys.stdout = before, stdout
            if saved >= 0:
                with contextlib.suppress(AttributeError, OSError):  # what C libraries have not written yet
                    ctypes.CDLL(None).fflush(None)
                os.dup2(saved, 1)
                os.close(saved)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What environments and their libraries print goes to stderr, not into our output."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
