"""Policy and critic with one trunk: what they share, what they do not, and where they cannot."""

from __future__ import annotations

import dataclasses

import marl_envs
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.nn import functional

import marl
from marl.learners.ppo import RolloutAutograd
from marl.nets import LSTM
from marl.schedules import Clock
from tests.support.learning import fill
from tests.support.tiny import spec_of

MEMORY = {"rollout": 32, "sequence": 16}


def learner_of(config, agents=3, action=None):
    spec = spec_of(agents, action=action or Discrete(5))
    return config.build(spec, spec.teams[0], 4, np.random.SeedSequence(3), "cpu")


def rollout_of(learner):
    """A rollout and what is learnt from it."""
    fill(learner, 1, [0, 1, 2])
    return learner.begin_update(Clock(0, 1))


def test_one_trunk_has_two_output_layers_and_no_second_network():
    apart = learner_of(marl.ippo(rollout=8, agent_id=False))
    one = learner_of(marl.ippo(rollout=8, agent_id=False, shared_trunk=True))
    actor, critic = (sum(p.numel() for p in net.parameters()) for net in (apart.model.actor, apart.model.critic))
    head = 64 * 1 + 1
    assert one.flat.values.shape[1] == actor + head < actor + critic
    assert not list(one.model.critic.parameters())


def test_value_and_policy_are_those_of_the_layers_written_down():
    learner = learner_of(marl.ippo(rollout=8, shared_trunk=True, normalize_advantages=False))
    batch = rollout_of(learner)
    first, second = learner.model.actor.body.layers
    head = learner.model.actor.head
    x = torch.tanh(batch.seen @ first.weight[0] + first.bias[0])
    x = torch.tanh(x @ second.weight[0] + second.bias[0])
    y = x @ head.weight[0] + head.bias[0]
    log_policy = functional.log_softmax(y[..., :5], -1)
    expected = log_policy.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    log_prob, _, value = learner.model.evaluate(batch)
    assert torch.allclose(log_prob, expected, atol=1e-5)
    assert torch.allclose(value, y[..., 5], atol=1e-5)


def test_the_value_begins_with_a_gain_of_its_own():
    learner = learner_of(marl.ippo(rollout=8, shared_trunk=True))
    weight = learner.model.actor.head.weight[0]  # (64, 6)
    assert torch.allclose(weight[:, :5].norm(dim=0), torch.full((5,), 0.01))
    assert torch.allclose(weight[:, 5].norm(), torch.tensor(1.0))


@pytest.mark.parametrize("network", [marl.GRU(12), LSTM(12), None], ids=["gru", "lstm", "mlp"])
@pytest.mark.parametrize("sharing", ["all", "none"])
def test_the_ratio_is_one_before_the_first_change(network, sharing):
    agents = marl.ippo(network=network, shared_trunk=True, sharing=sharing, normalize_values=False, **MEMORY)
    with marl.MultiAgentSystem(agents, marl_envs.Spread, num_envs=4, seed=0) as system:
        learner = system.learners[0]
        seen = []

        def look(clock):
            batch = learner.begin_update(clock)
            log_prob, _, value = learner.model.evaluate(batch)
            seen.append(float((log_prob.detach() - batch.log_prob)[batch.complete].abs().max()))
            assert torch.allclose(value, batch.value, atol=1e-5)
            learner.end_update()
            return {}

        learner.update = look
        system.train(steps=256)  # episodes of 25 steps end within sequences
    assert len(seen) == 2
    assert max(seen) < 1e-6


@pytest.mark.parametrize("network", [marl.GRU(12), LSTM(20)], ids=["gru", "lstm"])
@pytest.mark.parametrize("action", [Discrete(5), Box(-1, 1, (2,))], ids=["discrete", "gaussian"])
def test_twenty_updates_are_those_of_torch(network, action):
    config = marl.ippo(network=network, shared_trunk=True, epochs=2, minibatches=2, normalize_values=False, **MEMORY)
    ours, plain = (learner_of(config, action=action) for _ in range(2))
    plain.flat.values.copy_(ours.flat.values)
    for update in range(20):
        for learner, word in ((ours, "auto"), (plain, "off")):
            fill(learner, update, [0, 1, 2])
            with marl.compiled.use(word):
                learner.generator.manual_seed(update)
                learner.update(Clock(0, 1))
    assert isinstance(ours._gradient, RolloutAutograd)
    assert torch.allclose(ours.flat.values, plain.flat.values, atol=2e-6)


def test_the_loss_of_values_moves_the_policy_s_trunk():
    moved = []
    for weight in (0.0, 5.0):
        learner = learner_of(marl.ippo(rollout=8, shared_trunk=True, value_weight=weight, epochs=1, minibatches=1))
        before = learner.model.actor.body.layers[0].weight.detach().clone()
        fill(learner, 0, [0, 1, 2])
        learner.update(Clock(0, 1))
        moved.append(learner.model.actor.body.layers[0].weight.detach() - before)
        if not weight:
            assert learner.flat.gradients[0, -1] == 0  # the value's bias
    assert not torch.allclose(*moved, atol=1e-5)


def test_agents_act_alone_as_in_their_team_and_out_of_a_bundle(tmp_path):
    agents = marl.ippo(network=marl.GRU(12), shared_trunk=True, normalize_obs=True, **MEMORY)
    with marl.MultiAgentSystem(agents, marl_envs.Spread, num_envs=4, seed=0) as system:
        system.train(steps=256)
        together = system.evaluate(4)
        assert system.evaluate(4, decentralized=True).returns == together.returns
        system.save(tmp_path / "saved")
        system.export(tmp_path / "bundle")
    import marl_runtime

    assert marl_runtime.load(tmp_path / "bundle")
    with marl.MultiAgentSystem.load(tmp_path / "saved", env=marl_envs.Spread) as again:
        assert again.evaluate(4).returns == together.returns


@pytest.mark.parametrize(
    "channel", [marl.CommNet(size=4), marl.TarMAC(rounds=0), marl.IC3Net()], ids=lambda one: type(one).__name__
)
def test_teams_that_talk_share_a_trunk_too(channel):
    agents = marl.ippo(network=marl.GRU(12), shared_trunk=True, channel=channel, **MEMORY)
    with marl.MultiAgentSystem(agents, marl_envs.Spread, num_envs=4, seed=0) as system:
        system.train(steps=256)
        assert system.evaluate(2, decentralized=True).returns == system.evaluate(2).returns


def test_an_older_policy_plays_with_a_trunk_that_is_shared():
    agents = marl.appo(network=marl.GRU(12), shared_trunk=True, lag=1, **MEMORY)
    with marl.MultiAgentSystem(agents, marl_envs.Spread, num_envs=4, seed=0) as system:
        system.train(steps=512)
        assert system.learners[0]._player.net.head.weight.shape[-1] == 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"critic": marl.Joint()}, "reads something else than the policy; use Local"),
        ({"critic_network": marl.MLP((8,))}, "exclude each other"),
        ({"critic": marl.Joint(), "credit": marl.Counterfactual()}, "use Local"),
    ],
)
def test_what_cannot_share_says_so(settings, said):
    with pytest.raises(marl.ConfigError, match=said):
        learner_of(dataclasses.replace(marl.ippo(rollout=8), shared_trunk=True, **settings))


def test_a_shared_trunk_learns_to_balance():
    agents = marl.ippo(shared_trunk=True, rollout=32, lr=3e-3)
    with marl.MultiAgentSystem(agents, "CartPole-v1", num_envs=8, seed=0) as system:
        system.train(steps=20_000)
        assert system.evaluate(20).mean_return > 150
