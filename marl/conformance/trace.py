"""Plays of one environment as hashes, and their comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from marl.conformance.report import Findings, Severity

Trace = list[dict[str, bytes]]  # per step: what was seen, hashed; keys name it in words


def compare(log: Findings, level: Severity, rule: str, who: str, left: Trace, right: Trace, advice: str) -> bool:
    """Two plays of one seed with the same choices must be the same from end to end; whether they are."""
    for step, (a, b) in enumerate(zip(left, right, strict=False)):
        for what in [*a, *(key for key in b if key not in a)]:
            if a.get(what) != b.get(what):
                log.add(level, rule, "", f"{who} differ at step {step} in {what}; {advice}")
                return False
    if len(left) != len(right):
        log.add(level, rule, "", f"{who} end after {len(left)} and {len(right)} steps; {advice}")
        return False
    return True


def compare_next(log: Findings, left: Trace, right: Trace) -> None:
    """Episodes after one that was seeded, begun without a seed."""
    who = "second episodes, begun by reset() without a seed after the same first one,"
    advice = (
        "no training of it can be repeated or resumed exactly: go on with the random stream of the last seed, and make "
        "a new one only where a seed is given"
    )
    compare(log, "error", "unseeded_reset_nondeterministic", who, left, right, advice)


def first_seen(trace: Trace) -> bytes:
    """What agents saw first."""
    return next((digest_of(seen) for row in trace if (seen := [v for k, v in row.items() if k.startswith("obs")])), b"")


def digest_of(value: Any) -> bytes:
    """A fingerprint of any tree of arrays and plain values."""
    digest = hashlib.blake2b(digest_size=16)

    def feed(item: Any) -> None:
        if isinstance(item, Mapping):
            for key in item:
                digest.update(f"key {key!s} ".encode())
                feed(item[key])
        elif isinstance(item, tuple | list):
            digest.update(f"{len(item)} ".encode())
            for entry in item:
                feed(entry)
        elif isinstance(item, np.ndarray | np.generic):
            digest.update(f"{item.dtype} {item.shape} ".encode())
            if item.dtype.hasobject:
                digest.update(repr(item).encode())
            else:
                digest.update(np.ascontiguousarray(item).reshape(-1).view(np.uint8).data)
        else:
            digest.update(f"{type(item).__name__} {item!r} ".encode())

    feed(value)
    return digest.digest()


def overlap(left: Any, right: Any) -> bool:
    """Whether two values share an array's memory."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return bool(np.may_share_memory(left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return any(key in right and overlap(left[key], right[key]) for key in left)
    if isinstance(left, tuple | list) and isinstance(right, tuple | list):
        return any(overlap(a, b) for a, b in zip(left, right, strict=False))
    return left is right
