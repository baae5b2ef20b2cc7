"""Identities that must hold exactly: what is the same on paper gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import marl
from marl.schedules import Clock
from tests.support.equality import assert_equal_trees
from tests.support.learning import fill
from tests.support.tiny import Single, Team, spec_of
from tests.support.watching import StopAt

SEED = np.random.SeedSequence(5)


@pytest.mark.parametrize(
    ("config", "action"),
    [
        (marl.PPO(sharing="none", rollout=8, minibatches=2, normalize_obs=True), Discrete(3)),
        (marl.PPO(sharing="none", rollout=8, minibatches=2, network=marl.GRU(8), normalize_values=True), Discrete(3)),
        (marl.PPO(sharing="none", rollout=8, minibatches=2, epochs=6, target_kl=0.002, lr=3e-3), MultiDiscrete([3, 2])),
        (marl.PPO(sharing="none", rollout=8, minibatches=2), Box(-1, 1, (2,), np.float32)),
        (marl.A2C(sharing="none", normalize_advantages=True), MultiBinary(3)),
    ],
    ids=["ppo", "ppo-gru", "ppo-kl-stop", "ppo-box", "a2c-bits"],
)
def test_stacked_parameters_equal_separate_learners(config, action):
    full = spec_of(3, action=action)
    stacked = config.build(full, full.teams[0], 4, SEED.spawn(1)[0], "cpu")
    alone = []
    for agent in range(3):
        spec = spec_of(1, action=action)
        learner = config.build(spec, spec.teams[0], 4, SEED.spawn(1)[0], "cpu")
        learner.flat.values.copy_(stacked.flat.values[agent : agent + 1])
        alone.append(learner)
    for update in range(20):
        fill(stacked, update, [0, 1, 2])
        for agent, learner in enumerate(alone):
            fill(learner, update, [agent])
            learner.generator.set_state(stacked.generator.get_state())
        state = stacked.generator.get_state()
        stacked.update(Clock(0, 1))
        for learner in alone:
            learner.generator.set_state(state)
            learner.update(Clock(0, 1))
    for agent, learner in enumerate(alone):
        assert torch.allclose(learner.flat.values[0], stacked.flat.values[agent], atol=1e-6)


def curve(config, env, steps=1_500, **options):
    system = marl.MultiAgentSystem(config, env, num_envs=2, seed=3, **options)
    history = system.train(steps=steps)
    return history["episode_rewards"], system.learners[0].flat.values.clone()


def test_one_agent_pettingzoo_equals_gymnasium():
    config = marl.PPO(rollout=64)
    rewards, weights = curve(config, "CartPole-v1")
    twin_rewards, twin_weights = curve(config, lambda: Single("CartPole-v1"))
    assert rewards == twin_rewards
    assert len(rewards) > 20
    assert torch.equal(weights, twin_weights)


@pytest.mark.parametrize("network", [None, marl.GRU(8)], ids=["mlp", "gru"])
def test_mappo_with_one_agent_equals_ppo(network):
    _, local = curve(marl.ippo(rollout=32, network=network, minibatches=2), "CartPole-v1", steps=400)
    _, joint = curve(marl.mappo(rollout=32, network=network, minibatches=2), "CartPole-v1", steps=400)
    assert torch.equal(local, joint)


@pytest.mark.parametrize("sharing", ["none", "all", "type"])
def test_same_seed_same_weights_bit_for_bit(sharing):
    config = marl.ippo(sharing=sharing, rollout=16)
    _, first = curve(config, Team, steps=400)
    _, second = curve(config, Team, steps=400)
    assert torch.equal(first, second)


def test_another_seed_gives_other_weights():
    config = marl.ippo(rollout=16)
    _, first = curve(config, Team, steps=100)
    system = marl.MultiAgentSystem(config, Team, num_envs=2, seed=4)
    system.train(steps=100)
    assert not torch.equal(first, system.learners[0].flat.values)


def test_zero_padding_is_exact():
    """An agent padded to a wider team mate learns what it would learn alone."""
    config = marl.PPO(sharing="none", rollout=8, minibatches=2)
    padded_spec = spec_of(2, widths=(3, 5))
    padded = config.build(padded_spec, padded_spec.teams[0], 4, SEED.spawn(1)[0], "cpu")
    spec = spec_of(1, widths=(3,))
    alone = config.build(spec, spec.teams[0], 4, SEED.spawn(1)[0], "cpu")
    wide, narrow = padded.model.state_dict(), alone.model.state_dict()
    for name, value in narrow.items():
        if name != "critic_carry" and not name.endswith("ids"):
            value.copy_(wide[name][:1, : value.shape[1]] if value.dim() == 3 else wide[name][:1])
    for update in range(10):
        fill_padded(padded, alone, update)
        alone.generator.set_state(padded.generator.get_state())
        padded.update(Clock(0, 1))
        alone.update(Clock(0, 1))
    wide, narrow = padded.model.state_dict(), alone.model.state_dict()
    first = "actor.body.layers.0.weight"
    assert torch.allclose(wide[first][0, :3], narrow[first][0], atol=1e-6)
    assert (wide[first][0, 3:] == 0).all()


def fill_padded(padded, alone, seed):
    fill(alone, seed, [0])
    for name in ("acting", "terminated", "truncated", "action", "log_prob", "reward"):
        target, source = getattr(padded.memory, name), getattr(alone.memory, name)
        target.zero_()
        target[:, :, :1].copy_(source)
    padded.memory.obs.zero_()
    padded.memory.obs[..., :1, :3].copy_(alone.memory.obs)
    padded.memory.started.copy_(alone.memory.started)
    padded.memory.time = padded.memory.steps


def test_padded_inputs_start_and_stay_zero_weighted():
    system = marl.MultiAgentSystem(marl.ippo(sharing="none", rollout=16), lambda: Team(widths=(2, 5, 3)), num_envs=2)
    system.train(steps=200)
    weight = system.learners[0].model.actor.body.layers[0].weight
    assert (weight[0, 2:] == 0).all()
    assert (weight[2, 3:] == 0).all()
    assert (weight[1] != 0).any(-1).all()


def test_permuting_agents_permutes_outputs_with_shared_weights():
    spec = spec_of(3)
    learner = marl.PPO(agent_id=False, rollout=4, minibatches=1).build(spec, spec.teams[0], 2, SEED.spawn(1)[0], "cpu")
    net = learner.model.actor
    x = torch.randn(1, 2, 3, 4)
    still, yes = torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, 3, dtype=torch.bool)
    carry = torch.zeros(2, 3, 0)
    order = [2, 0, 1]
    y, _ = net(x, carry, still, yes)
    permuted, _ = net(x[:, :, order], carry, still, yes)
    assert torch.allclose(y[:, :, order], permuted, atol=1e-6)


def test_agent_order_in_dicts_changes_nothing():
    class Reordered(Team):
        def step(self, actions):
            return tuple(dict(reversed(list(part.items()))) for part in super().step(actions))

    config = marl.ippo(rollout=16)
    _, first = curve(config, Team, steps=300)
    _, second = curve(config, Reordered, steps=300)
    assert torch.equal(first, second)


@pytest.mark.parametrize("network", [marl.MLP((16,)), marl.GRU(8)], ids=["mlp", "gru"])
@pytest.mark.parametrize("recipe", [marl.ippo, marl.mappo, marl.ia2c, marl.maa2c])
@pytest.mark.parametrize("sharing", ["none", "all"])
def test_decentralized_evaluation_equals_batched(recipe, network, sharing):
    system = marl.MultiAgentSystem(
        recipe(network=network, sharing=sharing, rollout=8, normalize_obs=True), lambda: Team(die=(None, 4)), num_envs=4
    )
    system.train(steps=200)
    batched, alone = system.evaluate(6), system.evaluate(6, decentralized=True)
    assert batched.returns == alone.returns


@pytest.mark.parametrize("network", [marl.MLP((16,)), marl.GRU(8)], ids=["mlp", "gru"])
@pytest.mark.parametrize(
    "config",
    [
        marl.ippo(rollout=16, normalize_obs=True, normalize_values=True, lr=marl.Linear(1e-3, 0.0)),
        marl.mappo(rollout=16, sharing="none", critic=marl.Joint(of="state")),
        marl.ia2c(rollout=5),
        marl.maa2c(rollout=5, credit=marl.TeamReward()),
    ],
    ids=["ippo", "mappo", "ia2c", "maa2c"],
)
def test_resume_equals_never_having_stopped(config, network, tmp_path):
    import dataclasses

    config = dataclasses.replace(config, network=network)

    def env():
        return Team(die=(None, 4))

    straight = marl.MultiAgentSystem(config, env, num_envs=4, seed=1)
    # A run of 700 steps, cut at 228: inside a rollout, inside an episode.
    straight.train(steps=700)
    cut = marl.MultiAgentSystem(config, env, num_envs=4, seed=1)
    cut.train(steps=700, watcher=StopAt(228))
    cut.save(tmp_path / "checkpoint")
    resumed = marl.MultiAgentSystem.load(tmp_path / "checkpoint", env=env)
    resumed.train(steps=700 - resumed.steps)
    assert_equal_trees(straight.state_dict()["learners"], resumed.state_dict()["learners"])
    assert straight.history["episode_rewards"] == resumed.history["episode_rewards"]
