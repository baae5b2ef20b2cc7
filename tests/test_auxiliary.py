"""Auxiliary losses teach the policy's network beside the learner's own loss, set by set, and only where rows count."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import nn

import marl
from marl.auxiliary import PredictActions
from marl.nets import GRU, MLP
from marl.nets.stacked import StackedLinear
from marl.optim import SGD
from marl.schedules import Clock
from marl.types import ConfigError
from tests.support.equality import assert_equal_trees
from tests.support.learning import fill, learner_of, refused
from tests.support.tiny import Team

ON = {"rollout": 8, "network": MLP((8,)), "optimizer": SGD(), "max_grad_norm": 1e9, "lr": 0.1}
PPO = marl.PPO(**ON, minibatches=1, epochs=1)
A2C = marl.A2C(**ON)


@dataclass(frozen=True)
class Large:
    """Half the squared features: it has no parameters, and its gradient is the features."""

    weight: float = 1.0

    def build(self, team, owner, width, generators):
        return LargeModule()


class LargeModule(nn.Module):
    def forward(self, features, seen, rows):
        return 0.5 * features.square().sum(-1)


@dataclass(frozen=True)
class Recall:
    """The encoded observation is to be read off the features."""

    weight: float = 1.0

    def build(self, team, owner, width, generators):
        return RecallModule(owner, width, team.obs.shape[0], generators)


class RecallModule(nn.Module):
    def __init__(self, owner, width, out, generators):
        super().__init__()
        self.owner, self.out = owner, out
        self.layer = StackedLinear(owner, width, out, generators)

    def forward(self, features, seen, rows):
        said = self.owner.leave(self.layer(self.owner.enter(features)))
        return 0.5 * (said - seen[..., : self.out]).square().sum(-1)


def updated(config, agents=(0, 1, 2), **options):
    """A learner after an update on made-up data, and what the update reported."""
    learner = learner_of(config, n=len(agents), **options)
    fill(learner, 0, list(agents))
    return learner, learner.update(Clock(0, 1))


@pytest.mark.parametrize("config", [PPO, A2C], ids=["ppo", "a2c"])
@pytest.mark.parametrize("sharing", ["all", "none"])
def test_the_gradient_is_that_of_the_sum_of_both_losses(config, sharing):
    """With plain descent what a loss adds to the step is its own gradient, here of one half |features|^2."""
    config = dataclasses.replace(config, sharing=sharing)
    plain, _ = updated(config)
    both, told = updated(dataclasses.replace(config, auxiliary=(Large(0.5),)))
    start = learner_of(config)
    fill(start, 0, [0, 1, 2])
    batch = start.begin_update(Clock(0, 1))
    actor, owner = start.model.actor, start.model.owner
    features = actor.features(batch.seen, batch.carry, batch.started, batch.acting)
    count = owner.to_agents(owner.sum_sets(batch.complete.sum((0, 1))).float())
    cost = 0.5 * (0.5 * features.square().sum(-1) * batch.complete / count).sum()
    start.flat.backward(cost)
    moved = plain.flat.values - both.flat.values
    assert float(moved.abs().max()) > 1e-4
    torch.testing.assert_close(moved, 0.1 * start.flat.gradients, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(told["auxiliary_loss"], cost.detach() / owner.num_sets)


def test_features_are_what_the_output_layer_reads():
    for network in (MLP((8, 5)), GRU(6)):
        for sharing in ("all", "none"):
            learner = learner_of(marl.PPO(rollout=8, minibatches=1, network=network, sharing=sharing))
            fill(learner, 0, [0, 1, 2])
            batch = learner.begin_update(Clock(0, 1))
            actor = learner.model.actor
            out, _ = actor.read(batch.seen, batch.carry, batch.started, batch.acting)
            features = actor.features(batch.seen, batch.carry, batch.started, batch.acting)
            assert features.shape == (*out.shape[:3], actor.body.width)
            owner = actor.owner
            torch.testing.assert_close(owner.leave(actor.head(owner.enter(features))), out)


@pytest.mark.parametrize("loss", [Recall(), PredictActions(1.0)], ids=["recall", "actions"])
@pytest.mark.parametrize("config", [PPO, A2C], ids=["ppo", "a2c"])
def test_an_auxiliary_loss_falls(config, loss):
    config = dataclasses.replace(config, auxiliary=(loss,), optimizer=marl.optim.Adam(), lr=0.01)
    learner = learner_of(config)
    told = []
    for _ in range(60):
        fill(learner, 0, [0, 1, 2])
        told.append(float(learner.update(Clock(0, 1))["auxiliary_loss"]))
    assert told[-1] < 0.9 * told[0]


def test_stacked_is_separate():
    """The parameters of an auxiliary loss and their optimizer are per parameter set as everything is."""
    config = dataclasses.replace(PPO, sharing="none", auxiliary=(Recall(),), optimizer=marl.optim.Adam())
    together = learner_of(config)
    start = [flat.values.clone() for flat in together.flats]
    fill(together, 0, [0, 1, 2])
    together.update(Clock(0, 1))
    for agent in range(3):
        alone = learner_of(config, n=1)
        for flat, values in zip(alone.flats, start, strict=True):
            flat.values.copy_(values[agent : agent + 1])
        fill(alone, 0, [agent])
        alone.update(Clock(0, 1))
        for flat, whole in zip(alone.flats, together.flats, strict=True):
            torch.testing.assert_close(flat.values[0], whole.values[agent], rtol=1e-5, atol=1e-6)


def test_two_threads_see_the_loss_of_both(monkeypatch):
    import marl.parallel

    config = dataclasses.replace(PPO, network=GRU(8), auxiliary=(Recall(),))
    whole, told = updated(config)
    monkeypatch.setattr(marl.parallel, "WORTH", 1)
    monkeypatch.setattr(marl.parallel, "_threads", 2)
    split, also = updated(config)
    torch.testing.assert_close(also["auxiliary_loss"], told["auxiliary_loss"])
    for one, other in zip(split.flats, whole.flats, strict=True):
        torch.testing.assert_close(one.values, other.values, rtol=1e-5, atol=1e-6)


def test_a_set_whose_epochs_are_stopped_keeps_its_auxiliary_parameters_too():
    config = dataclasses.replace(
        PPO, sharing="none", auxiliary=(Recall(),), epochs=3, target_kl=1e-9, optimizer=marl.optim.Adam()
    )
    stopped, _ = updated(config)
    once, _ = updated(dataclasses.replace(config, epochs=1, target_kl=None))
    for one, other in zip(stopped.flats, once.flats, strict=True):
        assert torch.equal(one.values, other.values)


@pytest.mark.parametrize(
    "space",
    [Discrete(3), MultiDiscrete((2, 3)), MultiBinary(2), Box(-1, 1, (2,))],
    ids=["discrete", "multidiscrete", "multibinary", "box"],
)
def test_actions_of_team_mates_are_predicted_by_their_negative_log_probability(space):
    learner = learner_of(dataclasses.replace(PPO, auxiliary=(PredictActions(),)), action=space)
    fill(learner, 0, [0, 1, 2])
    batch = learner.begin_update(Clock(0, 1))
    module = learner.auxiliary.modules[0]
    features = learner.model.actor.features(batch.seen, batch.carry, batch.started, batch.acting)
    learner.flats[1].values.zero_()  # every choice is as likely as any other, and boxes are thought to be 0
    cost = module(features, batch.seen, batch)
    log_two_pi = 1.8378770664
    if isinstance(space, Box):
        each = (0.5 * batch.action.square() + 0.5 * log_two_pi).sum(-1)
    else:
        ways = {Discrete: 3, MultiDiscrete: 6, MultiBinary: 4}[type(space)]
        each = torch.full(batch.acting.shape, float(torch.tensor(ways).log()))
    wanted = torch.zeros_like(each)
    for agent in range(3):
        mates = [other for other in range(3) if other != agent]
        shown = batch.acting[..., mates].float()
        wanted[..., agent] = (each[..., mates] * shown).sum(-1) / shown.sum(-1).clamp(min=1)
    torch.testing.assert_close(cost, wanted, rtol=1e-5, atol=1e-6)


REPLAY = {"network": MLP((8,)), "optimizer": SGD(), "max_grad_norm": 1e9, "lr": 0.1, "batch": 16, "learning_starts": 16}
OFF = {
    "dqn": marl.DQN(**REPLAY),
    "qmix": marl.DQN(**REPLAY, credit=marl.QMix()),
    "dqn-gru": marl.DQN(**REPLAY | {"network": GRU(8), "sequence": 4}),
    "ddpg": marl.DDPG(**REPLAY),
    "td3": marl.TD3(**REPLAY, delay=1),
    "sac": marl.SAC(**REPLAY),
}


@pytest.mark.parametrize("name", OFF)
def test_the_gradient_of_a_draw_is_that_of_the_sum_of_both_losses(name):
    config = dataclasses.replace(OFF[name], sharing="none", updates_per_step=1e-3)
    moved = []
    for losses in ((), (Large(0.5), Recall(0.0))):
        with marl.MultiAgentSystem(dataclasses.replace(config, auxiliary=losses), Team, num_envs=2, seed=3) as system:
            system.train(steps=64)
            learner = system.learners[0]
            sample = learner.experience.draw(Clock(64, None))
            net = learner.policy_net
            seen = net.encode(sample.obs)
            flat = learner.actor_flat if hasattr(learner, "actor_flat") else learner.flat
            before = flat.values.clone()
            for optimizer in learner.optimizers().values():
                optimizer.lr = 0.1
            features = net.features(seen, sample.carry, sample.started, sample.acting)
            cost = 0.25 * (features.square().sum(-1) * learner.experience.weigh(sample)).sum()
            flat.put(flat.gradient(cost))
            expected = flat.gradients.clone()
            told = learner.learn(sample)
            moved.append(flat.values - before)
            if losses:
                torch.testing.assert_close(told["auxiliary_loss"], cost.detach() / 3)
            else:
                assert "auxiliary_loss" not in told
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(moved[0] - moved[1], 0.1 * expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("config", [PPO, A2C, *OFF.values()], ids=["ppo", "a2c", *OFF])
def test_a_learner_with_auxiliary_losses_saves_and_resumes_bit_for_bit(config, tmp_path):
    config = dataclasses.replace(
        config,
        auxiliary=(PredictActions(0.5),),
        optimizer=marl.optim.RMSprop(momentum=0.5),
        sharing="none",
        lr=1e-3,
        max_grad_norm=1.0,
    )

    def system() -> marl.MultiAgentSystem:
        return marl.MultiAgentSystem(config, Team, num_envs=2, seed=3)

    whole, first = system(), system()
    whole.train(steps=96)
    first.train(steps=48)
    loaded = marl.MultiAgentSystem.load(first.save(tmp_path / "it"), env=Team)
    loaded.train(steps=48)
    assert_equal_trees(whole.learners[0].state_dict(), loaded.learners[0].state_dict())


def test_without_any_nothing_changes_and_with_one_the_gradient_is_autograds():
    plain = learner_of(PPO)
    assert plain.chosen.compiled or refused(plain, "switched off")
    assert "auxiliary" not in plain.state_dict()
    learner = learner_of(dataclasses.replace(PPO, auxiliary=(Large(),)))
    assert refused(learner, "'auxiliary'")
    assert learner.auxiliary.flats == []


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: learner_of(dataclasses.replace(PPO, auxiliary=(5,))), "team 'team': expected auxiliary losses, got 5"),
        (lambda: learner_of(dataclasses.replace(PPO, auxiliary=(Large,))), "expected auxiliary losses"),
        (lambda: dataclasses.replace(PPO, auxiliary=Large()), r"PPO\.auxiliary: expected"),
        (lambda: PredictActions(-1), r"PredictActions\.weight: expected a number of at least 0"),
        (lambda: learner_of(dataclasses.replace(PPO, auxiliary=(PredictActions(),)), n=1), "has no team mates"),
        (
            lambda: learner_of(dataclasses.replace(PPO, auxiliary=(PredictActions(),), channel=marl.CommNet())),
            r"use auxiliary=\(\) or channel=None",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


def test_a_cost_of_another_shape_is_refused():
    class Mean(LargeModule):
        def forward(self, features, seen, rows):
            return super().forward(features, seen, rows).mean()

    @dataclass(frozen=True)
    class Wrong(Large):
        def build(self, team, owner, width, generators):
            return Mean()

    with pytest.raises(ConfigError, match=r"expected a cost for every row \(1, 32, 3\), got \(\)"):
        updated(dataclasses.replace(PPO, auxiliary=(Wrong(),)))


def test_the_command_line_names_auxiliary_losses():
    from marl.overrides import override

    scenario = marl.Scenario(name="it", env=Team, agents=marl.ippo())
    changed = override(scenario, ["learner.auxiliary=PredictActions(weight=0.2)"])
    assert changed.agents.auxiliary == (PredictActions(0.2),)
    assert override(changed, ["learner.auxiliary.0.weight=0.3"]).agents.auxiliary == (PredictActions(0.3),)
