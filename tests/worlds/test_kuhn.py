"""Kuhn poker: PettingZoo's contract, and the numbers that theory and OpenSpiel give."""

from __future__ import annotations

import warnings

import marl_envs  # noqa: F401  (registers its worlds)
import numpy as np
import pettingzoo
import pytest
from marl_envs import kuhn

from marl.conformance import check

with warnings.catch_warnings():  # PettingZoo's tests import its environments the old way
    warnings.simplefilter("ignore", DeprecationWarning)
    from pettingzoo.test import api_test, seed_test

UNIFORM = [kuhn.tabulate(player, lambda obs: np.full(len(obs), 0.5)) for player in (0, 1)]


def equilibrium(alpha):
    """Kuhn's family of equilibria: 0 <= alpha <= 1/3."""
    first = {(0, ""): alpha, (1, ""): 0, (2, ""): 3 * alpha, (0, "pb"): 0, (1, "pb"): alpha + 1 / 3, (2, "pb"): 1}
    second = {(0, "p"): 1 / 3, (1, "p"): 0, (2, "p"): 1, (0, "b"): 0, (1, "b"): 1 / 3, (2, "b"): 1}
    return [first, second]


def test_it_keeps_the_contract(capsys):
    api_test(pettingzoo.make("aec", "marl/kuhn-v0"), num_cycles=50)
    seed_test(kuhn.Kuhn)
    assert check("marl/kuhn-v0", steps=500).ok


def test_uniform_play():
    assert kuhn.nash_conv(UNIFORM) == pytest.approx(11 / 12)
    assert kuhn.value(UNIFORM) == pytest.approx(1 / 8)


@pytest.mark.parametrize("alpha", [0, 0.2, 1 / 3])
def test_equilibria_cannot_be_exploited_and_have_the_value_of_the_game(alpha):
    assert kuhn.nash_conv(equilibrium(alpha)) == pytest.approx(0, abs=1e-12)
    assert kuhn.value(equilibrium(alpha)) == pytest.approx(-1 / 18)


def test_folding_always_loses_two():
    fold = [kuhn.tabulate(player, lambda obs: np.zeros(len(obs))) for player in (0, 1)]
    assert kuhn.nash_conv(fold) == pytest.approx(2)


def test_a_best_response_wins_what_it_says():
    for player in (0, 1):
        won, answer = kuhn.best_response(player, UNIFORM)
        played = kuhn.value([answer, UNIFORM[1]] if player == 0 else [UNIFORM[0], answer])
        assert won == pytest.approx(played if player == 0 else -played)


def test_a_mixture_plays_as_its_parts_drawn_before_each_game():
    random = np.random.default_rng(0)
    parts = [kuhn.tabulate(0, lambda obs: random.random(len(obs))) for _ in range(3)]
    weights = [0.5, 0.3, 0.2]
    apart = sum(w * kuhn.value([part, UNIFORM[1]]) for w, part in zip(weights, parts, strict=True))
    assert kuhn.value([kuhn.mix(0, weights, parts), UNIFORM[1]]) == pytest.approx(apart)


def test_games_pay_what_the_table_says():
    env, random, returns = kuhn.Kuhn(), np.random.default_rng(1), []
    env.reset(seed=1)
    for _ in range(4000):
        total = 0.0
        for agent in env.agent_iter():
            *_, reward, terminated, truncated, _ = env.last()
            total += reward if agent == "player_0" else 0.0
            env.step(None if terminated or truncated else int(random.integers(2)))
        returns.append(total)
        env.reset()
    assert np.mean(returns) == pytest.approx(1 / 8, abs=4 * np.std(returns) / np.sqrt(len(returns)))


def test_openspiel_says_the_same():
    pytest.importorskip("pyspiel")
    import pyspiel
    from open_spiel.python import policy as policies
    from open_spiel.python.algorithms import exploitability

    game = pyspiel.load_game("kuhn_poker")
    random = np.random.default_rng(3)
    ours = [kuhn.tabulate(player, lambda obs: random.random(len(obs))) for player in (0, 1)]
    table = {f"{card}{history}": bet for policy in ours for (card, history), bet in policy.items()}
    theirs = policies.TabularPolicy(game)
    for state, place in theirs.state_lookup.items():
        theirs.action_probability_array[place] = [1 - table[state], table[state]]
    assert kuhn.nash_conv(ours) == pytest.approx(exploitability.nash_conv(game, theirs))
