"""Members trained as one are bit for bit the systems that they would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from marl_envs.beside import BesideOthers

import marl
from marl.compiled.mlp import rest_together
from marl.nets.stacked import FlatParameters
from marl.studies import train_stacked
from marl.training.meeting import Meeting
from marl.types import ConfigError, NonFiniteError
from tests.support.equality import assert_equal_systems

STEPS = 200  # three rollouts of 16 steps in 4 copies, and a bit
SMALL = {"rollout": 16, "epochs": 3, "minibatches": 2, "network": marl.MLP((8, 8))}
OWN = ({}, {"lr": 3e-3, "clip": 0.05, "max_grad_norm": 0.1}, {"entropy": 0.1, "discount": 0.8, "gae_lambda": 0.5})


def members(recipe, each=OWN, env="spread_native", **shared):
    return [
        marl.MultiAgentSystem(recipe(**SMALL | shared | own), env, num_envs=4, seed=seed)
        for seed, own in enumerate(each)
    ]


def require_equal(apart, stacked):
    for one, other in zip(apart, stacked, strict=True):
        assert torch.equal(one.learners[0].flat.values, other.learners[0].flat.values)
        assert_equal_systems(one, other)


@pytest.mark.parametrize(
    ("recipe", "shared"),
    [
        (marl.ippo, {}),
        (marl.ippo, {"sharing": "none", "value_clip": 0.2}),
        (marl.mappo, {"normalize_obs": True}),
        (marl.mappo, {"sharing": "none"}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_each_member_is_its_separate_run_bit_for_bit(recipe, shared):
    apart, stacked = members(recipe, **shared), members(recipe, **shared)
    for system in apart:
        system.train(STEPS, log_every=64, evaluate_every=100, evaluate_episodes=2)
    found = train_stacked(stacked, STEPS, log_every=64, evaluate_every=100, evaluate_episodes=2)
    require_equal(apart, stacked)
    assert [len(history["evaluation_return"]) for history in found] == [2, 2, 2]
    # And they go on alone as they would have.
    apart[1].train(STEPS)
    stacked[1].train(STEPS)
    assert_equal_systems(apart[1], stacked[1])


def test_members_stop_their_epochs_each_by_its_own_limit():
    each = ({"target_kl": 1e-9, "lr": 0.01}, {"epochs": 1}, {})
    apart, stacked = members(marl.ippo, each), members(marl.ippo, each)
    for system in apart:
        system.train(STEPS)
    train_stacked(stacked, STEPS)
    require_equal(apart, stacked)
    steps = [int(system.learners[0].optimizer.rule.steps[0]) for system in stacked]
    assert steps == [6, 6, 18]  # three updates: one epoch of two minibatches, or three


def two_rows():
    """Ends a training with its second row of metrics: steps never become fewer."""
    return marl.callbacks.EarlyStopping("steps", 1, mode="min")


def test_who_is_done_waits_for_nobody():
    apart, stacked = members(marl.ippo), members(marl.ippo)
    apart[0].train(STEPS, log_every=64, callbacks=[two_rows()])
    for system in apart[1:]:
        system.train(STEPS, log_every=64)
    train_stacked(stacked, STEPS, log_every=64, callbacks=[(two_rows(),), (), ()])
    require_equal(apart, stacked)
    assert stacked[0].steps < stacked[1].steps


@pytest.fixture
def beside(monkeypatch):
    """How many steps were taken in one call for all members."""
    taken = []
    step = BesideOthers.step
    monkeypatch.setattr(BesideOthers, "step", lambda own, actions: taken.append(len(own.batches)) or step(own, actions))
    return taken


@pytest.mark.parametrize(
    ("env", "shared"), [("marl/switch_riddle-v0", {"credit": marl.TeamReward()}), ("marl/tag-v0", {"num_envs": 3})]
)
@pytest.mark.filterwarnings("ignore")
def test_worlds_with_masks_and_teams_step_in_one_call(env, shared, beside):
    def made():
        copies, recipe = shared.get("num_envs", 4), marl.ippo(**SMALL, credit=shared.get("credit", marl.Independent()))
        learners = {"adversary_*": recipe, "agent_*": recipe} if "tag" in env else recipe
        return [marl.MultiAgentSystem(learners, env, num_envs=copies, seed=seed) for seed in range(3)]

    apart, stacked = made(), made()
    for system in apart:
        system.train(STEPS)
    train_stacked(stacked, STEPS)
    require_equal(apart, stacked)
    assert beside == [3] * (apart[0].steps // apart[0].training.num_envs)


class Looking(marl.callbacks.Callback):
    """Looks at every step."""

    def on_step(self, training):
        self.seen = training.steps


def test_members_whose_steps_are_looked_at_or_whose_rollouts_differ_step_each_alone(beside):
    apart, stacked = members(marl.ippo), members(marl.ippo)
    for system in apart:
        system.train(STEPS, callbacks=[Looking()])
    train_stacked(stacked, STEPS, callbacks=[(), (Looking(),), ()])
    for system in apart:
        system.train(STEPS)
    stacked[0].train(32)  # half a rollout ahead
    apart[0].train(32)
    train_stacked(stacked, STEPS)
    assert apart[1].steps == stacked[1].steps
    require_equal(apart[1:], stacked[1:])


class Diverging(marl.callbacks.Callback):
    """Its training fails in the middle of a rollout."""

    def on_step(self, training):
        if training.steps == 100:
            raise NonFiniteError("the loss is nan")


def test_who_fails_fails_alone():
    apart, stacked = members(marl.ippo), members(marl.ippo)
    for system in apart[::2]:
        system.train(STEPS, log_every=64)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        train_stacked(stacked, STEPS, log_every=64, callbacks=[(), (Diverging(),), ()])
    require_equal(apart[::2], stacked[::2])
    assert stacked[1].steps == 100


@pytest.mark.parametrize(
    ("each", "why"),
    [
        (({}, {"network": marl.MLP((16, 8))}), "network differs"),
        (({}, {"value_weight": 1.0}), "value_weight differs: 0.5 and 1.0"),
        (({"network": marl.GRU(8)}, {"network": marl.GRU(8)}), "no compiled gradient"),
    ],
)
def test_what_cannot_be_stacked_is_refused_with_the_reason(each, why):
    with pytest.raises(ConfigError, match=why):
        train_stacked(
            [marl.MultiAgentSystem(marl.ippo(**SMALL | own), "spread_native", num_envs=2) for own in each], 64
        )


def test_other_learners_and_other_numbers_of_copies_are_refused():
    dqn = [marl.MultiAgentSystem(marl.iql(), "spread_native", num_envs=2, seed=seed) for seed in range(2)]
    with pytest.raises(ConfigError, match="DQN is not trained stacked, only PPO is"):
        train_stacked(dqn, 64)
    copies = [marl.MultiAgentSystem(marl.ippo(**SMALL), "spread_native", num_envs=count) for count in (2, 4)]
    with pytest.raises(ConfigError, match="num_envs differs: 2 and 4"):
        train_stacked(copies, 64)
    with pytest.raises(ConfigError, match="the same system twice"):
        train_stacked([copies[0], copies[0]], 64)
    with pytest.raises(ConfigError, match="expected systems, got none"):
        train_stacked([], 64)


def test_parameters_that_rest_together_are_rows_of_one_matrix():
    layers = [torch.nn.ParameterList([torch.nn.Parameter(torch.full((1, 3), float(k)))]) for k in range(2)]
    flats = [FlatParameters([layer], 1) for layer in layers]
    values, gradients = rest_together(flats)
    assert values.tolist() == [[0, 0, 0], [1, 1, 1]]
    values[1, 2] = 5
    assert layers[1][0].tolist() == [[1, 1, 5]]
    flats[1].backward((layers[1][0] * 2).sum())
    assert gradients[1].tolist() == [2, 2, 2]
    assert layers[1][0].untyped_storage().nbytes() == 12  # a copy of one copies nothing of the others


def test_an_error_before_training_ends_its_own_task_alone():
    system = marl.MultiAgentSystem(marl.ippo(**SMALL), "spread_native", num_envs=4)
    alone = marl.MultiAgentSystem(marl.ippo(**SMALL), "spread_native", num_envs=4)

    def fails():
        raise OSError("no room")

    told = []
    meeting = Meeting(lambda which, why: told.append((which, why)))
    found = meeting.run([fails, lambda: len(system.train(STEPS, log_every=64)["steps"]), lambda: 3])
    assert str(found[0]) == "no room"
    assert found[1:] == [4, 3]
    alone.train(STEPS, log_every=64)
    assert np.array_equal(system.learners[0].flat.values, alone.learners[0].flat.values)
    assert told == []
