"""The benchmark of single agents runs at the smallest size, and its worlds are what they say."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.benchmarks import single
from tests.benchmarks.peers.worlds import CELLS, MOVES, WORLDS


def test_rates_of_networks_that_remember_and_of_convolutions(tmp_path):
    path = tmp_path / "single.json"
    options = ["--works", "cartpole", "square-7", "--variants", "gru", "lstm", "apart", "--repeats", "1"]
    found = single.main([*options, "--seconds", "0.05", "--json", str(path)], lambda line: None)
    assert path.stat().st_size > 1_000
    assert [row["work"]["variant"] for row in found["cartpole"] if row["ours"]] == ["gru", "lstm"]
    assert all(row["rate"] > 0 for row in found["cartpole"] + found["square-7"])
    assert len(found["absent"]) in (0, 2)  # a peer of cartpole and one of the square, if SB3 is not installed here


def test_learning_shows_a_return_for_each_seed():
    lines: list[str] = []
    options = ["--works", "cartpole", "--variants", "gru", "--learn", "--steps", "1024", "--seeds", "0", "1"]
    found = single.main(options, lines.append)
    (gru,) = found["cartpole learning"]
    assert [answer["steps"] for answer in gru["answers"]] == [1_024, 1_024]
    assert all(8 < answer["return"] <= 500 for answer in gru["answers"])
    assert any("greedy returns after 1,024 steps" in line for line in lines)


@pytest.mark.filterwarnings("ignore:.*WARN.*:UserWarning")  # CartPole's own bounds
@pytest.mark.parametrize("world", WORLDS)
def test_the_worlds_are_gymnasium_environments(world):
    env = WORLDS[world]()
    check_env(env.unwrapped, skip_render_check=True)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space


def test_cartpole_hides_its_velocities():
    env = WORLDS["cartpole"]()
    seen, _ = env.reset(seed=3)
    assert seen.tolist() == [env.unwrapped.state[0].astype(np.float32), env.unwrapped.state[2].astype(np.float32)]


@pytest.mark.parametrize(("world", "shape"), [("square-84", (4, 84, 84)), ("square-7", (7, 7, 3))])
def test_the_square_earns_1_where_its_place_is_and_shows_where_it_was(world, shape):
    env = WORLDS[world]()
    env.reset(seed=0)
    env.trail = [(2, 3)] * len(env.trail)
    env.place = (3, 3)
    obs, reward, terminated, truncated, _ = env.step(MOVES.index((1, 0)))
    assert obs.shape == shape
    assert (reward, terminated, truncated) == (1.0, False, False)
    planes = obs if shape[0] == 4 else obs.transpose(2, 0, 1)
    side = shape[1] // CELLS
    for plane, (row, column) in zip(planes, [(3, 3)] + [(2, 3)] * (len(planes) - 2), strict=False):
        assert plane.sum() == 255 * side**2
        assert plane[row * side, column * side] == 255
    env.place = (0, 0)
    _, reward, _, _, _ = env.step(MOVES.index((-1, 0)))
    assert reward == 0.0
