"""Policies of every kind: networks, actions, channels, and a world that takes them all."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from pettingzoo import ParallelEnv

import marl

VECTOR, IMAGE = Box(-1, 1, (5,), np.float32), Box(0, 255, (12, 12, 3), np.uint8)
ACTIONS = {
    "discrete": Discrete(4),
    "multidiscrete": MultiDiscrete([2, 3]),
    "multibinary": MultiBinary(3),
    "box": Box(-2, 3, (2,), np.float32),
}
NETWORKS = {
    **{name: marl.MLP((16, 8), activation=name) for name in ("tanh", "relu", "elu", "gelu", "silu")},
    "gru": marl.GRU(8),
    "lstm": marl.nets.LSTM(8),
}
IMAGE_NETWORKS = {
    "cnn": marl.CNN((4, 6), (4, 3), (2, 1), 16),
    "mlp": marl.MLP((8,)),
    "gru": marl.GRU(8, encoder=marl.CNN((4,), (4,), (2,), 8)),
}
CHANNELS = {
    "commnet": marl.CommNet(size=6),
    "commnet of features": marl.CommNet(),
    "ic3net": marl.IC3Net(),
    "tarmac": marl.TarMAC(signature=4, value=6),
    "graph attention": marl.channels.GraphAttention(heads=2, size=3),
    "dial": marl.DIAL(size=3),
}


class Trio(ParallelEnv):
    """Three agents, the last with a narrower action where the kind has one."""

    metadata = {"name": "trio_v0", "render_modes": []}
    possible_agents = ["a", "b", "c"]
    observation, action = VECTOR, ACTIONS["discrete"]

    def observation_space(self, agent):
        return self.observation

    def action_space(self, agent):
        return self.action

    def look(self):
        return {agent: self.observation.sample() for agent in self.agents}

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return self.look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        seen, who = self.look(), self.agents
        self.agents = []
        return (
            seen,
            dict.fromkeys(who, 1.0),
            dict.fromkeys(who, False),
            dict.fromkeys(who, True),
            {agent: {} for agent in who},
        )


def system_of(learner, action=ACTIONS["discrete"], observation=VECTOR):
    world = type("Trio", (Trio,), {"observation": observation, "action": action})
    return marl.MultiAgentSystem(learner, world, num_envs=1, seed=3)


def agent_of(learner, action=ACTIONS["discrete"], observation=VECTOR, name="b"):
    return system_of(learner, action, observation).agent(name, seed=5)


def rows(observation, count=40):
    observation.seed(7)
    return [observation.sample() for _ in range(count)]


def spoken(turn, answers):
    """Everything that an agent says in its turn with how loud it is, and its action."""
    said, answer = [], None
    try:
        while True:
            message, loudness = turn.send(answer)
            said.append(np.append(message, loudness))
            answer = next(answers)
    except StopIteration as end:
        return [*said, np.asarray(end.value)]
