"""Games with known answers: what theory says a method finds, it finds; what theory says it misses, it misses."""

from __future__ import annotations

import pytest
import torch

import marl

CLIMBING = ((11, -30, 0), (-30, 7, 0), (0, 6, 5))
PENALTY = ((-100, 0, 10), (0, 2, 0), (10, 0, -100))
QTRAN = ((8, -12, -12), (-12, 0, 0), (-12, 0, 0))  # Son et al. 2019

SETTINGS = {
    "lr": 2e-3,
    "batch": 64,
    "learning_starts": 200,
    "updates_per_step": 0.25,
    "tau": 0.02,
    "buffer": 5_000,
}
UNIFORM = marl.Uniform()
FALLING = marl.EpsilonGreedy(marl.Linear(1, 0.05, 4_000))
CENTRAL = marl.WeightedQMix(weighting="central", alpha=0.1)

# Each method on each game, by seed: the greedy joint action's payoff.
METHODS = {
    "iql": marl.iql(exploration=UNIFORM, **SETTINGS),
    "hysteretic": marl.iql(exploration=FALLING, hysteresis=0.1, **SETTINGS),
    "vdn": marl.vdn(exploration=UNIFORM, **SETTINGS),
    "qmix": marl.qmix(exploration=UNIFORM, **SETTINGS),
    "wqmix": marl.wqmix(exploration=UNIFORM, credit=CENTRAL, **SETTINGS),
}


def payoffs(method, env, steps=6_000, seeds=(0, 1), **kwargs):
    """What the greedy team earns, by seed, and the last system."""
    found = []
    for seed in seeds:
        with marl.MultiAgentSystem(METHODS[method], env, num_envs=8, seed=seed, env_kwargs=kwargs) as system:
            system.train(steps=steps)
            found.append(system.evaluate(episodes=2).returns_per_agent["agent_0"])
    return found, system


def test_vdn_prefers_the_safe_game_and_fits_the_risky_one_as_well_as_a_sum_can():
    found, system = payoffs("vdn", "marl/two_step-v0", 8_000)
    assert found == [7, 7]
    risky = torch.eye(3)[2].expand(1, 1, 2, 3)
    still, acting = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, 2, dtype=torch.bool)
    q = system.learners[0].net(risky, torch.zeros(1, 2, 0), still, acting)[0][0, 0].detach()  # (2, 2)
    table = q[0].unsqueeze(1) + q[1].unsqueeze(0)
    least_squares = torch.tensor([[-1.5, 2.5], [2.5, 6.5]])
    assert (table - least_squares).abs().max() < 1.0  # uniform but finite data


def test_qmix_finds_the_best_of_the_two_step_game():
    assert payoffs("qmix", "marl/two_step-v0", 8_000)[0] == [8, 8]


@pytest.mark.parametrize(
    ("method", "payoff", "expected"),
    [
        ("iql", CLIMBING, 5),
        ("vdn", CLIMBING, 5),
        ("hysteretic", CLIMBING, 11),
        ("wqmix", CLIMBING, 11),
        ("iql", PENALTY, 2),
        ("vdn", PENALTY, 2),
        ("qmix", PENALTY, 2),
        ("wqmix", PENALTY, 10),
        ("vdn", QTRAN, 0),
        ("qmix", QTRAN, 0),
        ("wqmix", QTRAN, 8),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value[0][0] if isinstance(value, tuple) else value),
)
def test_matrix_games_end_where_theory_says(method, payoff, expected):
    """Uniform data; hysteretic Q-learning, whose optimism needs the greedy partner, explores by epsilon."""
    assert payoffs(method, "marl/matrix_game-v0", payoff=payoff)[0] == [expected, expected]
