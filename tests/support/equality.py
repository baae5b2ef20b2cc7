"""Bit for bit: trees of values, systems, run folders."""

from __future__ import annotations

import numpy as np
import torch

from marl import checkpoint
from marl.logs import read_metrics

CLOCKS = ("seconds", "steps_per_second")  # what no two runs share


def assert_equal_trees(first, second, path=""):
    """Dictionaries, lists, tensors, arrays and plain values."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal_trees(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal_trees(one, other, f"{path}/{index}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert np.array_equal(first, second), path


def assert_equal_systems(first, second):
    """Everything that is saved of two systems, but for clocks."""
    _assert_equal_states([system.state_dict() for system in (first, second)])


def assert_equal_runs(first, second):
    """Parameters, moments, memories, random streams, environments, counters and metrics of two run folders."""
    for which in ("last", "best"):
        _assert_equal_states([checkpoint.load(folder / "checkpoints" / which)[0] for folder in (first, second)])
    rows = [
        [{k: v for k, v in row.items() if k not in CLOCKS} for row in read_metrics(folder)]
        for folder in (first, second)
    ]
    assert str(rows[0]) == str(rows[1])  # as text, so that NaN equals itself


def _assert_equal_states(states):
    for state in states:
        for clock in CLOCKS:
            state["history"].pop(clock, None)
    assert_equal_trees(*states)
