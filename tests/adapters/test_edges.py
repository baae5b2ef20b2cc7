"""Rewards at the edges of an agent's life: as it joins, before it ever did, and as it leaves without a dead turn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo.utils.conversions import parallel_to_aec

import marl
from marl import conformance
from marl.adapters import make
from marl.studies.versus import versus
from marl.types import EnvContractError
from tests.adapters.envs import MOVES, Eventful, Scripted, Turns, act


def rewards(batch, steps):
    """The reward row of so many steps, and the episodes that ended."""
    batch.reset(0)
    rows, finished = [], []
    for _ in range(steps):
        step = batch.step(act(batch))
        rows.append(step.teams[0].reward[0].tolist())
        finished += step.finished
    return rows, finished


# --- joining ------------------------------------------------------------------------------------------------------

JOINING = (
    {"reward": {"a": 1.0}},
    {"reward": {"a": 1.0, "c": 5.0}, "join": ["c"]},
    {"reward": {"a": 1.0, "c": 2.0}},
    {"reward": {"a": 1.0, "c": 4.0}, "cut": ["a", "b", "c"]},
)


def test_what_an_agent_is_paid_on_joining_comes_with_its_first_own_row():
    batch = make(lambda: Scripted(JOINING, first=("a", "b")))
    rows, finished = rewards(batch, 8)
    assert rows == [[1, 0, 0], [1, 0, 0], [1, 0, 5 + 2], [1, 0, 4]] * 2
    assert [episode.returns for episode in finished] == [{"a": 4.0, "b": 0.0, "c": 11.0}] * 2


def test_if_the_episode_is_cut_as_it_joins_the_reward_comes_at_once():
    batch = make(lambda: Scripted(JOINING, first=("a", "b")), max_steps=2)
    rows, finished = rewards(batch, 4)
    assert rows == [[1, 0, 0], [1, 0, 5]] * 2
    assert finished[0].returns == {"a": 2.0, "b": 0.0, "c": 5.0}


def test_nothing_of_an_episode_that_crashed_comes_with_the_next_one():
    def crash(env, *answer):
        env.crashed = True
        raise RuntimeError("gone")

    script = ({"join": ["c"], "reward": {"c": 5.0}}, {"change": crash}, {}, {})
    batch = make(lambda: Scripted(script, first=("a", "b")))
    batch.reset(0)
    batch.step(act(batch))
    assert batch.step(act(batch)).discarded.all()
    np.testing.assert_array_equal(batch.step(act(batch)).teams[0].reward, [[0, 0, 0]])


def test_rewards_of_one_who_has_not_joined_yet_are_the_teams():
    script = ({"reward": {"c": 3.0}}, {"reward": {"c": 4.0}}, {"cut": ["a", "b"], "reward": {"c": 1.0}})
    batch = make(lambda: Scripted(script, first=("a", "b")))
    rows, finished = rewards(batch, 3)
    assert rows == [[0, 0, 3], [0, 0, 4], [0, 0, 1]]
    assert finished[0].returns == {"a": 0.0, "b": 0.0, "c": 8.0}


def test_rewards_of_one_who_was_never_announced_are_a_breach():
    batch = make(lambda: Scripted(({"reward": {"d": 3.0}},), first=("a", "b")))
    with pytest.raises(EnvContractError, match="agent 'd' step 1: reward: expected agents among"):
        rewards(batch, 1)


def test_an_evaluation_reports_what_was_paid_on_joining():
    with marl.MultiAgentSystem(marl.Random(), lambda: Scripted(JOINING, first=("a", "b")), num_envs=1) as system:
        report = system.evaluate(3)
    assert report.returns_per_agent == {"a": 4.0, "b": 0.0, "c": 11.0}
    assert report.mean_return == 15.0


def test_the_check_names_rewards_of_agents_that_never_joined():
    script = ({"reward": {"c": 3.0}}, {"cut": ["a", "b"]})
    found = conformance.check(lambda: Scripted(script, first=("a", "b")), steps=20)
    (told,) = [one for one in found.findings if one.rule == "reward_without_agent"]
    assert told.level == "warning"
    assert "'c'" in told.text
    found = conformance.check(lambda: Scripted(JOINING, first=("a", "b")), steps=20)
    assert not [one for one in found.findings if one.rule == "reward_without_agent"]


# --- leaving a turn-based game ------------------------------------------------------------------------------------


class Emptying(Turns):
    """Takes everybody out of ``agents`` after ``moves`` moves; ``flags``: what it says of that before, or nothing."""

    def __init__(self, script, ends=3, flags=None, keeps=True, **kwargs):
        super().__init__(script, **kwargs)
        self.ends, self.flags, self.keeps = ends, flags, keeps

    def step(self, action):
        super().step(action)
        if self.moves == self.ends:
            if self.flags is not None:
                setattr(self, self.flags, dict.fromkeys(self.agents, True))
            if not self.keeps:
                self._cumulative_rewards = {}
            self.infos = {agent: {"won": agent == "a"} for agent in self.agents}
            self.agents = []


# a, b, a move: b reads 10 when its turn comes, a reads 1 + 2; then a has earned 4, and b 20 + 40 since its last turn.
PAID = ({"reward": {"a": 1.0, "b": 10.0}}, {"reward": {"a": 2.0, "b": 20.0}}, {"reward": {"a": 4.0, "b": 40.0}})


@pytest.mark.parametrize("flags", [None, "terminations", "truncations"])
@pytest.mark.parametrize("limit", [None, 3, 4])
def test_who_is_let_go_without_a_dead_turn_is_paid_what_it_earned_last_exactly_once(flags, limit):
    batch = make(lambda: Emptying(PAID, flags=flags), max_steps=limit)
    batch.reset(0)
    seen = []
    for _ in range(6):
        step = batch.step(act(batch))
        seen.append(step.teams[0].reward[0].tolist())
        ended = step.teams[0].terminated[0], step.teams[0].truncated[0]
        if step.finished:
            assert step.finished[0].returns == {"a": 7.0, "b": 70.0}
            assert step.finished[0].info == {"won": 0.5}
            assert ended[flags == "truncations"].all()
            assert not ended[flags != "truncations"].any()
            if flags == "truncations":  # then the true successor is bootstrapped from
                np.testing.assert_array_equal(step.teams[0].next_obs[0], [[3, 0], [3, 1]])
    assert seen == [[0, 10], [3, 0], [4, 60]] * 2


def test_it_equals_what_dead_turns_bring():
    dying = (*PAID[:2], {**PAID[2], "die": ["a", "b"]})
    assert rewards(make(lambda: Turns(dying)), 3)[0] == rewards(make(lambda: Emptying(PAID)), 3)[0]


def test_one_who_never_had_a_turn_is_paid_too():
    class Ante(Emptying):
        def reset(self, seed=None, options=None):
            super().reset(seed, options)
            self._cumulative_rewards["c"] = -1.0

    batch = make(lambda: Ante(({"reward": {"c": -2.0}}, {}), ends=2, agents=("a", "b", "c")))
    rows, finished = rewards(batch, 2)
    assert rows == [[0, 0, 0], [0, 0, -3]]
    assert finished[0].returns["c"] == -3.0


def test_one_who_leaves_midway_is_paid_and_the_game_goes_on():
    class Leaving(Turns):
        def step(self, action):
            super().step(action)
            if self.moves == 2 and "a" in self.agents:
                self.agents.remove("a")
                self.agent_selection = "b"

    rows, finished = rewards(make(lambda: Leaving((*PAID, {"die": ["b"]}))), 4)
    # After b's move a has earned 1 + 2. b, selected again, reads 20; then it moves alone: 40, and nothing more.
    assert rows == [[0, 10], [3, 20], [0, 40], [0, 0]]
    assert finished[0].returns == {"a": 3.0, "b": 70.0}


def test_a_reward_that_cannot_be_known_is_refused():
    with pytest.raises(EnvContractError, match=r"agent 'a' step 3: reward: expected a dead turn.*cannot be read"):
        rewards(make(lambda: Emptying(PAID, keeps=False)), 3)
    rows, _ = rewards(make(lambda: Emptying(({},), keeps=False)), 3)  # nobody had earned anything
    assert rows == [[0, 0]] * 3


def test_environments_that_clear_rewards_late_do_not_pay_twice():
    def vanish(env, observations, *others):
        del observations["b"]  # so that the conversion drops b without a dead turn

    script = (
        {"reward": {"a": 1.0, "b": 2.0, "c": 4.0}},
        {"reward": {"a": 1.0, "b": 2.0, "c": 4.0}, "die": ["b"], "change": vanish},
        {"reward": {"a": 1.0, "c": 4.0}, "die": ["a", "c"]},
    )
    rows, finished = rewards(make(lambda: parallel_to_aec(Scripted(script))), 8)
    assert finished[0].returns == {"a": 3.0, "b": 4.0, "c": 12.0}
    np.testing.assert_array_equal(np.sum(rows, axis=0), [3, 4, 12])


class Vanishing(Eventful):
    """Whoever ends is out of ``agents`` at once."""

    def step(self, action):
        super().step(action)
        gone = [a for a in self.agents if self.terminations[a] or self.truncations[a]]
        if gone:
            onward = getattr(self, "_skip_agent_selection", None) or self.agent_selection
            self._skip_agent_selection = None
            self.agents = [a for a in self.agents if a not in gone]
            self.agent_selection = onward if onward in self.agents else next(iter(self.agents), None)


@settings(max_examples=150, deadline=None)
@given(script=MOVES, limit=st.integers(1, 12))
def test_whatever_happens_without_dead_turns_each_reward_arrives_once(script, limit):
    batch = make(lambda: Vanishing(script), max_steps=limit)
    batch.reset(0)
    env, totals, ended = batch.envs[0], np.zeros(3), np.zeros(3, dtype=int)
    for t in range(1, limit + 1):
        paid, ends = env.paid, env.ends
        step = batch.step(act(batch))
        team = step.teams[0]
        totals += team.reward[0]
        ended += team.terminated[0].astype(int) + team.truncated[0]
        die, cut = ends[t - 1]
        assert {n for n in range(3) if team.terminated[0, n]} == {"abc".index(a) for a in die}
        assert {n for n in range(3) if team.truncated[0, n]} >= {"abc".index(a) for a in cut}
        if step.finished:
            np.testing.assert_array_equal(totals, list(paid.values()))
            assert step.finished[0].returns == paid
            np.testing.assert_array_equal(ended, [1, 1, 1])
            return
    raise AssertionError("the episode outlived its limit")


def test_evaluation_and_versus_tell_who_won():
    final = (*({} for _ in range(5)), {"reward": {"a": 1.0, "b": -1.0}})
    with marl.MultiAgentSystem(marl.Random(), lambda: Emptying(final, ends=6), num_envs=1) as system:
        assert system.evaluate(3).returns_per_agent == {"a": 1.0, "b": -1.0}
        scores = versus(system, games=2)
    assert (scores["a"].wins, scores["a"].losses) == (2, 0)
    assert (scores["b"].wins, scores["b"].losses) == (0, 2)


def test_the_check_names_agents_that_are_let_go_without_a_dead_turn():
    found = conformance.check(lambda: Emptying(PAID), steps=20)
    told = [one for one in found.findings if one.rule == "left_without_end"]
    assert {one.level for one in told} == {"warning"}
    assert len(told) == 2
    assert "_cumulative_rewards" in told[0].text
