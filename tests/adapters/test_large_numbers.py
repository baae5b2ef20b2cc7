"""Finite numbers that a float32 does not hold are named as such: never infinite in silence, never called NaN."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv

import marl
from marl.adapters import make
from marl.types import EnvContractError

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning", "ignore:agent .* got a reward")
LARGE = Box(-1e300, 1e300, (2,), np.float64)


class Alone(gymnasium.Env):
    """Shows ``look`` and pays ``pay`` from step ``since`` on; episodes end after 7 steps."""

    action_space = Discrete(2)

    def __init__(self, look=0.0, pay=1.0, since=0, space=LARGE):
        self.observation_space, self.look, self.pay, self.since = space, look, pay, since

    def seen(self):
        look = np.array([0.5, self.look if self.time >= self.since else 0.0])
        return {"a": look, "b": 1} if isinstance(self.observation_space, Dict) else look

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.seen(), {}

    def step(self, action):
        self.time += 1
        return self.seen(), self.pay if self.time >= self.since else 1.0, self.time == 7, False, {}


class Pair(ParallelEnv):
    """Two agents; a ``state`` and the second one's rewards may be large."""

    metadata = {"name": "pair_v0", "render_modes": []}
    possible_agents = ["a", "b"]

    def __init__(self, world=0.0, pay=1.0):
        self.world, self.pay = world, pay

    def observation_space(self, agent):
        return Box(-1, 1, (1,))

    def action_space(self, agent):
        return Discrete(2)

    def state(self):
        return np.array([0.0, self.world])

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return dict.fromkeys(self.agents, np.zeros(1, np.float32)), {"a": {}, "b": {}}

    def step(self, actions):
        looks, no = dict.fromkeys(self.agents, np.zeros(1, np.float32)), dict.fromkeys(self.agents, False)
        return looks, {"a": 1.0, "b": self.pay}, no, no, {"a": {}, "b": {}}


def play(factory, steps=10):
    batch = make(factory, 2)
    batch.reset(0)
    for _ in range(steps):
        yield batch.step([np.zeros((2, team.num_agents), np.int64) for team in batch.spec.teams])


@pytest.mark.parametrize("space", [LARGE, Dict({"a": LARGE, "b": Discrete(2)})], ids=["box", "dict"])
@pytest.mark.parametrize("look", [1e299, -1e39, np.float64(3.5e38)])
@pytest.mark.parametrize("since", [0, 3, 7])
def test_a_large_observation_is_named_with_agent_and_step(space, look, since):
    words = rf"copy 0 agent 'agent_0' step {since}: observation: expected finite numbers, got {look:g}, too large"
    with pytest.raises(EnvContractError, match=words.replace("+", r"\+")):
        list(play(lambda: Alone(look=look, since=since, space=space)))


@pytest.mark.parametrize("look", [np.nan, -np.inf])
def test_other_bad_observations_keep_their_name(look):
    with pytest.raises(EnvContractError, match="step 3: observation: expected finite numbers, got NaN or infinity"):
        list(play(lambda: Alone(look=look, since=3, space=Box(-np.inf, np.inf, (2,), np.float64))))


@pytest.mark.parametrize("pay", [1e39, -1e300, np.float64(4e38), 10**39])
def test_a_large_reward_is_named_with_agent_and_step(pay):
    said = f"{float(pay):g}".replace("+", r"\+")
    with pytest.raises(EnvContractError, match=rf"'agent_0' step 3: reward: .* got {said}, too large for float32"):
        list(play(lambda: Alone(pay=pay, since=3)))
    with pytest.raises(EnvContractError, match=r"agent 'b' step 1: reward: .* too large for float32"):
        list(play(lambda: Pair(pay=pay)))


def test_rewards_that_a_float32_holds_are_kept_as_they_are():
    step = next(play(lambda: Alone(pay=3e38)))
    np.testing.assert_array_equal(step.teams[0].reward, np.float32(3e38))


def test_a_large_state_is_named():
    with pytest.raises(EnvContractError, match=r"step 0: state: expected finite numbers, got 1e\+200, too large for"):
        list(play(lambda: Pair(world=1e200)))


@pytest.mark.parametrize("learner", [marl.PPO(rollout=8, minibatches=1), marl.DQN(learning_starts=16, batch=8)])
@pytest.mark.parametrize("body", [{"look": 1e299}, {"pay": 1e39}], ids=["observation", "reward"])
def test_training_ends_at_the_first_number_that_is_too_large(learner, body):
    system = marl.MultiAgentSystem(learner, lambda: Alone(since=5, **body), num_envs=2, seed=0)
    with pytest.raises(EnvContractError, match="too large for float32"):
        system.train(steps=200)
