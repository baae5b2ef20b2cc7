"""Several processes that train one system are one process with all copies, to rounding."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from marl.ranks import CopiesGenerator, integers, uniform
from tests.support import rank

SIZE = 2
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    """The folder in which two ranks, started once for this file, wrote what came of all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.support.rank", str(folder)]
    processes = [
        subprocess.Popen([*command, str(number), str(SIZE)], stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for number in range(SIZE)
    ]
    try:
        said = [process.communicate(timeout=900)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * SIZE, "\n".join(said)
    return folder


@pytest.mark.parametrize("name", rank.CASES)
def test_two_ranks_learn_what_one_process_with_all_copies_does(ranks, name):
    wanted = rank.trained(name)
    one, other = (load_file(ranks / f"{name}-{number}.safetensors") for number in range(SIZE))
    assert set(one) == set(other) == set(wanted)
    for key, value in wanted.items():
        if key.startswith(("model/", "generator/")):
            assert torch.equal(one[key], other[key]), key
        # Sums in another order, through 20 updates.
        tolerance = 1e-5 if key.startswith("model/") else 1e-3
        torch.testing.assert_close(
            one[key], value, rtol=tolerance, atol=tolerance, msg=lambda said, key=key: f"{key}: {said}"
        )


def test_what_is_not_built_for_ranks_is_refused_in_a_line(ranks):
    for number in range(SIZE):
        said = (ranks / f"refused-{number}.txt").read_text().splitlines()
        assert len(said) == len(rank.REFUSED)
        for line, what in zip(said, rank.REFUSED, strict=True):
            assert what in line


@pytest.mark.parametrize("name", rank.RESUMED)
def test_ranks_resume_bit_for_bit(ranks, name):
    for number in range(SIZE):
        straight, resumed = (load_file(ranks / f"{how}-{name}-{number}.safetensors") for how in ("straight", "resumed"))
        assert set(straight) == set(resumed)
        for key, value in straight.items():
            assert torch.equal(resumed[key], value), key


@pytest.mark.parametrize("name", rank.RESUMED)
def test_one_process_goes_on_with_what_two_ranks_saved_and_says_what_is_lost(ranks, name, caplog):
    with rank.quickly(name), rank.loaded(ranks, name) as one:
        steps = one.steps
        with caplog.at_level(logging.WARNING, "marl.training"):
            one.train(steps=32 * rank.COPIES)
        assert one.steps == steps + 32 * rank.COPIES
        assert not any(torch.isnan(x).any() for key, x in rank.found(one).items() if key.startswith("model/"))
    assert "saved by 2 ranks and resumed by 1" in caplog.text


def test_a_share_of_what_is_drawn_is_that_part_of_what_one_process_draws():
    generator, plain = CopiesGenerator(), torch.Generator()
    own = torch.tensor([4, 0, 1])
    for stream in (generator, plain):
        stream.manual_seed(3)
    with generator.for_rows(5, own):
        part = uniform((2, 3, 2), generator), integers(7, (2, 3), generator)
    whole = uniform((2, 5, 2), plain), integers(7, (2, 5), plain)
    for one, all_rows in zip(part, whole, strict=True):
        assert torch.equal(one, all_rows[:, own])
    assert torch.equal(uniform((3,), generator), uniform((3,), plain))
