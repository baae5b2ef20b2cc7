"""A saved state of a compiled world is somebody's file: its numbers are refused, or harmless, never out of bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marl_envs.catch import Catch, State
from marl_envs.matrix_game import MatrixGame

from marl.types import Array, CheckpointError
from tests.worlds.test_contract import WORLDS

ROOT = Path(__file__).parents[2]


def forge(**environment: str) -> list[dict[str, Any]]:
    """What became of every forged state."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.worlds.forge"],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, f"status {done.returncode} after {done.stdout.rstrip()[-300:]}\n{done.stderr[-2000:]}"
    return [json.loads(line.rpartition("\r")[2]) for line in done.stdout.splitlines() if line]


def refused_where_it_must(found: list[dict[str, Any]]) -> None:
    assert {one["world"] for one in found} == {world.__name__ for world in WORLDS}
    wild = [one for one in found if one["kind"] == "i" and not one["refused"]]
    # What only counts may be as large as it wants; of a stream every number is one.
    counts = {".clock", "s.waited", "s.collisions", "s.passed", "s.day"}
    assert not [one for one in wild if one["field"] not in counts]
    assert not [
        one for one in found if one["field"] in (".task", ".pending") and "nan" in one["fill"] and not one["refused"]
    ]
    assert any(one["kind"] == "b" and one["fill"].startswith("255") for one in found)


def test_whatever_a_file_says_is_refused_or_played_on():
    refused_where_it_must(forge())


@pytest.mark.slow  # every world is compiled anew
def test_no_kernel_leaves_its_arrays_whatever_a_file_says(tmp_path):
    refused_where_it_must(forge(NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path)))


def test_what_follows_from_the_parameters_is_not_read_from_a_file():
    batch = MatrixGame().batch_env(2)
    batch.reset(0)
    state = batch.state_dict()
    assert set(state["s"]) == {"last", "played"}
    mine = batch._core.s.payoff.copy()
    batch.load_state_dict({**state, "s": {**state["s"], "payoff": np.zeros_like(mine), "sizes": np.array([99, 99])}})
    assert np.array_equal(batch._core.s.payoff, mine)


def test_a_world_that_does_not_say_its_ranges_is_told_so_on_loading():
    class Silent(Catch, name="silent_v0"):
        def ranges(self) -> dict[str, tuple[Any, Any]]:
            return {"ball": super().ranges()["ball"]}

    batch = Silent().batch_env(1)
    batch.reset(0)
    with pytest.raises(CheckpointError, match=r"paddle holds whole numbers, and Silent.ranges\(\) does not say"):
        batch.load_state_dict(batch.state_dict())


def test_a_truth_value_is_zero_or_one_whatever_its_byte_was():
    class Odd(Catch, name="odd_v0"):
        def allocate(self, num_envs: int) -> Any:
            return Flagged(*super().allocate(num_envs), np.zeros(num_envs, dtype=bool))

    from typing import NamedTuple

    class Flagged(NamedTuple):
        ball: Array
        paddle: Array
        rows: int
        columns: int
        flag: Array

    assert State._fields == Flagged._fields[:-1]
    batch = Odd().batch_env(2)
    batch.reset(0)
    state = batch.state_dict()
    state["s"]["flag"].view(np.uint8)[...] = 255
    batch.load_state_dict(state)
    assert batch._core.s.flag.view(np.uint8).tolist() == [1, 1]
