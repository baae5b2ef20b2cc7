"""What the adapter makes of a Parallel environment in which agents die, join, end differently and go on earning."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.adapters import make
from marl.types import BatchEnv
from tests.adapters.envs import RESET, Scripted, act


def start(script, num_envs=1, patterns=None, max_steps=None, **kwargs):
    batch = make(lambda: Scripted(script, **kwargs), num_envs, patterns, max_steps=max_steps)
    return batch, batch.reset(0)


def test_the_contract_is_met():
    batch, step = start(({},))
    assert isinstance(batch, BatchEnv)
    assert batch.spec.env == "scripted_v0"
    assert batch.spec.agents == ("a", "b", "c")
    assert batch.spec.state_shape == (2,)
    assert not batch.spec.turn_based
    assert step.started.all()
    assert not step.discarded.any()
    assert step.teams[0].acting.all()
    np.testing.assert_array_equal(step.teams[0].obs[0], [[RESET, 0], [RESET, 1], [RESET, 2]])


def test_arrays_are_allocated_once_and_successors_are_the_observations_while_nobody_ends():
    batch, first = start(({},), num_envs=2)
    obs, reward, state = first.teams[0].obs, first.teams[0].reward, first.state
    for _ in range(3):
        step = batch.step(act(batch))
        assert step.teams[0].obs is obs
        assert step.teams[0].reward is reward
        assert step.teams[0].next_obs is obs
        assert step.state is state
        assert step.next_state is state
        assert not step.started.any()


def test_the_middle_one_of_three_dies():
    batch, _ = start(({}, {"die": ["b"], "reward": {"b": -5.0, "a": 1.0}}, {"reward": {"a": 2.0}}, {"die": ["a", "c"]}))
    batch.step(act(batch))
    step = batch.step(act(batch))
    team = step.teams[0]
    np.testing.assert_array_equal(team.acting[0], [True, False, True])
    np.testing.assert_array_equal(team.terminated[0], [False, True, False])
    np.testing.assert_array_equal(team.reward[0], [1, -5, 0])  # a dead agent's last reward is kept
    assert team.next_obs is not team.obs
    np.testing.assert_array_equal(team.next_obs[0], [[2, 0], [2, 1], [2, 2]])  # with its last observation
    np.testing.assert_array_equal(team.obs[0], [[2, 0], [0, 0], [2, 2]])
    assert step.finished == ()
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].terminated[0], [False, False, False])
    np.testing.assert_array_equal(step.teams[0].acting[0], [True, False, True])
    assert step.teams[0].next_obs is step.teams[0].obs
    assert set(batch.envs[0].taken[-1]) == {"a", "c"}  # only the living act
    step = batch.step(act(batch))
    assert step.finished[0].returns == {"a": 3.0, "b": -5.0, "c": 0.0}
    assert step.finished[0].length == 4
    assert step.started.all()
    assert step.teams[0].acting.all()


def test_one_terminates_while_another_is_truncated_in_the_same_step():
    batch, _ = start(({"die": ["a"], "cut": ["b", "c"]},))
    step = batch.step(act(batch))
    team = step.teams[0]
    np.testing.assert_array_equal(team.terminated[0], [True, False, False])
    np.testing.assert_array_equal(team.truncated[0], [False, True, True])
    assert len(step.finished) == 1


def test_termination_wins_over_truncation():
    batch, _ = start(({"die": ["a"], "cut": ["a", "b", "c"]},))
    team = batch.step(act(batch)).teams[0]
    assert not (team.terminated & team.truncated).any()
    np.testing.assert_array_equal(team.terminated[0], [True, False, False])


def test_a_reset_observation_never_appears_as_a_successor():
    batch, _ = start(({}, {}, {"cut": ["a", "b", "c"]}), num_envs=2)
    for t in range(12):
        step = batch.step(act(batch))
        assert (step.teams[0].next_obs[..., 0] != RESET).all()
        assert step.next_state[0, 0] == t % 3 + 1
        if t % 3 == 2:
            assert (step.teams[0].obs[..., 0] == RESET).all()
            assert (step.teams[0].next_obs[..., 0] == 3).all()
            assert (step.state[:, 0] == 0).all()
            assert step.started.all()


def test_rewards_after_death_reach_the_row_and_the_return():
    batch, _ = start(({"die": ["b"]}, {"reward": {"b": 7.0}}, {"cut": ["a", "c"], "reward": {"b": 1.0}}))
    batch.step(act(batch))
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].reward[0], [0, 7, 0])
    assert batch.step(act(batch)).finished[0].returns["b"] == 8.0


def test_late_joiners_are_not_alive_before_they_appear():
    batch, step = start(({}, {"join": ["c"]}, {}, {"cut": ["a", "b", "c"]}), first=("a", "b"))
    np.testing.assert_array_equal(step.teams[0].acting[0], [True, True, False])
    np.testing.assert_array_equal(step.teams[0].obs[0, 2], [0, 0])
    batch.step(act(batch))
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].acting[0], [True, True, True])
    np.testing.assert_array_equal(step.teams[0].obs[0, 2], [2, 2])
    assert step.teams[0].next_obs is step.teams[0].obs
    assert set(batch.envs[0].taken[-1]) == {"a", "b"}
    batch.step(act(batch))
    assert set(batch.envs[0].taken[-1]) == {"a", "b", "c"}
    step = batch.step(act(batch))
    assert step.teams[0].truncated.all()
    np.testing.assert_array_equal(step.teams[0].acting[0], [True, True, False])


def test_endless_episodes_are_truncated_with_their_true_successor():
    batch, _ = start(({"reward": {"a": 1.0}},), max_steps=4)
    for t in range(8):
        step = batch.step(act(batch))
        assert step.teams[0].truncated.all() == (t % 4 == 3)
        assert (step.teams[0].next_obs[0, :, 0] == t % 4 + 1).all()
    assert step.finished[0].returns["a"] == 4.0
    assert step.finished[0].length == 4


def test_max_steps_spares_those_who_terminate_in_that_very_step():
    batch, _ = start(({}, {"die": ["a"]}), max_steps=2)
    batch.step(act(batch))
    team = batch.step(act(batch)).teams[0]
    np.testing.assert_array_equal(team.terminated[0], [True, False, False])
    np.testing.assert_array_equal(team.truncated[0], [False, True, True])


def test_one_step_episodes_follow_each_other():
    batch, _ = start(({"die": ["a", "b", "c"], "reward": {"c": 2.0}},))
    for _ in range(5):
        step = batch.step(act(batch))
        assert step.finished[0].length == 1
        assert step.started.all()
        assert step.teams[0].terminated.all()
        assert step.teams[0].acting.all()


def test_everybody_flagged_ends_the_episode_even_if_env_agents_is_never_pruned():
    def linger(env, observations, rewards, terminations, truncations, infos):
        env.agents = ["a", "b", "c"]
        if env.time >= 2:
            terminations["a"] = True
        if env.time >= 3:
            truncations.update(b=True, c=True)

    batch, _ = start(({"change": linger},))
    batch.step(act(batch))
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].acting[0], [False, True, True])
    step = batch.step(act(batch))
    assert set(batch.envs[0].taken[-1]) == {"a", "b", "c"}  # such environments want an action for everyone
    np.testing.assert_array_equal(step.teams[0].terminated[0], [False, False, False])
    np.testing.assert_array_equal(step.teams[0].truncated[0], [False, True, True])
    assert len(step.finished) == 1


def test_an_ended_agent_without_final_observation_keeps_its_last_one_as_successor():
    def forget(env, observations, rewards, terminations, truncations, infos):
        del observations["b"]

    batch, _ = start(({}, {"cut": ["b"], "change": forget}))
    batch.step(act(batch))
    step = batch.step(act(batch))
    np.testing.assert_array_equal(step.teams[0].next_obs[0, 1], [1, 1])
    np.testing.assert_array_equal(step.teams[0].obs[0, 1], [0, 0])


def test_the_order_of_dictionaries_is_irrelevant():
    def backwards(env, *answer):
        for table in answer:
            entries = list(table.items())
            table.clear()
            table.update(reversed(entries))

    rewards = {"a": 1.0, "b": 2.0, "c": 3.0}
    plain, _ = start(({"reward": rewards},))
    turned, _ = start(({"reward": rewards, "change": backwards},))
    one, other = plain.step(act(plain)), turned.step(act(turned))
    np.testing.assert_array_equal(one.teams[0].obs, other.teams[0].obs)
    np.testing.assert_array_equal(one.teams[0].reward, other.teams[0].reward)


def test_teams_follow_patterns_and_each_gets_its_own_columns():
    batch, _ = start(
        ({"reward": {"x_0": 1.0, "y_0": 2.0, "x_1": 3.0}, "die": ["y_0"]},),
        patterns=["y_*", "x_*"],
        agents=("x_0", "y_0", "x_1"),
    )
    assert [team.name for team in batch.spec.teams] == ["y", "x"]
    step = batch.step([np.array([[2]]), np.array([[0, 1]])])
    assert batch.envs[0].taken[-1] == {"x_0": 0, "y_0": 2, "x_1": 1}
    y, x = step.teams
    np.testing.assert_array_equal(y.reward, [[2]])
    np.testing.assert_array_equal(x.reward, [[1, 3]])
    np.testing.assert_array_equal(y.terminated, [[True]])
    np.testing.assert_array_equal(x.obs[0, :, 1], [0, 2])
    assert x.next_obs is not x.obs


def test_agent_ids_need_not_be_text():
    batch, _ = start(({"reward": {0: 1.0}},), agents=(0, 1))
    assert batch.spec.agents == ("0", "1")
    np.testing.assert_array_equal(batch.step(act(batch)).teams[0].reward, [[1, 0]])


def test_copies_end_independently():
    def end_late(env, observations, rewards, terminations, truncations, infos):
        if env.time >= env.limit:
            truncations.update(dict.fromkeys(truncations, True))
            env.agents = []

    limits = iter([2, 3])

    def factory():
        env = Scripted(({"change": end_late},))
        env.limit = next(limits)
        return env

    batch = make(factory, 2)
    batch.reset(0)
    for t in range(1, 13):
        step = batch.step(act(batch))
        np.testing.assert_array_equal(step.started, [t % 2 == 0, t % 3 == 0])
        assert [episode.copy for episode in step.finished] == [e for e, limit in enumerate((2, 3)) if t % limit == 0]
        true_times = [(t - 1) % limit + 1 for limit in (2, 3)]
        np.testing.assert_array_equal(step.teams[0].next_obs[..., 0], np.repeat(true_times, 3).reshape(2, 3))
        np.testing.assert_array_equal(step.next_state[:, 0], true_times)
        if not step.finished:
            assert step.teams[0].next_obs is step.teams[0].obs


def test_observations_are_copied_on_ingest():
    class Reusing(Scripted):
        buffers = None

        def look(self, agents, time):
            if self.buffers is None:
                self.buffers = {a: np.zeros(2, np.float32) for a in self.possible_agents}
            for a in agents:
                self.buffers[a][:] = [time, self.possible_agents.index(a)]
            return {a: self.buffers[a] for a in agents}

    batch = make(lambda: Reusing(({}, {"cut": ["a", "b", "c"]})))
    batch.reset(0)
    kept = batch.step(act(batch)).teams[0].obs.copy()
    step = batch.step(act(batch))  # the reset in this step overwrites the environment's buffers
    assert (kept[..., 0] == 1).all()
    assert (step.teams[0].next_obs[..., 0] == 2).all()
    assert (step.teams[0].obs[..., 0] == RESET).all()


def test_supersuit_frame_stack_does_not_alias():
    supersuit = pytest.importorskip("supersuit")
    batch = make(lambda: supersuit.frame_stack_v1(Scripted(({}, {}, {}, {"cut": ["a", "b", "c"]})), 3))
    first = batch.reset(0).teams[0].obs[0, 0].copy()
    seen = [batch.step(act(batch)).teams[0].next_obs[0, 0].copy() for _ in range(4)]
    np.testing.assert_array_equal(first[-2:], [RESET, 0])
    assert [float(obs.max()) for obs in seen] == [RESET, RESET, 3, 4]


def test_options_reach_every_reset():
    batch = make(lambda: Scripted(({"cut": ["a", "b", "c"]},)))
    batch.reset(0, {"level": 3})
    batch.step(act(batch))
    assert batch.envs[0].options[-2:] == [{"level": 3}, {"level": 3}]
    batch.reset(0)
    assert batch.envs[0].options[-1] is None


def test_state_can_be_left_out():
    batch = make(Scripted, state=False)
    assert batch.spec.state_shape is None
    assert batch.reset(0).state is None


def test_a_missing_state_is_no_state():
    batch, step = start(({},), state=False)
    assert batch.spec.state_shape is None
    assert step.state is None
    assert step.next_state is None


def test_masks_from_info():
    def masks(env, observations, rewards, terminations, truncations, infos):
        for n, agent in enumerate(infos):
            infos[agent]["action_mask"] = np.eye(3, dtype=np.int8)[(n + env.time) % 3]

    class Masked(Scripted):
        def reset(self, seed=None, options=None):
            observations, infos = super().reset(seed, options)
            for agent in infos:
                infos[agent]["action_mask"] = np.array([0, 1, 1], dtype=np.int8)
            return observations, infos

    batch = make(lambda: Masked(({"change": masks}, {"change": masks, "die": ["a"]}, {"cut": ["b", "c"]})))
    step = batch.reset(0)
    assert batch.spec.teams[0].masked
    np.testing.assert_array_equal(step.teams[0].action_mask[0], [[False, True, True]] * 3)
    step = batch.step(act(batch, 1))
    np.testing.assert_array_equal(step.teams[0].action_mask[0].argmax(-1), [1, 2, 0])
    assert step.teams[0].action_mask.sum() == 3
    step = batch.step(act(batch, 1))
    assert step.teams[0].action_mask[0, 0].all()  # the dead agent's row is never all False
    np.testing.assert_array_equal(step.teams[0].action_mask[0, 1:].argmax(-1), [0, 1])


EVENTS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "die": st.lists(st.sampled_from("abcd"), unique=True, max_size=2),
            "cut": st.lists(st.sampled_from("abcd"), unique=True, max_size=2),
            "join": st.lists(st.sampled_from("abcd"), unique=True, max_size=2),
            "reward": st.dictionaries(st.sampled_from("abcd"), st.integers(-3, 3).map(float)),
        },
    ),
    min_size=1,
    max_size=8,
)


class Eventful(Scripted):
    """Takes only what is possible of each event, and writes down what truly happened in each episode."""

    def __init__(self, script):
        super().__init__(script, agents="abcd", first="abc")
        self.journal = []

    def reset(self, seed=None, options=None):
        self.seen = set("abc")
        self.journal = []
        return super().reset(seed, options)

    def step(self, actions):
        wish = self.script[min(self.time, len(self.script) - 1)]
        here = set(self.agents)
        entry = {
            "die": [a for a in wish.get("die", ()) if a in here],
            "cut": [a for a in wish.get("cut", ()) if a in here],
            "join": [a for a in wish.get("join", ()) if a not in self.seen],
            "reward": {a: r for a, r in wish.get("reward", {}).items() if a in self.seen},
        }
        self.seen |= set(entry["join"])
        whole, self.script = self.script, [entry] * (self.time + 1)
        answer = super().step(actions)
        self.script = whole
        self.journal.append((entry, sorted(here), sorted(self.agents), sorted(actions)))
        return answer


@settings(max_examples=150, deadline=None)
@given(script=EVENTS)
def test_whatever_happens_the_arrays_tell_it_as_it_was(script):
    batch = make(lambda: Eventful(script), max_steps=12)
    batch.reset(0)
    env, names = batch.envs[0], list("abcd")
    totals = dict.fromkeys(names, 0.0)
    for t in range(1, 13):
        journal = env.journal
        step = batch.step(act(batch))
        team = step.teams[0]
        entry, before, after, acted = journal[t - 1]
        assert acted == before
        over = not after or t == 12
        for n, agent in enumerate(names):
            terminated = agent in entry["die"]
            truncated = not terminated and (agent in entry["cut"] or (over and agent in before))
            assert team.terminated[0, n] == terminated
            assert team.truncated[0, n] == truncated
            assert team.reward[0, n] == entry["reward"].get(agent, 0.0)
            totals[agent] += entry["reward"].get(agent, 0.0)
            shown = [t, n] if agent in before or agent in after else [0, 0]
            np.testing.assert_array_equal(team.next_obs[0, n], shown)
            if not over:
                assert team.acting[0, n] == (agent in after)
                np.testing.assert_array_equal(team.obs[0, n], shown if agent in after else [0, 0])
        assert step.started[0] == over
        if over:
            assert step.finished[0].returns == totals
            np.testing.assert_array_equal(team.acting[0], [True, True, True, False])
            return
        assert step.finished == ()
