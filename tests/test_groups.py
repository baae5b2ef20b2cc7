"""More parameter sets than one and fewer than agents: every network, channel, action and learner trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import nn

import marl
from marl.learners.ddpg import DDPGLearner
from marl.learners.sac import SACLearner
from marl.learners.td3 import TD3Learner
from marl.nets.owner import Owner
from tests.support.tiny import Acting

GROUPS = {"agent_0": "one", "agent_*": "others"}
ACTIONS = {
    "discrete": Discrete(3),
    "box": Box(-1, 1, (2,), np.float32),
    "multidiscrete": MultiDiscrete([3, 2]),
    "bits": MultiBinary(2),
}
NETWORKS = {
    "tanh": marl.MLP((8, 8)),
    "elu": marl.MLP((8,), "elu"),
    "gru": marl.GRU(8),
    "cnn": marl.CNN((4,), (3,), (2,), 8),
    "custom": marl.Custom(lambda shape, extra: nn.Linear(shape[0] + extra, 8), 8),
}
CHANNELS = {
    "alone": None,
    "commnet": marl.CommNet(size=4),
    "commnet-rounds": marl.CommNet(size=4, rounds=1),
    "ic3net": marl.IC3Net(size=4),
    "tarmac": marl.TarMAC(signature=4, value=4),
    "attention": marl.GraphAttention(heads=1, size=4),
    "dial": marl.DIAL(size=2),
}
OFF_POLICY = {"learning_starts": 16, "batch": 4, "buffer": 64, "updates_per_step": 0.25}
LEARNERS = {
    "ppo": (marl.PPO, {"rollout": 8, "minibatches": 1, "epochs": 2}, set(ACTIONS)),
    "mappo": (marl.PPO, {"rollout": 8, "minibatches": 1, "epochs": 2, "critic": marl.Joint()}, set(ACTIONS)),
    "a2c": (marl.A2C, {"rollout": 8}, set(ACTIONS)),
    "dqn": (marl.DQN, OFF_POLICY, {"discrete"}),
    "ddpg": (marl.DDPG, OFF_POLICY, set(ACTIONS)),
    "td3": (marl.TD3, OFF_POLICY, set(ACTIONS)),
    "sac": (marl.SAC, OFF_POLICY, {"discrete", "box"}),
    "masac": (marl.SAC, OFF_POLICY | {"critic": marl.Joint()}, {"discrete", "box"}),
}


def combinations():
    """Learners x actions x networks without a channel; with a learnt one learners x channels, channels x networks."""
    found = [
        (learner, action, network, "alone")
        for learner, (_, _, actions) in LEARNERS.items()
        for action in ACTIONS
        if action in actions
        for network in NETWORKS
    ]
    for channel in CHANNELS:
        if channel != "alone":
            found += [(learner, next(iter(sorted(LEARNERS[learner][2]))), "tanh", channel) for learner in LEARNERS]
            found += [("ppo", "discrete", network, channel) for network in NETWORKS if network != "tanh"]
    return found


@pytest.mark.parametrize(("learner", "action", "network", "channel"), combinations())
def test_groups_of_agents_train(learner, action, network, channel):
    kind, values, _ = LEARNERS[learner]
    sequence = {"sequence": 4} if network == "gru" or channel != "alone" else {}
    settings = kind(sharing=GROUPS, network=NETWORKS[network], channel=CHANNELS[channel], **values | sequence)
    system = marl.MultiAgentSystem(
        settings, lambda: Acting(ACTIONS[action], image=network == "cnn"), num_envs=2, seed=0
    )
    before = [flat.values.clone() for flat in flats(system.learners[0])]
    system.train(steps=48)
    for flat, old in zip(flats(system.learners[0]), before, strict=True):
        assert flat.values.isfinite().all()
        assert (flat.values != old).any(1).all()  # every set moved


def flats(learner):
    """The parameter matrices of a learner's policy and critics."""
    if isinstance(learner, DDPGLearner | TD3Learner | SACLearner):
        return [learner.actor_flat, learner.critic.flat]
    return [learner.flat]


@pytest.mark.parametrize("index", [(0, 1, 1), (0, 0), (0, 1)])
def test_who_owns_what_has_gradients_also_if_it_was_first_asked_while_acting(index):
    owner = Owner(index)
    with torch.inference_mode():
        within = Owner(index)
        owner.weight(torch.zeros(owner.num_sets, 2))
        owner.to_agents(torch.zeros(owner.num_sets))
    for one in (owner, within):
        parameter = torch.ones(one.num_sets, 2, requires_grad=True)
        (one.weight(parameter).sum() + one.to_agents(parameter).sum()).backward()
        each = [2.0 * index.count(which) for which in range(one.num_sets)]
        wanted = [1.0 + len(index)] if one.flat else each  # one set is not spread
        assert parameter.grad[:, 0].tolist() == wanted
