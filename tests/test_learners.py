"""PPO and A2C by hand numbers, and what they do with data that would break a naive implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import marl
from marl.nets.owner import Owner, weights_of
from marl.schedules import Clock
from tests.support.learning import fill, learner_of
from tests.support.tiny import Constant, Team
from tests.support.watching import Watch


def test_ppo_loss_by_hand():
    """Two rows: ratios 1.5 and 0.5, advantages 2 and -1, clip 0.2, value errors 1 and 3, entropy weight 0.1."""
    learner = learner_of(marl.PPO(rollout=2, minibatches=1, normalize_advantages=False, gae_lambda=0.0), n=1, envs=1)
    fill(learner, 0, [0])
    learner.memory.acting.fill_(True)
    learner.memory.terminated.fill_(False)
    batch = learner.model.prepare(learner.memory, 0.9, 0.0, None)
    with torch.no_grad():
        log_prob, entropy, value = learner.model.evaluate(batch)
    batch.log_prob.copy_(log_prob - torch.log(torch.tensor([1.5, 0.5])).view(1, 2, 1))
    batch.advantage.copy_(torch.tensor([2.0, -1.0]).view(1, 2, 1))
    batch.target.copy_(value + torch.tensor([1.0, 3.0]).view(1, 2, 1))
    loss, kl, parts = learner.compute_loss(batch, weights_of(batch.complete, learner.model.owner), 0.2, 0.1)
    policy = -(min(1.5 * 2, 1.2 * 2) + min(0.5 * -1, 0.8 * -1)) / 2
    assert parts["policy_loss"].item() == pytest.approx(policy, rel=1e-5)
    assert parts["value_loss"].item() == pytest.approx((1 + 9) / 4, rel=1e-5)
    assert loss.item() == pytest.approx(policy + 0.5 * 2.5 - 0.1 * entropy.mean().item(), rel=1e-5)
    assert kl.item() == pytest.approx(((0.5 - np.log(1.5)) + (-0.5 - np.log(0.5))) / 2, rel=1e-4)
    assert parts["clip_fraction"].item() == 1.0


def test_value_clipping_takes_the_larger_error():
    learner = learner_of(marl.PPO(rollout=2, minibatches=1, value_clip=0.5), n=1, envs=1)
    fill(learner, 0, [0])
    learner.memory.acting.fill_(True)
    batch = learner.model.prepare(learner.memory, 0.9, 0.95, None)
    with torch.no_grad():
        _, _, value = learner.model.evaluate(batch)
    batch.value.copy_(value - 2)  # the value moved by +2, clipped it is value - 1.5
    batch.target.copy_(value)
    _, _, parts = learner.compute_loss(batch, weights_of(batch.complete, learner.model.owner), 0.2, 0.0)
    assert parts["value_loss"].item() == pytest.approx(0.5 * 1.5**2, rel=1e-5)


def test_a2c_loss_by_hand():
    learner = learner_of(marl.A2C(rollout=2), n=1, envs=1)
    fill(learner, 0, [0])
    learner.memory.acting.fill_(True)
    batch = learner.model.prepare(learner.memory, 0.9, 1.0, None)
    with torch.no_grad():
        log_prob, entropy, value = learner.model.evaluate(batch)
    batch.advantage.copy_(torch.tensor([2.0, -1.0]).view(1, 2, 1))
    batch.target.copy_(value + 2)
    loss, _ = learner.compute_loss(batch, entropy_weight=0.1)
    policy = -(log_prob[0, :, 0] * torch.tensor([2.0, -1.0])).mean()
    assert loss.item() == pytest.approx((policy + 0.5 * 2.0 - 0.1 * entropy.mean()).item(), rel=1e-5)


def test_weights_are_means_over_each_sets_own_rows():
    complete = torch.tensor([[[True, True, False], [True, False, False]]])  # (1, 2, 3)
    weight = weights_of(complete, Owner((0, 0, 1)))
    assert torch.allclose(weight, torch.tensor([[[1 / 3, 1 / 3, 0], [1 / 3, 0, 0]]]))


def test_kl_stop_freezes_one_parameter_set_alone():
    learner = learner_of(marl.PPO(sharing="none", rollout=8, minibatches=1, epochs=5, target_kl=1e-3, lr=1e-2))
    fill(learner, 0, [0, 1, 2])
    with torch.no_grad():  # true old log-probabilities, and no reason for agent 2 to change
        memory = learner.memory
        parameters, _ = learner.model.actor(memory.obs[:-1], memory.carry[0], memory.started[:-1], memory.acting[:-1])
        memory.log_prob.copy_(learner.model.distribution.evaluate(parameters, None, memory.action)[0])
    memory.acting[:, :, 2] = False
    steps = []
    step = learner.optimizer.step

    def counted(max_norm):
        steps.append(learner.flat.active.tolist())
        return step(max_norm)

    learner.optimizer.step = counted
    learner.update(Clock(0, 1))
    assert steps[0] == [True, True, True]
    assert len(steps) == 5
    assert steps[-1] == [False, False, True]
    assert learner.flat.active.all()


@pytest.mark.parametrize("config", [marl.PPO(rollout=8, minibatches=2), marl.A2C(rollout=8)], ids=["ppo", "a2c"])
def test_a_non_finite_loss_changes_no_parameter_and_is_counted(config):
    learner = learner_of(config)
    fill(learner, 0, [0, 1, 2])
    learner.memory.reward[3, 1, 1] = float("nan")
    before = learner.flat.values.clone()
    metrics = learner.update(Clock(0, 1))
    assert metrics["non_finite"] > 0
    assert torch.equal(before, learner.flat.values)
    fill(learner, 1, [0, 1, 2])
    assert learner.update(Clock(0, 1))["non_finite"] == 0
    assert torch.isfinite(learner.flat.values).all()
    assert not torch.equal(before, learner.flat.values)


def test_training_that_stays_non_finite_ends_with_exit_status_4():
    def poison(system):
        system.learners[0].memory.reward[0] = float("nan")

    system = marl.MultiAgentSystem(marl.PPO(rollout=8, minibatches=2), Team, num_envs=2)
    with pytest.raises(marl.types.NonFiniteError, match="not finite in the last") as caught:
        system.train(steps=5_000, watcher=Watch(poison))
    assert caught.value.exit_code == 4
    assert torch.isfinite(system.learners[0].flat.values).all()


@pytest.mark.parametrize("num_envs", [1, 2])
def test_constant_rewards_and_tiny_batches_divide_by_nothing(num_envs):
    for config in (
        marl.PPO(rollout=1, minibatches=1, normalize_values=True, normalize_obs=True),
        marl.A2C(rollout=1, normalize_advantages=True),
    ):
        system = marl.MultiAgentSystem(config, lambda: Constant(1, terminal=True), num_envs=num_envs)
        history = system.train(steps=40)
        assert torch.isfinite(system.learners[0].flat.values).all()
        assert set(history["episode_lengths"]) == {1}
        assert np.isfinite([value for values in history.values() for value in values]).all()


def test_a_rollout_in_which_nobody_could_act_is_survived():
    learner = learner_of(marl.PPO(rollout=4, minibatches=2, normalize_values=True))
    fill(learner, 0, [0, 1, 2])
    learner.memory.acting.fill_(False)
    before = learner.flat.values.clone()
    metrics = learner.update(Clock(0, 1))
    assert all(torch.isfinite(value) for value in metrics.values())
    assert torch.equal(before, learner.flat.values)


def test_discarded_episodes_are_not_learnt_from():
    system = marl.MultiAgentSystem(marl.PPO(rollout=32, minibatches=1), Team, num_envs=2)
    system.train(steps=30)  # 15 rows: one whole episode of 10 and half of the next
    memory = system.learners[0].memory
    memory._forget(np.array([1]))
    assert memory.acting[:10].all()
    assert not memory.acting[10:16, 1].any()
    assert memory.acting[10:16, 0].all()


@pytest.mark.parametrize("critic", [marl.Local(), marl.Joint(), marl.Joint(of="all"), marl.Joint(of="state")])
@pytest.mark.parametrize("sharing", ["none", "all", {"agent_0": "first", "*": "skip_update"}])
@pytest.mark.parametrize("network", [marl.MLP((8,)), marl.GRU(8)], ids=["mlp", "gru"])
def test_the_grid_trains(critic, sharing, network):
    """Every critic with every sharing and network, on two teams, one of which has a dying member."""
    system = marl.MultiAgentSystem(
        {
            "agent_[01]": marl.PPO(
                critic=critic, sharing=sharing, network=network, rollout=10, sequence=5, minibatches=2
            ),
            "agent_2": marl.A2C(network=network, critic=critic),
        },
        lambda: Team(widths=(2, 4, 3), choices=(2, 3, 2), die=(4,)),
        num_envs=2,
    )
    before = [learner.flat.values.clone() for learner in system.learners]
    history = system.train(steps=100)
    for old, learner in zip(before, system.learners, strict=True):
        assert torch.isfinite(learner.flat.values).all()
        assert not torch.equal(old, learner.flat.values)
    assert len(history["episode_rewards"]) == 10
    report = system.evaluate(2)
    assert report.mean_return == pytest.approx(sum(team.mean_return for team in report.teams.values()))


@pytest.mark.parametrize("network", [marl.MLP((8,)), marl.GRU(8)], ids=["mlp", "gru"])
def test_two_threads_give_the_gradient_of_one(network, monkeypatch):
    import marl.parallel

    def run(worth):
        monkeypatch.setattr(marl.parallel, "WORTH", worth)
        monkeypatch.setattr(marl.parallel, "_threads", 2)
        learner = learner_of(marl.PPO(sharing="none", rollout=8, minibatches=1, epochs=3, network=network))
        fill(learner, 0, [0, 1, 2])
        metrics = learner.update(Clock(0, 1))
        return learner.flat.values.clone(), metrics

    (split, ours), (again, _), (whole, theirs) = run(1), run(1), run(10**9)
    assert torch.equal(split, again)
    assert torch.allclose(split, whole, atol=1e-5)
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=1e-4), name


def test_what_the_other_thread_raises_is_raised_here():
    from marl.parallel import both

    def bad():
        raise KeyError("other")

    with pytest.raises(KeyError, match="other"):
        both(lambda: 1, bad)
    assert both(lambda: 1, lambda: 2) == (1, 2)
