"""Smaller networks that do what the trained ones do: distillation and pruning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import marl
import marl_runtime
from marl.deploy import Lessons, distill, prune, trade, verify
from marl.deploy.distill import divergence, teachers_of
from marl.deploy.prune import without_units, without_weights
from marl.deploy.trade import plot
from marl.nets.distributions import Categorical, make_distribution
from marl.spaces import action_spec
from tests.support.policies import ACTIONS
from tests.support.tiny import Acting, Team

ON = {"rollout": 8, "minibatches": 1, "network": marl.MLP((32, 32))}
SHORT = Lessons(rounds=3, copies=4, steps=40, epochs=20, batch=64, lr=5e-3)


def teacher(learner=None, world=Team, scale=30):
    """A system whose new policies are far from indifferent."""
    system = marl.MultiAgentSystem(learner or marl.ippo(**ON), world, num_envs=2, seed=1)
    with torch.no_grad():
        system.learners[0].policy_net.head.weight.mul_(scale)
    return system


def agreement(system, students, tmp_path):
    out = system.export(tmp_path / "bundle", students=students)
    return verify(out, system, states=100, episodes=2, calls=2, processes=False).agreement


def parameters(net):
    return sum(one.numel() for one in net.parameters())


def test_a_student_learns_what_its_teacher_does_where_it_goes_itself(tmp_path):
    system = teacher()
    nobody = distill(system, marl.MLP((16,)), replace(SHORT, rounds=0))
    students = distill(system, marl.MLP((16,)), SHORT)
    assert 8 * parameters(students["team"]) < 2 * parameters(system.learners[0].policy_net)
    assert agreement(system, nobody, tmp_path) < 0.8
    assert agreement(system, students, tmp_path) > 0.93


def test_a_recurrent_student_learns_from_sequences(tmp_path):
    system = teacher(marl.ippo(**ON | {"network": marl.GRU(8)}, sequence=4))
    students = distill(system, marl.GRU(16), replace(SHORT, epochs=30))
    assert agreement(system, students, tmp_path) > 0.8


@pytest.mark.parametrize("kind", ["multidiscrete", "multibinary", "box"])
def test_students_of_every_kind_of_action_come_closer_to_their_teacher(kind, tmp_path):
    system = teacher(marl.ippo(**ON, normalize_obs=True), lambda: Acting(ACTIONS[kind]), scale=20)
    policy, losses = teachers_of(system)[0], []
    obs = torch.rand(1, 50, 3, 3) * 2 - 1
    still = torch.zeros(1, 50, dtype=torch.bool), torch.ones(1, 50, 3, dtype=torch.bool)
    for rounds in (0, 3):
        net = distill(system, marl.MLP((16,)), replace(SHORT, rounds=rounds))["team"]
        with torch.no_grad():
            ours, theirs = (one(obs, torch.zeros(50, 3, 0), *still)[0] for one in (net, policy.net))
        losses.append(float(divergence(policy.distribution, ours, theirs, None).mean()))
        entropy = float(divergence(policy.distribution, theirs, theirs, None).mean())
    assert losses[1] - entropy < 0.3 * (losses[0] - entropy)


def test_the_divergence_is_that_of_legal_choices_by_hand():
    ours, theirs = torch.tensor([0.0, 1.0, 9.0]), torch.tensor([1.0, 0.0, -9.0])
    mask = torch.tensor([True, True, False])
    p, q = (one[:2].softmax(0) for one in (theirs, ours))
    wanted = (p * (p / q).log()).sum()
    torch.testing.assert_close(divergence(Categorical(3), ours, theirs, mask), wanted)
    several = make_distribution(action_spec(["a"], [ACTIONS["multidiscrete"]]))
    both = torch.cat((ours, ours[:2])), torch.cat((theirs, theirs[:2]))
    two, three = ([one[place] for one in both] for place in (slice(0, 2), slice(2, 5)))
    parts = divergence(Categorical(2), *two, None) + divergence(Categorical(3), *three, None)
    torch.testing.assert_close(divergence(several, *both, torch.ones(5, dtype=torch.bool)), parts)


def test_pruned_units_are_those_that_matter_least():
    net = teacher().learners[0].policy_net
    with torch.no_grad():
        dead = torch.arange(32) % 2 == 0
        net.body.layers[0].weight[:, :, dead] = 0
        net.body.layers[0].bias[:, dead] = 0
        net.body.layers[1].weight[:, :, dead] = 0
        net.body.layers[1].bias[:, dead] = 0
    small = without_units(net, 0.5)
    assert small.network.sizes == (16, 16)
    obs, still = torch.rand(1, 20, 3, 3), (torch.zeros(1, 20, dtype=torch.bool), torch.ones(1, 20, 3, dtype=torch.bool))
    wanted, found = (one(obs, torch.zeros(20, 3, 0), *still)[0] for one in (net, small))
    torch.testing.assert_close(found, wanted)


def test_pruning_halves_each_layer_and_tunes_what_is_left(tmp_path):
    system = teacher()
    students = prune(system, 0.5, lessons=SHORT)
    assert students["team"].network.sizes == (16, 16)
    assert agreement(system, students, tmp_path) > 0.93
    whole, small = system.export(tmp_path / "whole"), tmp_path / "bundle"
    sizes = [(path / "policy_0.safetensors").stat().st_size for path in (whole, small)]
    assert sizes[1] < 0.6 * sizes[0]
    assert set(marl_runtime.load(small)) == set(system.spec.agents)


def test_weights_that_were_pruned_stay_zeros_while_the_rest_is_tuned():
    system = teacher()
    net = without_weights(system.learners[0].policy_net, 0.5)
    shares = [float((one == 0).float().mean()) for one in net.parameters() if one.dim() > 2]
    assert shares == pytest.approx([0.5] * len(shares), abs=0.02)
    tuned = prune(system, 0.5, kind="weights", lessons=replace(SHORT, rounds=1))["team"]
    for before, after in zip(net.parameters(), tuned.parameters(), strict=True):
        if before.dim() > 2:
            assert not after[before == 0].any()
            assert (after != before).any()


def test_what_cannot_be_made_smaller_says_why():
    talking = marl.MultiAgentSystem(marl.ippo(channel=marl.CommNet(), **ON), Team, num_envs=1)
    with pytest.raises(marl.ConfigError, match="team 'team' talks, so it cannot be made smaller"):
        distill(talking, marl.MLP((8,)))
    with pytest.raises(marl.ConfigError, match="has no network of this library"):
        distill(marl.MultiAgentSystem(marl.Random(), Team, num_envs=1), marl.MLP((8,)))
    recurrent = marl.MultiAgentSystem(marl.ippo(**ON | {"network": marl.GRU(8)}, sequence=4), Team, num_envs=1)
    with pytest.raises(marl.ConfigError, match="units are left out of"):
        prune(recurrent, 0.5)
    for share, kind, reason in ((1.0, "units", "a share from 0"), (0.5, "layers", "expected one of units, weights")):
        with pytest.raises(marl.ConfigError, match=reason):
            prune(recurrent, share, kind)


def test_the_trade_has_a_row_for_each_size_of_the_team(tmp_path):
    pytest.importorskip("matplotlib")
    system = teacher()
    few = {"states": 20, "episodes": 2, "calls": 2, "processes": False}
    found = trade(system, tmp_path, sizes=[(4,)], lessons=replace(SHORT, rounds=1), **few)
    names = ["float32", "int8", "fp16", "distill-4", "distill-4-int8", "prune-0.5"]
    assert list(found.certificates) == names == [path.name for path in sorted(tmp_path.iterdir(), key=_made(names))]
    assert len(str(found).splitlines()) == 1 + len(names)
    assert found.certificates["float32"].agreement == 1.0
    sizes = [sum(one.sizes.values()) for one in found.certificates.values()]
    assert sizes[0] > sizes[2] > sizes[1] > sizes[4]
    assert plot(found, tmp_path / "trade.png").stat().st_size > 1000


def _made(names):
    return lambda path: names.index(path.name)
