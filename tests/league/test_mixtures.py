"""The result of a PSRO run is its mixture: whoever asks the system to play gets it, an episode a policy."""

from __future__ import annotations

import numpy as np
import pytest

import marl
from marl.studies.exploit import exploit
from marl.studies.tournament import tournament
from marl.studies.versus import versus
from tests.support.equality import assert_equal_systems
from tests.support.leagues import PPO, mixed, rps
from tests.support.tiny import Team, Turns

NOTHING = np.zeros(7, dtype=np.float32)


@pytest.mark.parametrize("decentralized", [False, True])
def test_evaluation_plays_one_policy_of_the_mixture_in_each_episode(decentralized):
    with mixed() as system:
        report = system.evaluate(400, decentralized=decentralized)
        first = report.teams["agent_0"]
        assert set(first.returns) == {-5.0, 5.0}  # five rounds of the same throw
        assert first.mean_return == pytest.approx(0.25 * 5 - 0.75 * 5, abs=4 * 5 * np.sqrt(0.75 / 400))
        assert report.teams["agent_1"].mean_return == -first.mean_return
        assert system.evaluate(400, decentralized=decentralized).returns == report.returns


def test_the_last_response_is_not_what_is_played():
    agents = {"agent_0": marl.Fixed(1), "agent_1": marl.Fixed(1)}  # the learners, were it for them
    with mixed(learner=agents) as system:
        assert [member.name for _, member in system.strategy("agent_1")] == ["Fixed(strategy=2)"]
        assert system.agent("agent_1").act(NOTHING) == 2
        assert set(system.evaluate(40).teams["agent_0"].returns) == {-5.0, 5.0}


def test_evaluating_a_mixture_changes_nothing():
    looked, plain = mixed(), mixed()
    for system in (looked, plain):
        if system is looked:
            system.evaluate(8)
            system.evaluate(8, decentralized=True)
            system.agent("agent_0", 1).act(NOTHING)
        system.train(steps=80)
    assert_equal_systems(looked, plain)


def test_a_single_agent_draws_at_every_reset():
    with mixed() as system:
        agent, again, other = (system.agent("agent_0", seed) for seed in (3, 3, 4))
        throws = []
        for each in (agent, again, other):
            throws.append([])
            for _ in range(200):
                each.reset()
                throws[-1].append(int(each.act(NOTHING)))
                assert {int(each.act(NOTHING)) for _ in range(3)} == {throws[-1][-1]}
    assert throws[0] == throws[1] != throws[2]
    assert np.mean(throws[0]) == pytest.approx(0.75, abs=0.13)


def test_members_of_a_team_play_the_same_policy():
    league = marl.PSRO(response_steps=1_000, games=2, opponents=(marl.Fixed(0), marl.Fixed(1)))
    agents = {"agent_[01]": PPO, "agent_[23]": PPO}
    with marl.MultiAgentSystem(agents, lambda: Team((3,) * 4, (2,) * 4), num_envs=2, league=league) as system:
        system.train(steps=4)
        system.league_state.mixture = dict.fromkeys((0, 1), np.array([0.5, 0.5, 0.0]))
        one, other = (system.agent(name, seed, side_seed=7) for seed, name in enumerate(("agent_0", "agent_1")))
        rival = system.agent("agent_2", 0, side_seed=7)
        seen = []
        for _ in range(40):
            for agent in (one, other, rival):
                agent.reset()
            seen.append([int(agent.act(np.zeros(3, dtype=np.float32))) for agent in (one, other, rival)])
        assert all(row[0] == row[1] for row in seen)
        assert {row[0] for row in seen} == {0, 1}
        assert any(row[0] != row[2] for row in seen)  # the other side draws for itself


def test_two_sides_of_one_pool_draw_for_themselves():
    """Of four pairings two are draws, so half of the episodes are."""
    with marl.MultiAgentSystem(
        marl.ippo(rollout=8, minibatches=2, network=marl.MLP((16,))),
        "marl/matrix_game-v0",
        num_envs=4,
        env_kwargs={"payoff": [[[0, -1], [1, 0]], [[0, 1], [-1, 0]]]},
        league=marl.PSRO(between="agents", response_steps=1_000, games=2, opponents=(marl.Fixed(0), marl.Fixed(1))),
    ) as system:
        system.train(steps=4)
        system.league_state.mixture = {0: np.array([0.5, 0.5, 0.0])}
        for decentralized in (False, True):
            drawn = [sum(abs(x) for x in row) == 0 for row in returns_of(system, decentralized)]
            assert np.mean(drawn) == pytest.approx(0.5, abs=0.15)


def returns_of(system, decentralized):
    """Of both agents in single episodes."""
    for seed in range(160):
        report = system.evaluate(1, seed=seed, decentralized=decentralized)
        yield list(report.returns_per_agent.values())


def test_tournaments_and_versus_are_played_by_the_mixture():
    with mixed() as system, rps(None, {"agent_0": marl.Fixed(0), "agent_1": marl.Fixed(0)}) as rock:
        result = tournament({"mixture": system, "rock": rock}, games=400)
        assert result.scores[1, 0] == 1.0  # rock against scissors
        assert result.scores[0, 1] == pytest.approx(0.25 * 0.5 + 0.75, abs=0.1)
    league = marl.PSRO(between="agents", response_steps=1_000, games=2, opponents=(marl.Random(),))
    with marl.MultiAgentSystem(PPO, lambda: Turns(2), num_envs=2, league=league) as board:
        board.train(steps=4)
        assert versus(board, games=4)["player_0"].wins == 4


def test_exploiting_a_mixture_answers_the_mixture():
    learner = marl.ippo(rollout=16, minibatches=2, lr=1e-2, network=marl.MLP((16,)))
    with mixed((0.5, 0.5, 0.0), (1.0, 0.0, 0.0)) as system:
        result = exploit(system, steps=2_000, games=1_000, agents={"agent_0": learner, "agent_1": learner})
    assert result.sides["agent_0"].best == 5  # paper beats rock
    # The rounds of an episode are one policy's, so from the second on a response knows what it meets.
    assert 2.5 - 0.3 < result.sides["agent_1"].best < 5
    assert result.sides["agent_1"].value == pytest.approx(-2.5, abs=0.3)  # rock against rock and paper


def test_a_mixture_is_one_guest_of_a_league():
    with mixed() as guest:
        league = marl.League(learn="agent_1", latest=0.0, snapshot_every=None, opponents=[guest, marl.Fixed(2)])
        system = rps(league)
        system.train(steps=8)
        assert [member.name for member in system.league_state.pool(0)] == [
            "a system of matrix_game_v0, Fixed(strategy=0)",
            "a system of matrix_game_v0, Fixed(strategy=1)",
            "Fixed(strategy=2)",
        ]
        assert system.league_state.weights(0) == pytest.approx([0.125, 0.375, 0.5])


def test_a_loaded_mixture_plays_as_the_saved_one(tmp_path):
    with mixed() as system:
        system.save(tmp_path / "saved")
        with marl.MultiAgentSystem.load(tmp_path / "saved") as loaded:
            assert loaded.evaluate(50).returns == system.evaluate(50).returns
            assert [chance for chance, _ in loaded.strategy("agent_0")] == [0.25, 0.75]


def test_before_training_there_is_no_mixture_to_play():
    with rps(marl.PSRO(response_steps=100, games=4)) as system:
        assert [member.name for _, member in system.strategy("agent_0")] == ["agent_0"]
        assert np.isfinite(system.evaluate(4).mean_return)
        with pytest.raises(marl.ConfigError, match="unknown team 'agent_9'"):
            system.strategy("agent_9")


def test_a_mixture_of_ones_own_code_has_to_be_given_again(tmp_path):
    def rock(obs):
        return np.eye(3)[np.zeros(obs.shape[:-1], dtype=int)]

    league = marl.PSRO(response_steps=100, games=4, opponents=(marl.Scripted(rock),))
    with rps(league) as system:
        system.train(steps=4)
        system.save(tmp_path / "saved")
    with pytest.raises(marl.CheckpointError, match="its league holds code of yours"):
        marl.MultiAgentSystem.load(tmp_path / "saved").evaluate(2)
    with marl.MultiAgentSystem.load(tmp_path / "saved", league=league) as loaded:
        loaded.evaluate(2)
