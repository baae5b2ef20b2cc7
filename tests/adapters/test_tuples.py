"""Gymnasium environments whose spaces are tuples, a place for each agent, are environments of several agents."""

import importlib.util

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

import marl
from marl.adapters import make
from marl.adapters.copies import derived_seed
from marl.adapters.tuples import TupleEnv, by_agent
from marl.conformance import check
from marl.types import EnvContractError


class Tuples(gymnasium.Env):
    """Agent ``i`` is paid ``i + action``; ``ends`` says after how many steps each is over; single: one flag for all."""

    observation_space = Tuple((Box(-9, 9, (2,), np.float32), Box(-9, 9, (3,), np.float32)))
    action_space = Tuple((Discrete(2), Discrete(4)))

    def __init__(self, ends=(5, 5), single=True, cut=False, array=False):
        self.ends, self.single, self.cut, self.array = ends, single, cut, array

    def look(self):
        return tuple(self.np_random.uniform(-1, 1, width).astype(np.float32) for width in (2, 3))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.taken = 0, []
        return self.look(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.time += 1
        over = [self.time >= end for end in self.ends]
        no = [False, False]
        flags = (no, over) if self.cut else (over, no)
        rewards = [place + int(choice) for place, choice in enumerate(action)]
        answer = np.array(rewards) if self.array else rewards
        return (self.look(), answer, *((all(x) for x in flags) if self.single else flags), {})


def test_places_in_the_tuple_are_agents_of_their_own():
    batch = make(Tuples, 3)
    step = batch.reset(0)
    assert batch.spec.agents == ("agent_0", "agent_1")
    (team,) = batch.spec.teams
    assert team.obs.widths == (2, 3)
    assert team.action.widths == (2, 4)
    assert step.teams[0].obs.shape == (3, 2, 3)
    assert not batch.spec.turn_based


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("array", [False, True])
def test_the_same_trajectory_as_the_bare_environment(cut, array):
    batch = make(lambda: Tuples(cut=cut, array=array), 2)
    step = batch.reset(7)
    envs = [Tuples(cut=cut) for _ in range(2)]
    seen = [env.reset(seed=derived_seed(7, e, 0))[0] for e, env in enumerate(envs)]
    random = np.random.default_rng(0)
    for t in range(1, 16):
        for e in range(2):
            np.testing.assert_array_equal(step.teams[0].obs[e, 0, :2], seen[e][0])
            np.testing.assert_array_equal(step.teams[0].obs[e, 1], seen[e][1])
        actions = np.stack([random.integers(0, 2, 2), random.integers(0, 4, 2)], axis=1)
        step = batch.step([actions])
        np.testing.assert_array_equal(step.teams[0].reward, actions + np.arange(2))
        over = t % 5 == 0
        assert (step.teams[0].terminated == (over and not cut)).all()
        assert (step.teams[0].truncated == (over and cut)).all()
        for e, env in enumerate(envs):
            seen[e] = env.step((actions[e, 0], actions[e, 1]))[0]
            np.testing.assert_array_equal(step.teams[0].next_obs[e, 1], seen[e][1])
            if over:
                seen[e] = env.reset()[0]


def test_flags_of_their_own_let_one_end_before_the_other():
    inner = Tuples(ends=(2, 4), single=False)
    env = TupleEnv(inner)
    env.reset(seed=0)
    for t in range(1, 5):
        _, rewards, terminated, _, _ = env.step({agent: 1 for agent in env.agents})
        assert set(rewards) == ({"agent_0", "agent_1"} if t <= 2 else {"agent_1"})
        assert terminated == ({"agent_0": t == 2, "agent_1": False} if t <= 2 else {"agent_1": t == 4})
    assert env.agents == []
    assert inner.taken == [(1, 1)] * 4  # a place in the tuple has to be filled

    batch = make(lambda: Tuples(ends=(2, 4), single=False))
    step = batch.reset(0)
    for _ in range(3):
        step = batch.step([np.ones((1, 2), np.int64)])
    assert step.teams[0].acting.tolist() == [[False, True]]


def test_a_tuple_of_observations_alone_is_one_agent():
    class One(Tuples):
        action_space = Discrete(2)

    assert by_agent(env := One()) is env


def test_rewards_that_do_not_fit_are_refused():
    class Short(Tuples):
        def step(self, action):
            observations, _, *rest = super().step(action)
            return observations, [1.0], *rest

    batch = make(Short)
    batch.reset(0)
    with pytest.raises(EnvContractError, match=r"rewards: expected one for each of 2 agents, got 1 values"):
        batch.step([np.ones((1, 2), np.int64)])


def test_they_conform_and_train():
    assert check(Tuples, steps=50).ok
    with marl.MultiAgentSystem(marl.vdn(learning_starts=32, batch=16), Tuples, num_envs=2, seed=0) as system:
        system.train(steps=1_500)
        assert system.evaluate(4).returns_per_agent == {"agent_0": 5.0, "agent_1": 20.0}  # the greatest actions


def test_masks_inside_a_place_are_understood():
    class Masked(Tuples):
        observation_space = Tuple(
            [Dict({"observation": Box(-9, 9, (1,), np.float32), "action_mask": Box(0, 1, (2,), np.int8)})] * 2
        )
        action_space = Tuple((Discrete(2), Discrete(2)))

        def look(self):
            mask = np.array([0, 1], np.int8)
            return tuple({"observation": np.zeros(1, np.float32), "action_mask": mask} for _ in range(2))

    batch = make(Masked)
    assert batch.reset(0).teams[0].action_mask.tolist() == [[[False, True]] * 2]


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lbforaging", None)
    with pytest.raises(marl.ConfigError, match=r"pip install 'marl-system\[lbf\]'"):
        make("Foraging-8x8-2p-2f-coop-v3")


@pytest.mark.skipif(importlib.util.find_spec("lbforaging") is None, reason="needs the extra 'lbf'")
def test_level_based_foraging_by_its_id():
    batch = make("Foraging-8x8-2p-2f-coop-v3", 2)
    step = batch.reset(3)
    assert batch.spec.env == "Foraging-8x8-2p-2f-coop-v3"
    assert step.teams[0].obs.shape == (2, 2, 12)
    bare = gymnasium.make("Foraging-8x8-2p-2f-coop-v3", disable_env_checker=True)
    seen, _ = bare.reset(seed=derived_seed(3, 0, 0))
    random = np.random.default_rng(0)
    for _ in range(50):
        np.testing.assert_array_equal(step.teams[0].obs[0], np.stack(seen))
        actions = random.integers(0, 6, (2, 2))
        step = batch.step([actions])
        seen, rewards, terminated, truncated, _ = bare.step(tuple(actions[0]))
        np.testing.assert_array_equal(step.teams[0].reward[0], np.float32(rewards))
        if terminated or truncated:
            break
    assert step.started[0] == (terminated or truncated)
