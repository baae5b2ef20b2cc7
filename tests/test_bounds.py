"""Continuous actions at the ends of what numbers can be: no bounds, the largest bounds, and no component at all."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete

import marl
from marl import conformance
from marl.nets import distributions
from marl.spaces import action_decoder, action_spec
from tests.support.tiny import Wide

LARGEST = float(np.finfo(np.float32).max)


class Looking(gymnasium.Env):
    """Keeps every action; nothing depends on it."""

    observation_space = Box(-1, 1, (3,))

    def __init__(self, space, actions=None):
        self.action_space, self.actions = space, [] if actions is None else actions

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.actions.append(np.array(action))
        self.time += 1
        return np.zeros(3, np.float32), 0.0, self.time == 7, False, {}


def actions_of(config, space):
    actions = []
    system = marl.MultiAgentSystem(config, lambda: Looking(space, actions), num_envs=2, seed=0)
    system.train(steps=64)
    return np.array(actions)


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        (np.float32, LARGEST),
        (np.float64, LARGEST),
        (np.float64, 1e300),
        (np.float64, float(np.finfo(np.float64).max)),
        (np.float16, 65504),
    ],
)
def test_the_largest_number_is_no_bound(dtype, bound):
    largest = action_spec(["a"], [Box(-bound, bound, (2,), dtype)])
    assert largest == action_spec(["a"], [Box(-np.inf, np.inf, (2,), dtype)])
    assert action_spec(["a"], [Box(0, bound, (1,), dtype)]).low == ((0.0,),)


def test_a_wide_box_has_a_finite_scale():
    box = distributions.Box(action_spec(["a"], [Box(-3e38, 2e38, (1,))]))
    assert box.scale.item() == pytest.approx(2.5e38)
    assert box.place(torch.tensor([[0.5]])).item() == pytest.approx(0.75e38)
    assert box.place(torch.tensor([[9.0]])).item() == pytest.approx(2e38)


@pytest.mark.parametrize(
    "config",
    [marl.PPO(rollout=8), marl.TD3(learning_starts=16, batch=8), marl.DDPG(learning_starts=16, batch=8)],
    ids=["ppo", "td3", "ddpg"],
)
def test_policies_act_within_the_largest_bounds_as_without_any(config):
    largest, unbounded = (actions_of(config, Box(-bound, bound, (2,))) for bound in (LARGEST, np.inf))
    np.testing.assert_array_equal(largest, unbounded)
    assert np.abs(largest).max() < 10


def test_a_squashed_policy_in_a_huge_box_rarely_acts_at_its_bounds():
    actions = actions_of(marl.SAC(learning_starts=16, batch=8), Box(-3e38, 3e38, (2,)))
    assert np.isfinite(actions).all()
    assert np.mean(np.abs(actions) >= 2.99e38) < 0.05


def test_a_squashed_policy_refuses_the_largest_bounds():
    with pytest.raises(marl.ConfigError, match=r"finite bounds \(the largest float is none\); give .* or use PPO"):
        marl.MultiAgentSystem(marl.SAC(), lambda: Looking(Box(-LARGEST, LARGEST, (1,))))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
def test_whole_numbers_stay_on_their_side_of_zero(dtype):
    """float32 rounds the largest int64 up to a number that as an int64 is the lowest one."""
    ends = np.iinfo(dtype)
    space = Box(ends.min, ends.max, (2,), dtype)
    low, high = action_decoder(space)(np.array([ends.min, ends.max], np.float32))
    assert low == ends.min
    assert high >= ends.max - ends.max // 2**52
    assert space.contains(np.array([low, high]))


@pytest.mark.parametrize("space", [Box(-1, 1, (0,)), Box(-1, 1, (2, 0)), MultiDiscrete([])])
@pytest.mark.parametrize("config", [marl.PPO(rollout=8), marl.A2C(), marl.TD3(), marl.Random()])
def test_an_agent_with_nothing_to_decide_is_refused_by_name(config, space):
    with pytest.raises(marl.ConfigError, match=r"'agent_0': action space .* has no component, so there is nothing to"):
        marl.MultiAgentSystem(config, lambda: Looking(space), num_envs=2)


def test_the_check_says_of_an_agent_with_nothing_to_decide_that_nobody_can_train_it():
    report = conformance.check(lambda: Looking(Box(-1, 1, (0,))), steps=20)
    assert not report.ok
    assert any("has no component" in finding.text for finding in report.errors)
    assert all(verdict.startswith("no, there is nothing to decide") for verdict in report.learners.values())


@pytest.mark.parametrize(
    "config",
    [
        marl.PPO(sharing="none", rollout=8, minibatches=1),
        marl.A2C(sharing="none"),
        marl.DDPG(sharing="none", learning_starts=16, batch=8, critic=marl.Joint()),
        marl.TD3(sharing="none", learning_starts=16, batch=8),
        marl.SAC(sharing="none", learning_starts=16, batch=8),
    ],
    ids=lambda config: type(config).__name__,
)
def test_an_agent_with_nothing_to_decide_may_stand_beside_one_that_has(config):
    system = marl.MultiAgentSystem(
        config, lambda: Wide(Box(-1, 1, (2,), np.float32), Box(-1, 1, (0,), np.float32)), num_envs=2, seed=0
    )
    history = system.train(steps=64, log_every=2)
    assert all(np.isfinite(values).all() for values in history.values())
    if isinstance(config, marl.PPO):
        assert (system.learners[0].memory.log_prob[..., 1] == 0).all()
    assert system.evaluate(2, decentralized=True).episode_lengths == (5, 5)
