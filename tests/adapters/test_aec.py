"""What the adapter makes of turn-based games: one row per turn, every reward exactly once, no dead turns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.adapters import make
from tests.adapters.envs import MOVES, Eventful, Scripted, Turns, act


def start(script, max_steps=None, num_envs=1, **kwargs):
    batch = make(lambda: Turns(script, **kwargs), num_envs, max_steps=max_steps)
    return batch, batch.reset(0)


def rows(batch, steps):
    """Rewards, flags and movers of so many rows, copied."""
    seen = []
    for _ in range(steps):
        step = batch.step(act(batch))
        team = step.teams[0]
        seen.append((team.reward[0].tolist(), team.terminated[0].tolist(), team.truncated[0].tolist(), step.finished))
    return seen


def test_only_the_agent_to_move_is_alive_and_the_others_keep_their_last_observation():
    batch, step = start(({},), agents=("a", "b", "c"))
    assert batch.spec.turn_based
    team = step.teams[0]
    np.testing.assert_array_equal(team.acting[0], [True, False, False])
    np.testing.assert_array_equal(team.obs[0], [[0, 0], [0, 0], [0, 0]])
    expected = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    for t in range(1, 8):
        team = batch.step(act(batch)).teams[0]
        mover = t % 3
        expected[mover] = [t, mover]
        np.testing.assert_array_equal(team.acting[0], np.arange(3) == mover)
        np.testing.assert_array_equal(team.obs[0], expected)
        assert team.next_obs is team.obs


def test_the_loser_gets_its_minus_one_exactly_once():
    batch, _ = start(({}, {}, {"reward": {"a": 1.0, "b": -1.0}, "die": ["a", "b"]}))
    seen = rows(batch, 6)
    assert [reward for reward, *_ in seen] == [[0, 0], [0, 0], [1, -1]] * 2
    assert [terminated for _, terminated, *_ in seen] == [[False] * 2, [False] * 2, [True] * 2] * 2
    assert seen[2][3][0].returns == {"a": 1.0, "b": -1.0}
    assert seen[2][3][0].length == 3  # dead turns are no rows


def test_rewards_between_turns_add_up_and_arrive_when_the_turn_comes():
    script = ({"reward": {"a": 1.0, "b": 10.0}}, {"reward": {"a": 2.0, "b": 20.0}}, {"reward": {"a": 4.0, "b": 40.0}})
    batch, _ = start((*script, {"reward": {"a": 8.0, "b": 80.0}, "cut": ["a", "b"]}))
    seen = rows(batch, 4)
    assert [reward for reward, *_ in seen] == [[0, 10], [3, 0], [0, 60], [12, 80]]
    assert seen[3][3][0].returns == {"a": 15.0, "b": 150.0}
    assert seen[3][2] == [True, True]


def test_a_player_that_dies_midway_gets_what_it_is_owed_in_the_row_it_dies_in():
    batch, _ = start(({}, {"die": ["c"], "reward": {"c": -3.0}}, {}, {}, {"die": ["a", "b"]}), agents=("a", "b", "c"))
    batch.step(act(batch))
    step = batch.step(act(batch))  # b's move kills c before c ever moved
    team = step.teams[0]
    np.testing.assert_array_equal(team.reward[0], [0, 0, -3])
    np.testing.assert_array_equal(team.terminated[0], [False, False, True])
    np.testing.assert_array_equal(team.next_obs[0, 2], [2, 2])
    np.testing.assert_array_equal(team.obs[0, 2], [0, 0])
    np.testing.assert_array_equal(team.acting[0], [True, False, False])
    seen = rows(batch, 3)
    assert [finished != () for *_, finished in seen] == [False, False, True]
    assert seen[-1][1] == [True, True, False]


def test_agents_may_move_twice_or_be_skipped():
    batch, _ = start(({"next": "a"}, {"next": "c"}, {"next": "a"}), agents=("a", "b", "c"))
    movers = [0]
    for _ in range(6):
        movers.append(int(batch.step(act(batch)).teams[0].acting[0].argmax()))
    assert movers == [0, 0, 2, 0, 0, 0, 0]


def test_late_joiners_move_when_they_are_selected():
    batch, _ = start(({}, {"join": ["c"], "next": "c"}, {}), agents=("a", "b", "c"), first=("a", "b"))
    batch.step(act(batch))
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].acting[0], [False, False, True])
    np.testing.assert_array_equal(step.teams[0].obs[0, 2], [2, 2])


def test_max_steps_flushes_pending_rewards_and_shows_true_successors():
    batch, _ = start(({"reward": {"a": 1.0, "b": 10.0}},), max_steps=3)
    seen = rows(batch, 3)
    # a moves, b reads 10; b moves, a reads 1 + 1; a moves, b reads 10 + 10 and a is handed its pending 1
    assert [reward for reward, *_ in seen] == [[0, 10], [2, 0], [1, 20]]
    assert seen[2][2] == [True, True]
    assert seen[2][3][0].returns == {"a": 3.0, "b": 30.0}
    assert seen[2][3][0].length == 3


def test_max_steps_observes_every_agent_that_is_cut_off():
    batch, _ = start(({},), max_steps=3, agents=("a", "b", "c"))
    for _ in range(2):
        batch.step(act(batch))
    team = batch.step(act(batch)).teams[0]
    np.testing.assert_array_equal(team.next_obs[0], [[3, 0], [3, 1], [3, 2]])
    np.testing.assert_array_equal(team.obs[0], [[0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(team.acting[0], [True, False, False])


def test_a_cut_does_not_pay_twice_where_the_environment_clears_rewards_late():
    from pettingzoo.utils.conversions import parallel_to_aec

    script = ({"reward": {"a": 1.0, "b": 1.0, "c": 1.0}},)
    for max_steps in range(1, 12):
        batch = make(lambda: parallel_to_aec(Scripted(script)), max_steps=max_steps)
        batch.reset(0)
        total = np.zeros(3)
        for _ in range(max_steps):
            step = batch.step(act(batch))
            total += step.teams[0].reward[0]
        assert len(step.finished) == 1
        np.testing.assert_array_equal(total, [max_steps // 3] * 3)


def test_rewards_earned_before_anybody_moves_come_with_the_first_row():
    class Ante(Turns):
        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            self._cumulative_rewards.update(a=-1.0, b=-2.0)

    batch = make(lambda: Ante(({}, {"die": ["a", "b"], "reward": {"a": 5.0}})))
    batch.reset(0)
    seen = rows(batch, 4)
    assert [reward for reward, *_ in seen] == [[-1, -2], [5, 0]] * 2
    assert seen[3][3][0].returns == {"a": 4.0, "b": -2.0}


def test_masks_belong_to_the_mover_and_no_row_is_ever_all_false():
    batch, step = start(({},), masked=True)
    for t in range(1, 5):
        action_mask, acting = step.teams[0].action_mask[0], step.teams[0].acting[0]
        np.testing.assert_array_equal(action_mask[acting], [np.arange(3) == (t - 1) % 3])
        assert action_mask[~acting].all()
        step = batch.step(act(batch, (t - 1) % 3))


def test_an_agent_that_leaves_without_a_dead_turn_has_terminated():
    class Vanishing(Turns):
        def step(self, action):
            super().step(action)
            if self.moves == 2 and "a" in self.agents:
                self.agents.remove("a")
                self.agent_selection = "b"

    batch = make(lambda: Vanishing(({},)))
    batch.reset(0)
    batch.step(act(batch))
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].terminated[0], [True, False])
    np.testing.assert_array_equal(step.teams[0].acting[0], [False, True])


def test_returns_equal_what_a_plain_loop_over_last_collects():
    pytest.importorskip("mpe2")
    from mpe2 import simple_spread_v3, simple_tag_v3

    for module in (simple_spread_v3, simple_tag_v3):
        rng = np.random.default_rng(0)
        batch = make(module.env)
        batch.reset(0)
        actions = rng.integers(0, 5, (200, 1, len(batch.spec.agents)))
        finished, t = (), 0
        while not finished:
            finished = batch.step([actions[t]]).finished
            t += 1
        from marl.adapters.copies import derived_seed

        env = module.env()
        env.reset(seed=derived_seed(0, 0, 0))
        totals, t = dict.fromkeys(batch.spec.agents, 0.0), 0
        while env.agents:
            agent = env.agent_selection
            _, reward, terminated, truncated, _ = env.last()
            totals[agent] += reward
            if terminated or truncated:
                env.step(None)
            else:
                env.step(actions[t][0][batch.spec.agents.index(agent)])
                t += 1
        assert finished[0].returns == pytest.approx(totals)
        assert finished[0].length == t


def test_tictactoe_pays_winner_and_loser_once_each():
    pytest.importorskip("pettingzoo.classic.tictactoe_v3")
    batch = make("classic/tictactoe-v3")
    step = batch.reset(0)
    total = np.zeros(2)
    for move in (0, 3, 1, 4, 2):  # the first player fills the first column
        assert step.teams[0].action_mask[0][step.teams[0].acting[0]][0, move]
        step = batch.step(act(batch, move))
        total += step.teams[0].reward[0]
    np.testing.assert_array_equal(total, [1, -1])
    assert step.finished[0].returns == {"player_1": 1.0, "player_2": -1.0}
    assert step.teams[0].terminated.all()


@settings(max_examples=150, deadline=None)
@given(script=MOVES, limit=st.integers(1, 12))
def test_whatever_happens_each_reward_arrives_once_and_each_end_is_told_once(script, limit):
    batch = make(lambda: Eventful(script), max_steps=limit)
    batch.reset(0)
    env = batch.envs[0]
    totals = np.zeros(3)
    ended = np.zeros(3, dtype=int)
    for t in range(1, limit + 1):
        paid, ends = env.paid, env.ends
        step = batch.step(act(batch))
        team = step.teams[0]
        totals += team.reward[0]
        ended += team.terminated[0].astype(int) + team.truncated[0]
        die, cut = ends[t - 1]
        assert {n for n in range(3) if team.terminated[0, n]} == {"abc".index(a) for a in die}
        assert {n for n in range(3) if team.truncated[0, n]} >= {"abc".index(a) for a in cut}
        for n in np.flatnonzero(team.terminated[0] | team.truncated[0]):
            np.testing.assert_array_equal(team.next_obs[0, n], [t, n])
        if step.finished:
            np.testing.assert_array_equal(totals, list(paid.values()))
            assert step.finished[0].returns == paid
            assert step.finished[0].length == t
            np.testing.assert_array_equal(ended, [1, 1, 1])
            return
        assert team.acting[0].sum() == 1
    raise AssertionError("the episode outlived its limit")
