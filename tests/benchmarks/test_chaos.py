"""A training that is mistreated for a minute; ``python -m tests.benchmarks.chaos --seconds 600`` does it for longer."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.chaos import chaos


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prlimit")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_survives_what_is_done_to_it(seed, tmp_path):
    done, _ = chaos(tmp_path, 60.0, seed)
    assert sum(done.values()) > 10
