"""Games whose answers are known: naive self-play goes round in circles, leagues and PSRO come to rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from marl_envs import kuhn

import marl
from marl.scenario import find
from tests.league.mixtures import WINS, inputs_of, kuhn_mixtures


def test_naive_self_play_of_rock_paper_scissors_goes_round_in_circles():
    learner = marl.ippo(rollout=8, lr=5e-3, network=marl.MLP((32,)))
    agents = {"agent_0": learner, "agent_1": learner}
    scenario = find("rock_paper_scissors")
    system = marl.MultiAgentSystem(
        agents, scenario.env, num_envs=16, seed=0, env_kwargs=scenario.env_kwargs, league=None
    )
    favorites, exploitable = set(), []
    for _ in range(16):
        system.train(steps=1_000)
        net, _ = system.learners[0].policy()
        first = np.array([[1, 0, 0, 0, 0, 0, 0]], dtype=np.float32)
        inputs = inputs_of(first)
        with torch.inference_mode():
            out, _ = net(inputs.obs[None], inputs.carry, inputs.started[None], inputs.acting[None])
        chances = out[0, 0, 0].softmax(-1).numpy()
        favorites.add(int(chances.argmax()))
        exploitable.append((WINS @ chances).max())
    assert favorites == {0, 1, 2}
    assert np.mean(exploitable[8:]) > 0.5


def test_best_responses_bring_kuhn_poker_nearer_to_equilibrium():
    scenario = find("kuhn")
    league = marl.PSRO(response_steps=6_000, games=1_000)
    with marl.MultiAgentSystem(None, scenario, seed=0, league=league) as system:
        conv = []
        for _ in range(5):
            system.train(steps=6_000)
            conv.append(kuhn.nash_conv(kuhn_mixtures(system)))
    assert conv[-1] < 0.35 < 11 / 12  # of uniform play


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_psro_solves_kuhn_poker(seed):
    with marl.MultiAgentSystem(None, "kuhn", seed=seed) as system:
        system.train()
        mixtures = kuhn_mixtures(system)
    assert kuhn.nash_conv(mixtures) < 0.1
    assert kuhn.value(mixtures) == pytest.approx(-1 / 18, abs=0.02)


def test_perfect_play_against_random_moves_wins_what_it_should():
    from tests.league.tictactoe import POSITIONS, best_response

    assert len(POSITIONS) == 4_520  # 5,478 positions less 958 that are over
    chance = {board: np.array([not field for field in board]) / board.count(0) for board in POSITIONS}
    assert best_response(chance, 0) == pytest.approx(0.9948, abs=1e-4)
    first_free = {board: np.eye(9)[board.index(0)] for board in POSITIONS}
    assert (best_response(first_free, 0), best_response(first_free, 1)) == (1, 1)


@pytest.mark.slow
def test_a_league_makes_noughts_and_crosses_harder_to_exploit():
    pytest.importorskip("pettingzoo.classic")
    from tests.league.tictactoe import exploitability

    with marl.MultiAgentSystem(None, "tictactoe", seed=0) as system:
        before = exploitability(system)
        system.train()
        after = exploitability(system)
        assert exploitability(system, greedy=True)[0] == 0  # never loses as first player, whatever the other does
    assert before[0] > 0.9
    assert after[0] < 0.2
    assert after[1] < before[1]
