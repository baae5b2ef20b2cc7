"""Whatever torch's default number is, because a script or an environment has set it: what is computed is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import nn

import marl
from marl.exploration import BoltzmannGumbel, EpsilonGreedy, OrnsteinUhlenbeck
from marl.shaping import RND, CountBonus, EpisodicNovelty, SocialInfluence
from tests.support.tiny import Acting

CONTINUOUS = Box(-1, 1, (2,), np.float32)
NET = {"network": marl.MLP((8, 8))}
ON = {"rollout": 8} | NET
PPO = ON | {"minibatches": 2, "epochs": 2}
OFF = {"learning_starts": 16, "batch": 8, "buffer": 64, "updates_per_step": 0.25} | NET
DQN = EpsilonGreedy(0.4, spread=3.0)
COMBINATIONS = {
    "ppo": (marl.PPO(**PPO), Discrete(3)),
    "ppo-none": (marl.PPO(**PPO, sharing="none", normalize_obs=True, normalize_values=True), Discrete(3)),
    "ppo-gru": (marl.PPO(**PPO | {"network": marl.GRU(8)}, sequence=4), MultiDiscrete([3, 2])),
    "ppo-box": (marl.PPO(**PPO, critic=marl.Joint()), CONTINUOUS),
    "ppo-squashed": (marl.PPO(**PPO, squash=True), CONTINUOUS),
    "ppo-elu": (marl.PPO(**PPO | {"network": marl.MLP((8,), "elu")}, sharing="none"), Discrete(3)),
    "ppo-cnn": (marl.PPO(**PPO | {"network": marl.CNN((4,), (3,), (2,), 8)}), MultiBinary(2)),
    "happo": (marl.happo(**PPO), Discrete(3)),
    "a2c": (marl.A2C(**ON, entropy=0.01), MultiBinary(2)),
    "coma": (marl.coma(**ON), Discrete(3)),
    "commnet": (marl.PPO(**PPO, channel=marl.CommNet(size=4, rounds=1), sequence=4), Discrete(3)),
    "ic3net": (marl.PPO(**PPO, channel=marl.IC3Net(size=4), sequence=4), Discrete(3)),
    "tarmac": (marl.A2C(**ON, channel=marl.TarMAC(signature=4, value=4), sequence=4), Discrete(3)),
    "attention": (marl.A2C(**ON, channel=marl.GraphAttention(heads=1, size=4), sequence=4), CONTINUOUS),
    "dial": (marl.DQN(**OFF, channel=marl.DIAL(size=2), sequence=4), Discrete(3)),
    "dqn": (marl.DQN(**OFF, exploration=DQN), Discrete(3)),
    "dqn-noisy": (marl.DQN(**OFF | {"network": marl.MLP((8,), noisy=0.5)}), Discrete(3)),
    "dqn-lenient": (marl.DQN(**OFF, leniency=0.5, hysteresis=0.4, prioritized=marl.memory.Prioritized()), Discrete(3)),
    "c51": (marl.DQN(**OFF, distribution=marl.nets.Atoms(-1.0, 5.0, 11), dueling=True), Discrete(3)),
    "qr": (marl.DQN(**OFF, distribution=marl.nets.Quantiles(5), n_step=3), Discrete(3)),
    "lambda": (marl.DQN(**OFF | {"network": marl.GRU(8)}, sequence=4, td_lambda=0.7), Discrete(3)),
    "vdn": (marl.vdn(**OFF), Discrete(3)),
    "qmix": (marl.qmix(**OFF), Discrete(3)),
    "qplex": (marl.qplex(**OFF), Discrete(3)),
    "wqmix": (marl.wqmix(**OFF), Discrete(3)),
    "ddpg": (marl.DDPG(**OFF, exploration=OrnsteinUhlenbeck()), CONTINUOUS),
    "maddpg": (marl.maddpg(**OFF), MultiDiscrete([3, 2])),
    "facmac": (marl.facmac(**OFF), CONTINUOUS),
    "td3": (marl.TD3(**OFF, sharing="none"), CONTINUOUS),
    "sac": (marl.SAC(**OFF), CONTINUOUS),
    "masac": (marl.masac(**OFF), CONTINUOUS),
    "sac-discrete": (marl.SAC(**OFF, exploration=BoltzmannGumbel()), Discrete(3)),
    "hindsight": (marl.DDPG(**OFF, hindsight=marl.memory.Hindsight("marl_envs.reach:compute_reward")), CONTINUOUS),
    "random": (marl.Random(), CONTINUOUS),
}


@pytest.fixture
def double():
    """The default dtype as a user might set it; given back afterwards."""
    yield lambda: torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)


def played(name, **options):
    settings, space = COMBINATIONS[name]
    env = lambda: Acting(space, image="cnn" in name, goals=name == "hindsight")  # noqa: E731
    system = marl.MultiAgentSystem(settings, env, num_envs=2, seed=0, **options)
    system.train(steps=48)
    report = system.evaluate(episodes=1, decentralized=True)
    return list(tensors(system.learners[0].state_dict())), report.mean_return


def tensors(tree, name=""):
    """The tensors of a saved state with their names."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from tensors(part, f"{name}.{key}")
    elif isinstance(tree, torch.Tensor):
        yield name, tree.clone()


@pytest.mark.parametrize("name", COMBINATIONS)
def test_training_computes_the_same_numbers_under_another_default_dtype(name, double):
    wanted, returns = played(name)
    double()
    found, others = played(name)
    assert others == returns
    for (key, one), (other_key, other) in zip(wanted, found, strict=True):
        assert key == other_key
        assert one.dtype == other.dtype, key
        assert torch.equal(one, other), key


@pytest.mark.parametrize(
    "options",
    [
        {"shaping": [RND()]},
        {"shaping": [EpisodicNovelty()]},
        {"shaping": [SocialInfluence(), CountBonus()]},
        {"channel": marl.Spoken(words=3)},
    ],
    ids=["rnd", "novelty", "influence", "spoken"],
)
def test_bonuses_and_words_are_the_same_under_another_default_dtype(options, double):
    wanted, returns = played("ppo", **options)
    double()
    found, others = played("ppo", **options)
    assert others == returns
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(wanted, found, strict=True))


def test_a_network_of_the_user_s_own_is_made_float32(double):
    """Whether its parameters, its buffers or what it makes on the way take the default."""

    class Own(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = nn.Linear(width, 8)
            self.register_buffer("offset", torch.zeros(8))

        def forward(self, x):
            return self.layer(x) + self.offset + torch.ones(len(x), 8)

    double()
    network = marl.Custom(lambda shape, extra: Own(shape[0] + extra), 8)
    for settings, space in ((marl.PPO(**PPO | {"network": network, "normalize_values": False}), Discrete(3)),
                            (marl.SAC(**OFF | {"network": network}), CONTINUOUS)):  # fmt: skip
        system = marl.MultiAgentSystem(settings, lambda space=space: Acting(space), num_envs=2, seed=0)
        system.train(steps=48)
        learner = system.learners[0]
        nets = [learner.model] if hasattr(learner, "model") else list(learner.modules().values())
        floats = {tensor.dtype for net in nets for tensor in net.state_dict().values() if tensor.is_floating_point()}
        assert floats == {torch.float32}
