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
from marl_envs.catch import Catch
from marl_envs.matrix_game import MatrixGame
from marl_envs.switch_riddle import SwitchRiddle

import marl
from marl import checkpoint
from marl.types import CheckpointError
from tests.worlds.every import WORLDS

ROOT = Path(__file__).parents[2]


def forge(**environment: str) -> list[dict[str, Any]]:
    """What became of every forged state."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.worlds.forge"],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, f"status {done.returncode} after {done.stderr[-2000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


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
    batch = SwitchRiddle().batch_env(2)
    batch.reset(0)
    state = batch.state_dict()
    state["s"]["light"].view(np.uint8)[...] = 255
    batch.load_state_dict(state)
    assert batch._core.s.light.view(np.uint8).tolist() == [1, 1]


def test_training_from_a_forged_checkpoint_is_refused(tmp_path):
    with marl.MultiAgentSystem(marl.ippo(rollout=8), "marl/catch-v0", num_envs=2) as system:
        system.train(steps=16)
        system.save(tmp_path / "own")
    state, manifest = checkpoint.load(tmp_path / "own")
    state["env"]["s"]["paddle"][:] = 2**40
    checkpoint.save(tmp_path / "forged", state, manifest["meta"])
    with (
        marl.MultiAgentSystem.load(tmp_path / "forged") as system,
        pytest.raises(CheckpointError, match=r"state of Catch, paddle: expected numbers from 0 to 4, got others"),
    ):
        system.train(steps=16)
