"""Losses that are not finite move nothing, are counted and told, and end the training if they stay."""

from __future__ import annotations

import logging

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

import marl
from marl import ops
from marl.nets.stacked import FlatParameters, backward_through
from marl.optim import Adam, Stepper
from marl.schedules import Clock
from tests.support.learning import fill, learner_of

pytestmark = pytest.mark.filterwarnings("ignore:agent .* got a reward")

OFF = {"learning_starts": 16, "batch": 8}
BOX = Box(-1, 1, (2,))


class Rich(gymnasium.Env):
    """Pays ``pay`` or twice as much, at random."""

    observation_space = Box(-1, 1, (3,))

    def __init__(self, space, pay=1e30):
        self.action_space, self.pay = space, pay

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.random(3).astype(np.float32), {}

    def step(self, action):
        self.time += 1
        pay = self.pay * (1 + self.np_random.random())
        return self.np_random.random(3).astype(np.float32), pay, self.time == 7, False, {}


def train(config, space=BOX, steps=200, pay=1e30):
    system = marl.MultiAgentSystem(config, lambda: Rich(space, pay), num_envs=2, seed=0)
    return system, system.train(steps=steps, log_every=2)


OVERFLOWING = {
    "ppo, compiled": marl.PPO(rollout=8, normalize_values=False),
    "ppo, autograd": marl.PPO(rollout=8, normalize_values=False, network=marl.MLP((8,), activation="elu")),
    "ppo, recurrent": marl.PPO(rollout=8, normalize_values=False, network=marl.GRU(8), minibatches=1),
    "a2c": marl.A2C(),
    "dqn, compiled": marl.DQN(**OFF),
    "dqn, autograd": marl.DQN(dueling=True, **OFF),
    "dqn, prioritized": marl.DQN(prioritized=marl.memory.Prioritized(), **OFF),
    "vdn": marl.DQN(credit=marl.VDN(), **OFF),
    "qmix": marl.DQN(credit=marl.QMix(), **OFF),
    "weighted qmix": marl.DQN(credit=marl.WeightedQMix(), **OFF),
    "ddpg of choices": marl.DDPG(**OFF),
    "sac of choices": marl.SAC(**OFF),
}
OVERFLOWING_BOXES = {
    "ppo": marl.PPO(rollout=8, normalize_values=False),
    "ddpg": marl.DDPG(**OFF),
    "facmac": marl.DDPG(credit=marl.QMix(), **OFF),
    "td3": marl.TD3(**OFF),
    "sac, compiled": marl.SAC(**OFF),
    "sac, autograd": marl.SAC(network=marl.MLP((8,), activation="elu"), **OFF),
}


@pytest.mark.parametrize(
    ("config", "space"),
    [(config, Discrete(2)) for config in OVERFLOWING.values()]
    + [(config, BOX) for config in OVERFLOWING_BOXES.values()],
    ids=[*OVERFLOWING, *(f"{name}, box" for name in OVERFLOWING_BOXES)],
)
def test_rewards_whose_squares_overflow_end_the_training(config, space):
    """A squared error of 1e60 is no float32, though its gradient, of 1e30, is one and clips to something ordinary."""
    with pytest.raises(marl.types.NonFiniteError, match="not finite in the last 1"):
        train(config, space)


@pytest.mark.parametrize(
    "config",
    [
        marl.PPO(rollout=8, normalize_values=True),
        marl.DQN(huber=1.0, **OFF),
        marl.DQN(distribution=marl.nets.Atoms(), **OFF),
        marl.DQN(distribution=marl.nets.Quantiles(5), **OFF),
    ],
    ids=["normalized values", "huber", "atoms", "quantiles"],
)
def test_losses_that_do_not_square_large_rewards_stay_finite_in_every_row(config):
    _, history = train(config, BOX if isinstance(config, marl.PPO) else Discrete(2))
    assert len(history["steps"]) > 5
    for name, values in history.items():
        assert np.isfinite(values).all(), name


def test_a_training_that_ends_before_patience_does_is_told_of_lost_updates(caplog):
    with caplog.at_level(logging.WARNING, logger="marl.system"):
        train(marl.A2C(rollout=8), steps=48)
    told = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(told) == 1
    assert "value_loss" in told[0]
    assert "scale rewards" in told[0]


def test_an_ordinary_training_is_told_nothing(caplog):
    with caplog.at_level(logging.WARNING, logger="marl.system"):
        train(marl.A2C(rollout=8), steps=48, pay=1.0)
    assert not [record for record in caplog.records if "finite" in record.getMessage()]


@pytest.mark.parametrize("where", ["compiled", "torch"])
@pytest.mark.parametrize("loss", [np.inf, -np.inf, np.nan])
def test_a_loss_that_is_not_finite_moves_neither_parameters_nor_moments(where, loss):
    flat = FlatParameters([nn.ParameterList([nn.Parameter(torch.ones(2, 8))])], 2)
    adam = Stepper(Adam(), flat, lr=0.1)

    def step(loss):
        flat.gradients.fill_(1.0)
        flat.loss = torch.tensor(loss)
        if where == "compiled":
            adam.step(1.0)
        else:
            adam.step_of_torch(1.0)

    step(3.0)
    before = [x.clone() for x in (flat.values, *adam.state_dict().values())]
    for times in (1, 2):
        step(loss)
        assert int(flat.non_finite) == times
        for old, new in zip(before, (flat.values, *adam.state_dict().values()), strict=True):
            assert torch.equal(old, new)
    step(3.0)
    assert int(flat.non_finite) == 0
    assert (flat.values < before[0]).all()


@pytest.mark.parametrize("where", ["compiled", "torch"])
def test_a_row_without_a_finite_gradient_is_not_carried_on_by_its_moments(where):
    flat = FlatParameters([nn.ParameterList([nn.Parameter(torch.ones(2, 8))])], 2)
    adam = Stepper(Adam(), flat, lr=0.1)
    for bad in (0.0, np.nan):
        before = flat.values.clone()
        flat.gradients.fill_(1.0)
        flat.gradients[1, 3] += bad
        if where == "compiled":
            adam.step(1.0)
        else:
            adam.step_of_torch(1.0)
    assert (flat.values[0] < before[0]).all()
    assert torch.equal(flat.values[1], before[1])


def test_every_way_to_a_gradient_tells_of_its_loss():
    flats = [FlatParameters([nn.ParameterList([nn.Parameter(torch.ones(1, 2))])], 1) for _ in range(2)]
    flats[0].backward(flats[0].parameters[0].sum() * 3)
    assert float(flats[0].loss) == 6
    backward_through(sum(flat.parameters[0].sum() for flat in flats), flats)
    assert [float(flat.loss) for flat in flats] == [4, 4]


def test_two_threads_see_the_loss_of_both(monkeypatch):
    import marl.parallel

    monkeypatch.setattr(marl.parallel, "WORTH", 1)
    monkeypatch.setattr(marl.parallel, "_threads", 2)
    learner = learner_of(marl.PPO(rollout=8, minibatches=1, normalize_values=False, network=marl.GRU(8)))
    fill(learner, 0, [0, 1, 2])
    learner.memory.reward[3, -1] = 1e25  # of the second half alone
    before = learner.flat.values.clone()
    assert learner.update(Clock(0, 1))["non_finite"] > 0
    assert torch.equal(before, learner.flat.values)


def test_large_advantages_are_normalized_as_small_ones_are():
    x = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    mask, owner = torch.ones(3, 2, dtype=torch.bool), torch.tensor([0, 1])
    expected = ops.masked_normalize(x, mask, owner, 2)
    np.testing.assert_allclose(expected[:, 0], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-6)
    for scale in (1e14, 1e16, 1e20, 1e30, 1e37):
        np.testing.assert_allclose(ops.masked_normalize(x * scale, mask, owner, 2), expected, atol=1e-6)
