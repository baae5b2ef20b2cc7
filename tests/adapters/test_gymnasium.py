"""What the adapter makes of a Gymnasium environment: a team of one, reset in the step that ends its episode."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from marl.adapters import make
from marl.adapters.copies import derived_seed
from tests.adapters.envs import Walk


class Echo(gymnasium.Env):
    """Keeps the actions it is given."""

    observation_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space
        self.taken = []

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken.append(action)
        return np.zeros(1, np.float32), 0, False, False, {}


def test_one_agent_is_a_team_of_one():
    batch = make(Walk, 3)
    step = batch.reset(0)
    assert batch.spec.agents == ("agent_0",)
    assert step.teams[0].obs.shape == (3, 1, 2)
    assert step.state is None
    assert not batch.spec.turn_based


def test_the_same_trajectory_as_the_bare_environment():
    batch = make(Walk, 2)
    step = batch.reset(5)
    actions = np.random.default_rng(0).integers(0, 2, (300, 2, 1))
    for e in range(2):
        step = batch.reset(5)
        env = Walk()
        obs, _ = env.reset(seed=derived_seed(5, e, 0))
        total, length = 0.0, 0
        for action in actions:
            np.testing.assert_array_equal(step.teams[0].obs[e, 0], obs)
            step = batch.step([action])
            obs, reward, terminated, _, _ = env.step(int(action[e, 0]))
            total, length = total + reward, length + 1
            np.testing.assert_array_equal(step.teams[0].next_obs[e, 0], obs)
            assert step.teams[0].reward[e, 0] == np.float32(reward)
            assert step.teams[0].terminated[e, 0] == terminated
            assert step.started[e] == terminated
            if terminated:
                mine = [episode for episode in step.finished if episode.copy == e]
                assert mine[0].returns["agent_0"] == total
                assert mine[0].length == length
                obs, _ = env.reset()
                total, length = 0.0, 0


def test_time_limits_are_truncations():
    batch = make("Pendulum-v1")
    batch.reset(0)
    for t in range(200):
        step = batch.step([np.zeros((1, 1, 1), np.float32)])
        assert step.teams[0].truncated[0, 0] == (t == 199)
        assert not step.teams[0].terminated[0, 0]
    assert step.teams[0].next_obs is not step.teams[0].obs
    assert not np.array_equal(step.teams[0].next_obs, step.teams[0].obs)


@pytest.mark.parametrize(
    ("space", "given", "taken"),
    [
        (Discrete(3), 2, 2),
        (Discrete(3, start=-1), 2, 1),
        (MultiDiscrete([3, 4]), [2, 3], [2, 3]),
        (MultiDiscrete([3, 4], start=[1, -1]), [0, 1], [1, 0]),
        (MultiDiscrete([[2, 3], [4, 5]]), [1, 2, 3, 4], [[1, 2], [3, 4]]),
        (MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (MultiBinary((2, 2)), [1, 0, 0, 1], [[1, 0], [0, 1]]),
        (Box(-2, 2, (2,), np.float32), [0.5, -3.0], [0.5, -2.0]),
        (Box(-1, 1, (2, 1), np.float64), [0.25, 1.0], [[0.25], [1.0]]),
        (Box(0, 0.1, (1,), np.float64), [0.1], [0.1]),
        (Box(0, 9, (2,), np.int64), [3.6, 9.4], [4, 9]),
        (Box(-np.inf, np.inf, (1,), np.float32), [1e4], [1e4]),
    ],
)
def test_actions_arrive_as_the_environment_expects_them(space, given, taken):
    env = Echo(space)
    batch = make(env)
    batch.reset(0)
    action = batch.spec.teams[0].action
    batch.step([np.array([[given]], dtype=action.dtype)])
    np.testing.assert_allclose(env.taken[-1], taken, rtol=1e-6)


def test_dict_tuple_and_discrete_observations_are_flattened():
    class Rich(Echo):
        observation_space = gymnasium.spaces.Dict(
            {"where": Discrete(3), "what": gymnasium.spaces.Tuple((Box(0, 1, (2,), np.float32), MultiBinary(2)))}
        )
        action_space = Discrete(2)

        def __init__(self):
            pass

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            self.sample = self.observation_space.sample()
            return self.sample, {}

    env = Rich()
    step = make(env).reset(0)
    np.testing.assert_array_equal(
        step.teams[0].obs[0, 0], gymnasium.spaces.flatten(env.observation_space, env.sample).astype(np.float32)
    )


def test_image_observations_stay_bytes_with_channels_first():
    class Camera(Echo):
        observation_space = Box(0, 255, (4, 6, 3), np.uint8)
        action_space = Discrete(2)

        def __init__(self):
            pass

        def reset(self, *, seed=None, options=None):
            return np.arange(72, dtype=np.uint8).reshape(4, 6, 3), {}

    batch = make(Camera)
    team = batch.reset(0).teams[0]
    assert batch.spec.teams[0].obs.shape == (3, 4, 6)
    assert team.obs.dtype == np.uint8
    np.testing.assert_array_equal(team.obs[0, 0], np.arange(72).reshape(4, 6, 3).transpose(2, 0, 1))
