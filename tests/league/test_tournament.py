"""Cross-play and exploitability: sides are swapped, tables are antisymmetric, frozen policies stay as they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

import marl
from marl.league.matches import play_matches, scores
from marl.league.members import Member, sides_of
from marl.studies.exploit import Exploitation, Exploited, exploit
from marl.studies.tournament import Tournament, tournament
from tests.support.leagues import RPS
from tests.support.tiny import Team, Turns

PPO = marl.ippo(rollout=8, minibatches=2, network=marl.MLP((16,)))


def plays(strategy, other=None):
    """Rock, paper, scissors by given strategies."""
    agents = {"agent_0": marl.Fixed(strategy), "agent_1": marl.Fixed(strategy if other is None else other)}
    return marl.MultiAgentSystem(agents, "marl/matrix_game-v0", num_envs=4, env_kwargs=RPS)


def test_pure_strategies_have_the_payoffs_of_the_game():
    result = tournament({"rock": plays(0), "paper": plays(1), "scissors": plays(2)}, games=8)
    assert np.array_equal(result.payoff, [[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    assert result.first_side == 0.5
    assert result.elo == pytest.approx([1000] * 3)
    said = result.to_dict()
    assert said["nash"] == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert said["alpha_rank"] == pytest.approx([1 / 3] * 3)
    json.dumps(said)
    assert "paper" in str(result)


def test_swapping_sides_takes_the_first_movers_advantage_out():
    systems = {name: marl.MultiAgentSystem(marl.Random(), lambda: Turns(2), num_envs=2, seed=seed)
               for seed, name in enumerate("ab")}  # fmt: skip
    result = tournament(systems, games=10)
    assert result.first_side == 1.0  # whoever begins wins this game
    assert not result.payoff.any()
    assert result.elo == pytest.approx([1000, 1000])
    assert result.sides == ("player_0", "player_1")


def test_a_table_of_equal_players_is_antisymmetric_within_sampling_error():
    uniform = (1 / 3, 1 / 3, 1 / 3)
    systems = {name: plays(uniform) for name in "ab"}
    games = 400
    result = tournament(systems, games=games)
    apart = result.returns[0, 1, 0] + result.returns[1, 0, 0]  # each seating by itself, not made antisymmetric
    assert abs(apart) < 4 * np.sqrt(2 * (2 / 3) / games)
    # A throw's score has variance 1/6: both seatings together 1/3.
    assert result.standard_errors[0, 1] == pytest.approx(np.sqrt((1 / 3) / games), rel=0.1)
    assert abs(result.payoff[0, 1]) < 4 * result.standard_errors[0, 1]
    assert not result.standard_errors.diagonal().any()
    assert not result.distinguishable.any()
    assert str(result).splitlines()[-1].endswith("not distinguishable")


def test_roles_are_played_by_the_policies_for_them():
    """Row's policy for side one meets column's policy for side two."""
    result = tournament({"a": plays(0, 1), "b": plays(2, 2)}, games=4)
    assert result.scores[0, 1] == 1  # rock of a against scissors of b
    assert result.scores[1, 0] == 1  # scissors of b against paper of a
    assert not result.payoff.any()


def test_matches_are_the_same_for_the_same_seed_and_keep_recurrent_states_apart():
    system = marl.MultiAgentSystem(
        marl.ippo(rollout=8, sequence=4, network=marl.GRU(8)), lambda: Turns(3), num_envs=2, seed=0
    )
    sides = sides_of(system.spec, "agents")
    member = Member(0, 0, "it", system.learners[0].policy(None), ())
    alone = [(1.0, member)]
    seen = [play_matches(system.environments.make(3, 0), sides, (alone, alone), 7, seed) for seed in (1, 1, 2)]
    assert seen[0].shape == (7, 2)
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(scores(np.array([[1, 0], [0, 0], [-1, 2]])), [1, 0.5, 0])


def test_members_act_as_single_agents_do():
    system = marl.MultiAgentSystem(PPO, lambda: Turns(3), num_envs=2, seed=3)
    member = Member(0, 0, "it", system.learners[0].policy(None), (), greedy=True)
    from marl.memory.base import PolicyInput

    obs = np.random.default_rng(0).uniform(0, 5, (6, 2, 2)).astype(np.float32)
    yes = torch.ones(6, 2, dtype=torch.bool)
    inputs = PolicyInput(torch.from_numpy(obs), torch.zeros(6, 2, 0), torch.zeros(6, dtype=torch.bool), yes, None)
    action, _ = member.act(inputs, torch.Generator())
    for place, name in enumerate(("player_0", "player_1")):
        agent = system.agent(name)
        assert [agent.act(row) for row in obs[:, place]] == action[:, place].tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tournament({"a": plays(0)}), "at least two systems"),
        (lambda: tournament({"a": plays(0), "b": plays(1)}, games=0), "games"),
        (lambda: tournament({"a": plays(0), "b": marl.MultiAgentSystem(PPO, Team)}), "b and a cannot meet"),
        (
            lambda: tournament({name: marl.MultiAgentSystem(PPO, Team) for name in "ab"}),
            "expected a game of two sides",
        ),
        (lambda: tournament({"a": plays(0), "b": plays(1)}, between="agents"), "leave it out"),
        (lambda: exploit(marl.MultiAgentSystem(PPO, "CartPole-v1"), 10), "has one agent"),
        (lambda: exploit(plays(0), 0), "steps"),
        (lambda: exploit(plays(0), 10, agents=PPO), "the same teams"),
        (lambda: exploit(plays(0), 10), "Fixed learns nothing, so it cannot respond: say with agents= who does"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(make, message):
    with pytest.raises(marl.ConfigError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_best_response_finds_what_a_fixed_policy_gives_away():
    learner = marl.ippo(rollout=16, minibatches=2, lr=1e-2, network=marl.MLP((16,)))
    agents = {"agent_0": learner, "agent_1": learner}
    result = exploit(plays((0.5, 0.5, 0.0)), steps=2_000, games=2_000, agents=agents)
    assert set(result.sides) == {"agent_0", "agent_1"}
    for side in result.sides.values():
        assert side.value == pytest.approx(0, abs=0.06)
        assert side.gain == pytest.approx(0.5, abs=0.08)  # paper draws half and wins half
        assert side.standard_error < 0.03
    assert result.nash_conv == pytest.approx(1.0, abs=0.15)
    assert result.to_dict()["nash_conv"] == result.nash_conv
    assert result.standard_error == pytest.approx(np.sqrt(sum(s.standard_error**2 for s in result.sides.values())))
    assert 0.8 < result.lower_bound < result.nash_conv
    assert f"NashConv at least {result.lower_bound:.3f}" in str(result)


def test_games_are_played_on_the_target_of_a_curriculum():
    """In an episode of one round instead of five a strategy wins one point."""
    tasks = marl.curriculum.DomainRandomization({"max_cycles": 5}, target={"max_cycles": 1})
    agents = {"agent_0": marl.Fixed(0), "agent_1": marl.Fixed(0)}
    env_kwargs = RPS | {"rounds": 5}
    make = {"num_envs": 4, "env_kwargs": env_kwargs, "curriculum": tasks}
    rock = marl.MultiAgentSystem(agents, "marl/matrix_game-v0", **make)
    paper = marl.MultiAgentSystem({"agent_0": marl.Fixed(1), "agent_1": marl.Fixed(1)}, "marl/matrix_game-v0", **make)
    assert tournament({"rock": rock, "paper": paper}, games=8).returns[1, 0].tolist() == [1, -1]
    learner = marl.ippo(rollout=8, minibatches=2, lr=1e-2, network=marl.MLP((16,)))
    result = exploit(rock, steps=1_000, games=8, agents={"agent_0": learner, "agent_1": learner})
    assert result.sides["agent_0"].best == 1
    psro = marl.PSRO(response_steps=100, games=4, opponents=(marl.Fixed(0), marl.Fixed(2)))
    with marl.MultiAgentSystem(agents, "marl/matrix_game-v0", league=psro, **make) as system:
        system.train(steps=8)
        assert system.league_state.payoffs()[0][0, 1] == 1


def test_exploiting_a_system_changes_nothing_in_it():
    system = marl.MultiAgentSystem(PPO, lambda: Turns(2), num_envs=4, seed=0)
    system.train(steps=64)
    before = system.learners[0].flat.values.clone()
    result = exploit(system, steps=64, games=8)
    assert list(result.sides) == ["player_0", "player_1"]
    assert result.sides["player_0"].value == 1
    assert result.nash_conv == 0
    assert torch.equal(system.learners[0].flat.values, before)
    assert system.steps == 64


def test_ties_everywhere_have_a_table_too():
    flat = Tournament(("a", "b"), ("x", "y"), 10, np.full((2, 2), 0.5), np.zeros((2, 2, 2)), np.zeros((2, 2)))
    assert flat.to_dict()["alpha_rank"] == pytest.approx([0.5, 0.5])


# --- what may be chance -----------------------------------------------------------------------------------------------


def cup(first, second, games):
    """Two players: the share that ``a`` wins on side one, and ``b`` on side one; no draws."""
    scores = np.array([[0.5, first], [second, 0.5]])
    deviations = np.sqrt(scores * (1 - scores)) * ~np.eye(2, dtype=bool)
    return Tournament(("a", "b"), ("x", "y"), games, scores, np.zeros((2, 2, 2)), deviations)


def test_the_interval_of_a_pair_by_hand():
    """Eight games each way, all won by ``a``: with one more won and lost, 9 of 10 and 1 of 10."""
    won = cup(1.0, 0.0, 8)
    half = 1.959964 * np.sqrt(2 * 0.9 * 0.1 / 10)
    assert won.payoff[0, 1] == 1
    assert won.intervals[0, 1] == pytest.approx([0.8 - half, 1.0])
    assert won.intervals[1, 0] == pytest.approx([-1.0, half - 0.8])
    assert won.intervals[0, 0].tolist() == [0, 0]
    assert won.distinguishable.tolist() == [[False, True], [True, False]]
    assert " ".join(str(won).splitlines()[-1].split()) == "(1) against (2) 1.00 0.54 to 1.00 (1) is better"


@pytest.mark.parametrize("result", [cup(1.0, 1.0, 100), cup(1.0, 0.0, 2), cup(0.55, 0.45, 50)])
def test_a_tie_reads_not_distinguishable(result):
    """The side that begins wins always; four games say too little; 55 of 100 are chance."""
    low, high = result.intervals[0, 1]
    assert low < 0 < high
    assert not result.distinguishable.any()
    assert str(result).splitlines()[-1].endswith("not distinguishable")
    assert "is better" not in str(result)


def test_draws_count_as_half():
    """Of four games each way: a win, two draws and a loss, of which a game won and a game lost more make six."""
    scores = np.full((2, 2), 0.5)
    drawn = Tournament(("a", "b"), ("x", "y"), 4, scores, np.zeros((2, 2, 2)), np.sqrt([[0, 0.125], [0.125, 0]]))
    variance = (4 * 0.125 + 2 * 0.25) / 6 / 6
    half = 1.959964 * np.sqrt(2 * variance)
    assert drawn.intervals[0, 1] == pytest.approx([-half, half])


def test_the_intervals_of_ratings_and_of_the_first_side_by_hand():
    """Of equal players: 20 games and one drawn one more hold 21 / 4 of information on twice the rating of one."""
    even = cup(0.5, 0.5, 10)
    half = 1.959964 * 400 / np.log(10) / np.sqrt(21)
    assert even.elo_intervals == pytest.approx(np.array([[1000 - half, 1000 + half]] * 2))
    side = 1.959964 * np.sqrt(2 * 0.25 / 12) / 2
    assert even.first_side_interval == pytest.approx((0.5 - side, 0.5 + side))


def test_a_gain_within_noise_is_never_called_at_least():
    noise = Exploitation({"x": Exploited(0.0, 0.1, 0.1), "y": Exploited(0.0, -0.2, 0.2)}, 100, 50)
    assert noise.lower_bound == 0
    assert noise.nash_conv == pytest.approx(0.1)
    for text in (str(noise), repr(noise), noise._repr_html_()):
        assert "at least" not in text
        assert "not distinguishable from 0" in text
    assert noise.to_dict()["sides"]["x"]["distinguishable"] is False


def test_what_is_certain_of_nash_conv_by_hand():
    """Each side's gain less 1.96 standard errors, where that is above 0."""
    found = Exploitation({"x": Exploited(1.0, 2.0, 0.1), "y": Exploited(0.0, 0.1, 0.1)}, 100, 50)
    assert found.sides["x"].interval == pytest.approx((1 - 0.1959964, 1 + 0.1959964))
    assert found.lower_bound == pytest.approx(1 - 0.1959964)
    assert "NashConv at least 0.804 (95 % confidence over games; estimate 1.100)" in str(found)
    lines = {line.split()[0]: line for line in str(found).splitlines() if line.startswith("  ")}
    assert lines["x"].endswith("0.804 to 1.196")
    assert lines["y"].endswith("not distinguishable from 0")
    worse = Exploitation({"x": Exploited(1.0, 0.0, 0.1)}, 100, 50)
    assert "train it longer" in str(worse)


class Cards(ParallelEnv):
    """Who gets the higher card wins; nobody can do anything about it."""

    metadata = {"name": "cards_v0", "render_modes": []}
    possible_agents = ["agent_0", "agent_1"]

    def observation_space(self, agent):
        return Box(-1, 1, (1,))

    def action_space(self, agent):
        return Discrete(2)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.card = float(self.random.normal())
        return {agent: np.zeros(1, np.float32) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        who, self.agents = self.agents, []
        looks = {agent: np.zeros(1, np.float32) for agent in who}
        ends = dict.fromkeys(who, True), dict.fromkeys(who, False)
        return looks, {"agent_0": self.card, "agent_1": -self.card}, *ends, {agent: {} for agent in who}


def test_a_gain_is_measured_on_the_same_deals():
    """Luck of the deal is in both plays and takes nothing away from what is known of the gain: here there is none."""
    learner = marl.ippo(rollout=4, minibatches=1, network=marl.MLP((4,)))
    with marl.MultiAgentSystem({"agent_0": learner, "agent_1": learner}, Cards, num_envs=2) as system:
        result = exploit(system, steps=8, games=30)
    for side in result.sides.values():
        assert side.value != 0
        assert side.gain == side.standard_error == 0
    assert "NashConv not distinguishable from 0" in str(result)
