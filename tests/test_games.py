"""Games with known answers: what theory says a method finds, it finds; what theory says it misses, it misses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from marl.exploration import Uniform
from tests.benchmarks.games import GAMES, METHODS, main, payoff


def learnt(method, game, seed):
    """What the greedy team earns, and the system. Uniform data say all in a third of the benchmark's steps; optimists
    need a partner who has stopped exploring, after 4,000."""
    steps = 2_400 if METHODS[method].exploration == Uniform() else 4_500
    return payoff(method, replace(GAMES[game], steps=steps), seed)


def test_vdn_prefers_the_safe_game_and_fits_the_risky_one_as_well_as_a_sum_can():
    earned, system = learnt("vdn", "two_step", 0)
    assert earned == 7
    risky = torch.eye(3)[2].expand(1, 1, 2, 3)
    still, acting = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, 2, dtype=torch.bool)
    q = system.learners[0].net(risky, torch.zeros(1, 2, 0), still, acting)[0][0, 0].detach()  # (2, 2)
    table = q[0].unsqueeze(1) + q[1].unsqueeze(0)
    least_squares = torch.tensor([[-1.5, 2.5], [2.5, 6.5]])
    assert (table - least_squares).abs().max() < 1.0  # uniform but finite data


def test_qmix_finds_the_best_of_the_two_step_game():
    assert [learnt("qmix", "two_step", seed)[0] for seed in (0, 1)] == [8, 8]


@pytest.mark.parametrize(
    ("method", "game", "expected"),
    [
        ("iql", "climbing", 5),
        ("vdn", "climbing", 5),
        ("hysteretic", "climbing", 11),
        ("lenient", "climbing", 11),
        ("qplex", "climbing", 11),
        ("wqmix", "climbing", 11),
        ("iql", "penalty", 2),
        ("vdn", "penalty", 2),
        ("qmix", "penalty", 2),
        ("hysteretic", "penalty", 10),
        ("lenient", "penalty", 10),
        ("wqmix", "penalty", 10),
        ("vdn", "qtran", 0),
        ("qmix", "qtran", 0),
        ("qplex", "qtran", 8),
        ("wqmix", "qtran", 8),
    ],
)
def test_matrix_games_end_where_theory_says(method, game, expected):
    assert learnt(method, game, 0)[0] == expected


def test_the_table_is_printed(capsys):
    found = main(["--seeds", "0", "--methods", "hysteretic", "--games", "climbing"])
    assert found == {("hysteretic", "climbing"): [11]}
    assert capsys.readouterr().out.splitlines()[-1] == "| hysteretic | 100%: 11 |"
