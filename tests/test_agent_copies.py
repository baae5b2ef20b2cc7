"""A single agent that was pickled, copied, or saved and loaded acts like the one it came from."""

from __future__ import annotations

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from pettingzoo import ParallelEnv

import marl
from marl.playing.single import Agent, MixedAgent
from marl.topology import Nearest, Where, Within

PLAIN = Box(-1, 1, (3,))
ACTIONS = {
    "discrete": Discrete(3),
    "discrete from 5": Discrete(3, start=5),
    "multidiscrete": MultiDiscrete([2, 3]),
    "multidiscrete from 5": MultiDiscrete([2, 3], start=[5, 0]),
    "a matrix of choices": MultiDiscrete(np.array([[2, 3], [4, 2]])),
    "multibinary": MultiBinary(3),
    "a matrix of bits": MultiBinary((2, 2)),
    "box": Box(-1, 1, (2,)),
    "box of whole numbers": Box(-3, 9, (2,), np.int64),
    "box of float64": Box(-0.1, 0.1, (2, 1), np.float64),
    "unbounded box": Box(-np.inf, np.inf, (2,)),
}
OBSERVATIONS = {
    "image": Box(0, 255, (12, 12, 3), np.uint8),
    "dict": Dict({"b": Box(-1, 1, (2,)), "a": Discrete(3), "c": MultiBinary(2)}),
    "tuple": Tuple((Box(-1, 1, (2,)), MultiDiscrete([2, 2]))),
    "mask": Dict({"observation": PLAIN, "action_mask": Box(0, 1, (3,), np.int8)}),
}


def world(action, observation=PLAIN):
    class World(gymnasium.Env):
        observation_space, action_space = observation, action

        def look(self):
            seen = self.observation_space.sample()
            if isinstance(seen, dict) and "action_mask" in seen:
                seen["action_mask"] = np.array([1, 0, 1], np.int8)
            return seen

        def reset(self, seed=None, options=None):
            return self.look(), {}

        def step(self, action):
            return self.look(), 1.0, False, True, {}

    return World


class Pair(ParallelEnv):
    """Two agents with 1 and 3 action components."""

    metadata = {"name": "pair_v0", "render_modes": []}
    possible_agents = ["narrow", "wide"]

    spaces = {"narrow": MultiDiscrete([2]), "wide": MultiDiscrete([3, 2, 4])}

    def observation_space(self, agent):
        return PLAIN

    def action_space(self, agent):
        return self.spaces[agent]

    def look(self):
        return {agent: PLAIN.sample() for agent in self.possible_agents}

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self.look(), {"narrow": {}, "wide": {}}

    def step(self, actions):
        who, self.agents = self.agents, []
        pay = {"narrow": 1.0, "wide": -1.0}
        return self.look(), pay, dict.fromkeys(who, False), dict.fromkeys(who, True), {agent: {} for agent in who}


def pickled(agent, folder):
    return pickle.loads(pickle.dumps(agent))


def copied(agent, folder):
    return copy.deepcopy(agent)


def loaded(agent, folder):
    agent.save(folder / "agent")
    again = Agent.load(folder / "agent")
    again.generator.set_state(agent.generator.get_state())
    return again


TALK = [
    None,
    marl.CommNet(),
    marl.TarMAC(rounds=1),
    marl.DIAL(topology=Within(1.0, (0, 1), among=Where(speak=2))),
    marl.CommNet(topology=Nearest(1, (0,))),
]
WAYS = [pickled, copied, loaded]


def play(agent, observations, explore):
    return [agent.act(observation, explore=explore) for observation in observations]


def assert_alike(agent, again, observations):
    assert agent.name == again.name
    for explore in (False, True):
        mine, its = play(agent, observations, explore), play(again, observations, explore)
        for one, other in zip(mine, its, strict=True):
            assert type(one) is type(other)
            np.testing.assert_array_equal(one, other)


def looks(space, count=12):
    space.seed(3)
    seen = [space.sample() for _ in range(count)]
    for observation in seen:
        if isinstance(observation, dict) and "action_mask" in observation:
            observation["action_mask"] = np.array([1, 0, 1], np.int8)
    return seen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("learner", [marl.PPO, marl.TD3])
def test_a_copy_acts_alike_for_every_kind_of_action(kind, learner, way, tmp_path):
    agent = marl.MultiAgentSystem(learner(), world(ACTIONS[kind]), num_envs=2, seed=1).agent("agent_0", seed=4)
    play(agent, looks(PLAIN, 2), explore=True)
    assert_alike(agent, way(agent, tmp_path), looks(PLAIN))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_copy_acts_alike_for_every_kind_of_observation(kind, way, tmp_path):
    space = OBSERVATIONS[kind]
    agent = marl.MultiAgentSystem(marl.PPO(), world(Discrete(3), space), num_envs=2, seed=1).agent("agent_0", seed=4)
    assert_alike(agent, way(agent, tmp_path), looks(space))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("learner", "action"),
    [
        (marl.PPO(network=marl.GRU(8), normalize_obs=True, minibatches=1), Box(-1, 1, (2,))),
        (marl.PPO(squash=True), Box(-1, 1, (2,))),
        (marl.SAC(), Box(-1, 1, (2,))),
        (marl.SAC(), Discrete(3)),
        (marl.DQN(network=marl.MLP((8,), noisy=0.5), dueling=True), Discrete(3)),
        (marl.DQN(distribution=marl.nets.Quantiles(5)), Discrete(3)),
        (marl.Random(), Box(-1, 1, (2,))),
        (marl.Fixed((0.2, 0.3, 0.5)), Discrete(3)),
    ],
    ids=["gru", "squash", "sac box", "sac", "noisy", "quantiles", "random", "fixed"],
)
def test_a_copy_acts_alike_whatever_its_policy(learner, action, way, tmp_path):
    agent = marl.MultiAgentSystem(learner, world(action), num_envs=2, seed=1).agent("agent_0", seed=4)
    again = way(agent, tmp_path)
    assert_alike(agent, again, looks(PLAIN))
    if way is not loaded:  # also in the middle of an episode
        assert_alike(agent, way(agent, tmp_path), looks(PLAIN))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["narrow", "wide"])
@pytest.mark.parametrize("channel", TALK)
def test_a_copy_of_an_agent_beside_another_acts_and_listens_alike(channel, name, way, tmp_path):
    agent = marl.MultiAgentSystem(marl.PPO(channel=channel, minibatches=1), Pair, num_envs=2, seed=1).agent(
        name, seed=4
    )
    again = way(agent, tmp_path)
    if channel is not None and not channel.rounds:
        for one in (agent, again):
            one.hear({"wide" if name == "narrow" else "narrow": np.linspace(-1, 1, agent.size)})
    assert_alike(agent, again, looks(PLAIN))
    if channel is not None:
        np.testing.assert_array_equal(agent.said, again.said)


@pytest.mark.parametrize("way", [pickled, copied])
def test_a_copy_of_an_agent_of_a_mixture_acts_alike(way, tmp_path):
    agents = {"narrow": marl.PPO(rollout=8, minibatches=1), "wide": marl.PPO(rollout=8, minibatches=1)}
    league = marl.PSRO(response_steps=16, games=2, meta_solver="uniform", greedy=False)
    system = marl.MultiAgentSystem(agents, Pair, num_envs=2, seed=1, league=league)
    system.train(steps=64)
    agent = system.agent("narrow", seed=4)
    assert isinstance(agent, MixedAgent)
    again = way(agent, tmp_path)
    for _ in range(5):
        agent.reset()
        again.reset()
        assert_alike(agent, again, looks(PLAIN, 3))
