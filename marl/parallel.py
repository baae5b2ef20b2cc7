"""Two halves of a computation at once, on two threads, without torch's own thread pool.

Torch's intra-operation threads wait for each other after every operation by spinning, so one other busy process on the
machine makes them ten times slower than one thread. Here each thread computes its own half of the rows from end to end
and they meet once: beside a busy process the worst is the speed of one thread. The split is fixed, so results are too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

from marl.types import ConfigError

A = TypeVar("A")
B = TypeVar("B")

WORTH = 6_144  # rows times agents from which two threads pay for meeting


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


_threads = min(2, available_cores())
_meeting = threading.Lock()


def set_threads(count: int) -> None:
    """Let learners on the CPU use one or two threads; the last bits of numbers depend on it. Raises ConfigError."""
    global _threads
    if count not in (1, 2):
        raise ConfigError(f"threads: expected 1 or 2, got {count!r}")
    _threads = count


def threads() -> int:
    """How many threads learners use on the CPU."""
    return _threads


def worth_splitting(rows: int, device: torch.device) -> bool:
    """Whether a computation over so many rows is to be done in two halves."""
    return _threads > 1 and rows >= WORTH and device.type == "cpu"


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Turn torch's own thread pool off for as long as training runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def both(first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Run ``second`` on the other thread while ``first`` runs on this one. Whatever either raises is raised here.

    Within one of two such halves there is no third thread: both run here, one after the other.
    """
    if not _meeting.acquire(blocking=False):
        return first(), second()
    try:
        future = _other_thread().submit(second)
        try:
            result = first()
        finally:
            other = future.exception()
        if other is not None:
            raise other
        return result, future.result()
    finally:
        _meeting.release()


@cache
def _other_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="marl-half")
