"""Custom networks with dropout or batch norm: training mode in gradient steps, evaluation mode everywhere else."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

import marl
from marl.nets.stacked import fitting, parts_with_mode
from tests.support.equality import assert_equal_trees
from tests.support.tiny import Team
from tests.support.watching import StopAt


class Still(gymnasium.Env):
    """Random looks, paid for the action itself; episodes of 10 steps."""

    observation_space = Box(-1, 1, (3,))

    def __init__(self, action=None):
        self.action_space = action or Discrete(3)

    def look(self):
        return (self.np_random.random(3) * 2 - 1).astype(np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.look(), {}

    def step(self, action):
        self.time += 1
        return self.look(), float(np.sum(action)), self.time == 10, False, {}


MODES = []  # of every forward of :class:`Watched`: whether it trains, and whether gradients are wanted


class Watched(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.linear = nn.Linear(inputs, 16)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        MODES.append((self.training, torch.is_grad_enabled()))
        if self.training:
            self.seen += 1
        return torch.tanh(self.linear(x))


def dropout(shape, extra):
    return nn.Sequential(nn.Linear(shape[0] + extra, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16))


def batchnorm(shape, extra):
    return nn.Sequential(nn.Linear(shape[0] + extra, 16), nn.BatchNorm1d(16), nn.ReLU())


def plain(shape, extra):
    return nn.Sequential(nn.Linear(shape[0] + extra, 16), nn.Tanh(), nn.LayerNorm(16))


def watched(shape, extra):
    return Watched(shape[0] + extra)


def custom(net):
    return marl.Custom(net, width=16)


OFF = {"learning_starts": 8, "batch": 8, "updates_per_step": 0.5, "lr": 1e-3}
BOX = Box(-1, 1, (2,))
LEARNERS = {
    "ppo": (lambda net: marl.PPO(network=net, rollout=8, epochs=2, minibatches=2), None),
    "mappo": (lambda net: marl.PPO(network=net, rollout=8, minibatches=2, critic=marl.Joint()), None),
    "a2c": (lambda net: marl.A2C(network=net), None),
    "dqn": (lambda net: marl.DQN(network=net, **OFF), None),
    "weighted qmix": (lambda net: marl.DQN(network=net, credit=marl.WeightedQMix(), **OFF), None),
    "ddpg": (lambda net: marl.DDPG(network=net, **OFF), BOX),
    "td3": (lambda net: marl.TD3(network=net, **OFF), BOX),
    "sac": (lambda net: marl.SAC(network=net, **OFF), BOX),
    "sac of choices": (lambda net: marl.SAC(network=net, **OFF), None),
}
learners = pytest.mark.parametrize("name", LEARNERS)
nets = pytest.mark.parametrize("net", [dropout, batchnorm], ids=["dropout", "batch norm"])


def trained(name, net, num_envs=2, steps=48, seed=0):
    config, action = LEARNERS[name]
    system = marl.MultiAgentSystem(config(custom(net)), lambda: Still(action), num_envs=num_envs, seed=seed)
    system.train(steps=steps)
    return system


def buffers(learner):
    """Every running statistic by name."""
    modules = {"model": learner.model} if hasattr(learner, "model") else learner.modules()
    return {
        f"{owner}.{name}": value.clone()
        for owner, module in modules.items()
        for name, value in module.named_buffers()
        if "copies" in name
    }


@learners
@nets
def test_greedy_returns_are_the_same_batched_alone_and_again(name, net):
    system = trained(name, net)
    batched, again, alone = (system.evaluate(4, seed=3, decentralized=one).returns for one in (False, False, True))
    assert batched == again
    assert batched == pytest.approx(alone, abs=1e-5)


@learners
def test_evaluation_and_acting_change_no_statistics(name):
    system = trained(name, batchnorm)
    learner = system.learners[0]
    before = buffers(learner)
    assert any("running_mean" in key for key in before)
    system.evaluate(4)
    system.evaluate(4, greedy=False)
    system.agent("agent_0").act(np.zeros(3, np.float32))
    learner.act(learner.memory.current(), explore=True)
    after = buffers(learner)
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@learners
def test_training_moves_statistics(name):
    learner = trained(name, batchnorm).learners[0]
    moved = {key: value for key, value in buffers(learner).items() if key.endswith("num_batches_tracked")}
    assert moved
    for key, count in moved.items():
        assert count > 0, key  # of targets too: they are copied


@learners
def test_one_copy_trains_as_many_do(name):
    assert trained(name, batchnorm, num_envs=1).steps == 48


@learners
def test_a_network_trains_in_gradient_steps_and_nowhere_else(name):
    MODES.clear()
    system = trained(name, watched)
    assert (True, True) in MODES
    assert (True, False) not in MODES
    MODES.clear()
    system.evaluate(2)
    system.evaluate(2, decentralized=True)
    assert MODES
    assert not any(training for training, _ in MODES)


@pytest.mark.parametrize("name", ["dqn", "ddpg", "td3", "sac", "weighted qmix"])
def test_targets_have_the_statistics_of_their_networks(name):
    learner = trained(name, batchnorm).learners[0]
    pairs = {
        "dqn": [("net", "target")],
        "weighted qmix": [("net", "target"), ("central.net", "central.target")],
        "ddpg": [("actor", "actor_target"), ("critic.online", "critic.target")],
        "td3": [("actor", "actor_target"), ("critic.online", "critic.target")],
        "sac": [("critic.online", "critic.target")],
    }[name]
    if name in ("ddpg", "td3", "sac"):
        learner.critic.track(learner.settings.tau)
        if hasattr(learner, "actor_target_flat"):
            learner.actor_target_flat.follow(learner.actor_flat, learner.settings.tau)
    found = buffers(learner)
    for online, target in pairs:
        keys = [key for key in found if key.startswith(f"{online}.")]
        assert keys
        for key in keys:
            assert torch.equal(found[key], found[key.replace(online, target, 1)]), key


@pytest.mark.parametrize("name", ["ppo", "dqn", "td3"])
@nets
def test_a_seed_gives_the_same_numbers_whatever_else_draws(name, net):
    first = trained(name, net)
    torch.manual_seed(12345)
    torch.rand(7)
    second = trained(name, net)
    assert_equal_trees(first.state_dict()["learners"], second.state_dict()["learners"])


def test_training_leaves_torchs_own_random_stream_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    trained("ppo", dropout)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["ppo", "dqn"])
@nets
def test_resuming_equals_never_having_stopped(name, net, tmp_path):
    config, _ = LEARNERS[name]
    straight = marl.MultiAgentSystem(config(custom(net)), Still, num_envs=2, seed=1)
    straight.train(steps=96)
    cut = marl.MultiAgentSystem(config(custom(net)), Still, num_envs=2, seed=1)
    cut.train(steps=96, watcher=StopAt(38))
    cut.save(tmp_path / "checkpoint")
    resumed = marl.MultiAgentSystem.load(tmp_path / "checkpoint", env=Still, agents=config(custom(net)))
    resumed.train(steps=96 - resumed.steps)
    assert_equal_trees(straight.state_dict()["learners"], resumed.state_dict()["learners"])


def test_the_first_ratio_is_noisy_with_dropout_and_one_without():
    for net, noisy in ((dropout, True), (plain, False)):
        config = marl.PPO(network=custom(net), rollout=8, epochs=1, minibatches=1)
        system = marl.MultiAgentSystem(config, Still, num_envs=2, seed=0)
        history = system.train(steps=16)
        assert (abs(history["kl"][-1]) > 1e-7) == noisy


@pytest.mark.parametrize("sharing", ["all", "none", {"agent_0": "first", "*": "rest"}])
def test_statistics_are_of_those_who_act(sharing):
    """The dead show zeros, which must not enter a mean: agent 1 dies after 2 of 10 steps, all others see ones."""

    class Ones(Team):
        def _look(self, agents):
            return {agent: np.ones(3, np.float32) for agent in agents}

    def first(shape, extra):
        return nn.Sequential(nn.BatchNorm1d(shape[0] + extra, momentum=None), nn.Linear(shape[0] + extra, 16))

    config = marl.A2C(network=custom(first), sharing=sharing, rollout=10, agent_id=False)
    system = marl.MultiAgentSystem(config, lambda: Ones(die=(None, 2)), num_envs=2, seed=0)
    system.train(steps=40)
    means = [value for key, value in buffers(system.learners[0]).items() if key.endswith("running_mean")]
    assert means
    for mean in means:
        torch.testing.assert_close(mean, torch.ones(3))


def test_only_networks_whose_mode_matters_change_it():
    class Own(nn.Module):
        pass

    assert parts_with_mode(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.LayerNorm(2), nn.Conv1d(1, 1, 1))) == []
    spec_free = marl.MultiAgentSystem(marl.ippo(rollout=8, network=custom(plain)), Still, num_envs=2).learners[0]
    assert spec_free.parts_with_mode == []
    stream = torch.Generator().manual_seed(0)
    before = stream.get_state()
    with fitting([], stream):
        pass
    assert torch.equal(stream.get_state(), before)
    for part in (nn.Dropout(), nn.BatchNorm2d(3), nn.RReLU(), nn.MultiheadAttention(4, 2), nn.GRU(2, 2), Own()):
        assert parts_with_mode(nn.Sequential(nn.Linear(2, 2), part)) == [part]
