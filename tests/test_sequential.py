"""Sequential updates: each agent heeds those before it; one agent alone is PPO."""

from __future__ import annotations

import pytest
import torch

import marl
from tests.support.tiny import Team


def trained(config, env, steps=400):
    system = marl.MultiAgentSystem(config, env, num_envs=2, seed=3)
    system.train(steps=steps)
    return system.learners[0]


def test_with_one_agent_happo_is_mappo_bit_for_bit():
    env = lambda: Team(widths=(3,), choices=(2,))  # noqa: E731
    settings = {"rollout": 16, "critic": marl.Joint(), "credit": marl.TeamReward(), "sharing": "none"}
    sequential, plain = (trained(marl.PPO(sequential=s, **settings), env) for s in (True, False))
    assert torch.equal(sequential.flat.values, plain.flat.values)


def test_an_update_moves_one_set_at_a_time():
    learner = trained(marl.happo(rollout=8), Team, steps=8)
    seen = []
    step = learner.optimizer.step

    def watched(max_norm):
        seen.append(learner.flat.active.tolist())
        return step(max_norm)

    learner.optimizer.step = watched
    system = marl.MultiAgentSystem(marl.happo(rollout=8), Team, num_envs=2, seed=3)
    system.learners[0] = learner
    system.training.step = None
    system.train(steps=32)
    assert seen
    assert all(sum(row) == 1 for row in seen)
    assert {row.index(True) for row in seen} == {0, 1, 2}


def test_advantages_are_weighed_by_the_ratios_of_those_before():
    system = marl.MultiAgentSystem(marl.happo(rollout=8, lr=1e-2), Team, num_envs=2, seed=3)
    learner = system.learners[0]
    epochs, seen = learner._epochs, []

    def watched(batch, running, *rest):
        with torch.no_grad():
            ratio = (learner.model.evaluate(batch)[0] - batch.log_prob).exp()  # (L, C, N), before this set's turn
        seen.append((running.copy(), batch.advantage.clone(), ratio))
        return epochs(batch, running, *rest)

    learner._epochs = watched
    system.train(steps=16)
    (_, first, ones), *later = seen
    assert torch.allclose(ones, torch.ones_like(ones), atol=1e-5)
    before = seen[0][0]
    for running, advantage, ratio in later:
        factor = ratio[..., sorted(before)].prod(-1, keepdim=True)
        assert torch.allclose(advantage, first * factor, atol=1e-5)
        assert not torch.allclose(advantage, first, atol=1e-4)
        before |= running
    assert before == {0, 1, 2}


def test_happo_learns_what_a_team_is_paid_for():
    system = marl.MultiAgentSystem(marl.happo(rollout=32, lr=3e-3), Team, num_envs=8, seed=0)
    system.train(steps=8_000)
    assert system.evaluate(20).mean_return > 0.9 * 30


def test_shared_parameters_have_no_order():
    with pytest.raises(marl.ConfigError, match="sharing='none'"):
        marl.MultiAgentSystem(marl.PPO(sequential=True), Team, num_envs=2)
