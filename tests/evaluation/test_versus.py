"""Games between two sides are counted from the environment's own returns, seat by seat."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import AECEnv

import marl
from marl.studies.versus import versus
from marl.types import ConfigError


class Pick(AECEnv):
    """Two players each name a number once, 0 to 2; the higher wins, a tie is a draw. 2 is forbidden to the second."""

    def __init__(self) -> None:
        self.metadata = {"name": "pick_v0", "is_parallelizable": False, "render_modes": []}
        self.possible_agents = ["first", "second"]
        self.render_mode = None

    def observation_space(self, agent):
        return Dict({"observation": Box(0, 1, (2,), np.float32), "action_mask": Box(0, 1, (3,), np.int8)})

    def action_space(self, agent):
        return Discrete(3)

    def observe(self, agent):
        me = self.possible_agents.index(agent)
        return {"observation": np.eye(2, dtype=np.float32)[me], "action_mask": np.array([1, 1, 1 - me], dtype=np.int8)}

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        self.named = []
        self.rewards, self._cumulative_rewards = ({a: 0.0 for a in self.agents} for _ in range(2))
        self.terminations, self.truncations = ({a: False for a in self.agents} for _ in range(2))
        self.infos = {a: {} for a in self.agents}
        self.agent_selection = "first"

    def step(self, action):
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[agent] = 0.0
        self.named.append(int(action))
        self.agent_selection = "second" if agent == "first" else "first"
        self.rewards = dict.fromkeys(self.agents, 0.0)
        if len(self.named) == 2:
            gain = float(np.sign(self.named[0] - self.named[1]))
            self.rewards = {"first": gain, "second": -gain}
            self.terminations = dict.fromkeys(self.agents, True)
        self._accumulate_rewards()


@pytest.fixture(scope="module")
def greedy_pick():
    agents = marl.ippo(lr=1e-2, rollout=16, minibatches=2, network=marl.MLP((16,)), entropy=0.01)
    with marl.MultiAgentSystem(agents, Pick, num_envs=16, seed=0) as system:
        system.train(steps=6_000)
        yield system


def test_the_chances_of_random_play_are_met():
    with marl.MultiAgentSystem(marl.Random(), Pick, num_envs=1) as system:
        scores = versus(system, games=3_000)
    # Nine pairs of numbers, six of them legal: first wins with (1,0) (2,0) (2,1), draws (0,0) (1,1), loses (0,1).
    first, second = scores["first"], scores["second"]
    assert first.games == second.games == 3_000
    np.testing.assert_allclose([first.wins, first.draws, first.losses], [1500, 1000, 500], atol=120)
    np.testing.assert_allclose([second.wins, second.draws, second.losses], [500, 1000, 1500], atol=120)
    assert first.illegal == first.opponent_illegal == second.illegal == second.opponent_illegal == 0


def test_a_trained_side_beats_a_random_one_from_the_seat_that_can_win(greedy_pick):
    scores = versus(greedy_pick, games=200)
    assert scores["first"].wins == 200
    assert scores["first"].unbeaten == 1.0
    # Whatever the second names, it loses to a 2, a third of the time.
    assert scores["second"].losses >= 200 / 3 - 25
    assert scores["second"].wins <= 200 / 3 + 25
    assert "won 100.0 %" in str(scores["first"])


def test_another_system_can_sit_on_the_other_side(greedy_pick):
    scores = versus(greedy_pick, greedy_pick, games=5)
    assert scores["first"].wins == 5
    assert scores["second"].losses == 5


def test_equal_seeds_play_equal_games_and_nothing_in_the_system_moves(greedy_pick):
    before = [parameter.clone() for parameter in greedy_pick.learners[0].model.parameters()]
    assert versus(greedy_pick, games=50, greedy=False, seed=3) == versus(greedy_pick, games=50, greedy=False, seed=3)
    assert versus(greedy_pick, games=50, seats=["second"], seed=3) != versus(
        greedy_pick, games=50, seats=["second"], seed=4
    )
    after = greedy_pick.learners[0].model.parameters()
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_illegal_moves_are_counted(greedy_pick, monkeypatch):
    from marl.playing.single import Agent

    monkeypatch.setattr(Agent, "act", lambda self, observation, info=None, explore=False: 2)
    score = versus(greedy_pick, games=7, seats=["second"])["second"]
    assert (score.illegal, score.opponent_illegal) == (7, 0)
    score = versus(greedy_pick, games=7, seats=["first"])["first"]
    assert (score.illegal, score.opponent_illegal) == (0, 7)


def test_only_turn_based_games_have_seats(greedy_pick):
    with (
        marl.MultiAgentSystem(marl.PPO(), "CartPole-v1", num_envs=4) as system,
        pytest.raises(ConfigError, match="no turn-based game"),
    ):
        versus(system)
    with pytest.raises(ConfigError, match="no agent 'third'"):
        versus(greedy_pick, seats=["third"])
    with (
        marl.MultiAgentSystem(marl.PPO(minibatches=1), Pick(), seed=0) as system,
        pytest.raises(ConfigError, match="env="),
    ):
        versus(system)
