"""Networks that grow when a member of a population is copied: what they compute stays, to the last layer."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import marl
from marl import checkpoint
from marl.nets.growth import deeper, wider
from marl.studies import Grow
from marl.studies.copying import write_copy
from marl.types import ConfigError

NET = marl.MLP((6, 4), "relu")
ON = {"rollout": 8, "epochs": 1, "minibatches": 1}
OFF = {"learning_starts": 16, "batch": 8, "updates_per_step": 0.25}


def random_layers(*sizes, sets=2):
    generator = torch.Generator().manual_seed(0)
    draw = [
        (torch.randn(sets, a, b, generator=generator), torch.randn(sets, b, generator=generator))
        for a, b in itertools.pairwise(sizes)
    ]
    return draw, torch.randn(sets, 50, sizes[0], generator=generator)


def outputs(layers, x):
    for place, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias.unsqueeze(1), x.relu() if place else x, weight)
    return x


# --- layers -----------------------------------------------------------------------------------------------------------


def test_the_twin_of_a_unit_has_its_inputs_and_both_give_what_it_gave():
    layers = [(torch.tensor([[[2.0], [3.0]]]), torch.tensor([[1.0]])), (torch.tensor([[[4.0]]]), torch.tensor([[5.0]]))]
    (weight, bias), (out, out_bias) = wider(layers, 0, 2, torch.Generator().manual_seed(0))
    assert weight.tolist() == [[[2.0, 2.0], [3.0, 3.0]]]
    assert bias.tolist() == [[1.0, 1.0]]
    assert out.sum().item() == pytest.approx(4.0)
    assert out_bias.tolist() == [[5.0]]
    noise = torch.randn(1, 1, generator=_after_a_permutation_of_one()).item() * 4.0  # as large as the weight
    assert out.flatten().tolist() == pytest.approx([2.0 + noise, 2.0 - noise])


def _after_a_permutation_of_one():
    generator = torch.Generator().manual_seed(0)
    torch.randperm(1, generator=generator)
    return generator


@pytest.mark.parametrize("place", [0, 1])
def test_wider_layers_compute_the_same(place):
    layers, x = random_layers(5, 6, 4, 3)
    made = wider(layers, place, (9, 8)[place], torch.Generator().manual_seed(1))
    assert made[place][0].shape[-1] == (9, 8)[place]
    torch.testing.assert_close(outputs(made, x), outputs(layers, x), rtol=1e-5, atol=1e-5)


def test_a_layer_more_computes_exactly_the_same():
    layers, x = random_layers(5, 6, 4, 3)
    made = deeper(layers)
    assert [weight.shape[-1] for weight, _ in made] == [6, 4, 4, 3]
    assert torch.equal(outputs(made, x), outputs(layers, x))


def test_twins_part_at_the_first_step_of_adam_even_before_a_single_output():
    """Equal shares would have equal gradients, and unequal ones of one sign the same steps of Adam."""
    parted = 0
    for seed in range(20):
        layers, x = random_layers(5, 6, 1, sets=1)
        made = [tuple(one.clone().requires_grad_() for one in layer) for layer in wider(layers, 0, 12, _seeded(seed))]
        outputs(made, x).square().mean().backward()
        step = made[0][0].grad.sign()  # the direction of Adam's first step
        twins = torch.randperm(6, generator=_seeded(seed))
        parted += int((step[0, :, twins] != step[0, :, 6:]).any(0).sum())
    assert parted / 120 > 0.4  # noise as large as the weights turns the sign of one of the two about so often


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


# --- what may become of a network ------------------------------------------------------------------------------------


def test_a_network_becomes_one_layer_wider_or_one_layer_more():
    found = Grow(factor=1.5, widest=64, deepest=3).larger(marl.MLP((64, 40), "relu"))
    assert [one.sizes for one in found] == [(64, 60), (64, 40, 40)]
    assert {one.activation for one in found} == {"relu"}
    assert [one.sizes for one in Grow(factor=2.0, widest=64).larger(marl.MLP((40, 1)))] == [(64, 1), (40, 2)]
    assert Grow(widest=8, deepest=1).larger(marl.MLP((8,), "relu")) == []


def test_networks_grow_as_often_as_asked():
    rng, grow = np.random.default_rng(0), Grow(chance=0.3, deepest=3)
    drawn = [grow.vary(NET, rng).sizes for _ in range(4_000)]
    share = {sizes: drawn.count(sizes) / len(drawn) for sizes in set(drawn)}
    assert share.keys() == {(6, 4), (9, 4), (6, 6), (6, 4, 4)}
    assert share[6, 4] == pytest.approx(0.7, abs=0.03)
    assert share[6, 4, 4] == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: Grow(chance=0), "Grow.chance: expected a chance above 0 and at most 1, got 0"),
        (lambda: Grow(factor=2.5), "Grow.factor: expected a number above 1 and at most 2, got 2.5"),
        (lambda: Grow(widest=0), "Grow.widest: expected a whole number of at least 1"),
        (lambda: Grow(deepest=0.5), "Grow.deepest: expected a whole number of at least 1"),
        (lambda: check({"agent_*": marl.ippo()}), "at: expected one learner for all agents"),
        (lambda: check(marl.Random()), "at: expected one learner for all agents"),
        (lambda: check(marl.ippo()), "at: expected network=marl.MLP(...) without noise, got None"),
        (lambda: check(marl.ippo(network=marl.GRU(8))), "at: expected network=marl.MLP(...) without noise, got GRU"),
        (lambda: check(marl.iql(network=marl.MLP((8,), noisy=0.5))), "without noise, got MLP(sizes=(8,)"),
        (lambda: check(marl.ippo(network=NET, channel=marl.channels.CommNet())), "at: a channel holds networks"),
        (lambda: check(marl.ippo(network=NET), marl.League()), "at: a league holds networks of the sizes"),
        (lambda: check(marl.ippo(network=marl.MLP((8,))), deepest=3), "at: deepest: with tanh a layer more changes"),
    ],
)
def test_what_cannot_grow_is_refused_in_a_sentence(made, expected):
    with pytest.raises(ConfigError) as caught:
        made()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def check(agents, league=None, **grow):
    return Grow(**grow).check("at", agents, league)


# --- copies -----------------------------------------------------------------------------------------------------------


def copied(tmp_path, agents, env, sizes):
    """The states of a parent and of its copy with other sizes, and their outputs for the same observations."""
    for name, seed in (("parent", 0), ("child", 5)):
        with marl.MultiAgentSystem(agents, env, num_envs=4, seed=seed) as system:
            system.train(64, run_dir=tmp_path / name)
    settings = {"learner.lr": 1e-4, "learner.network": dataclasses.replace(agents.network, sizes=sizes)}
    path = write_copy(tmp_path / "parent", tmp_path / "child", tmp_path / "copies", settings, 5, None, "cpu")
    states, answers = [], []
    for one in (tmp_path / "parent/checkpoints/last", path):
        with marl.MultiAgentSystem.load(one) as system:
            states.append(system.state_dict()["learners"][system.spec.teams[0].name])
            answers.append(networks(system))
    return states, answers, path


def networks(system):
    """What every plain network of a learner says of drawn observations, by name."""
    (learner,) = system.learners
    modules = {"": learner.model} if hasattr(learner, "model") else learner.modules()
    said = {}
    for name, module in modules.items():
        for inner, net in module.named_modules():
            if isinstance(net, marl.nets.agent_net.AgentNet):
                width = net.body.layers[0].weight.shape[1]
                x = torch.randn(net.owner.num_sets, 1, 20, width, generator=_seeded(0))
                said[f"{name}.{inner}"] = net.head(net.body(x, None, x[:, 0, :, :0], x, x)[0]).detach()
    return said


LEARNERS = {
    "ippo": (marl.ippo(network=NET, normalize_obs=True, **ON), 2),
    "mappo": (marl.mappo(network=NET, critic_network=marl.MLP((5,)), sharing="none", **ON), 2),
    "qmix": (marl.qmix(network=NET, **OFF), 2),
    "maddpg": (marl.maddpg(network=NET, sharing="none", **OFF), 4),
    "masac": (marl.masac(network=NET, **OFF), 4),
}


@pytest.mark.filterwarnings("ignore:.*has learnt little")
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("sizes", [(9, 4), (6, 8), (6, 4, 4)])
def test_every_network_of_a_copy_says_what_its_parents_says(name, sizes, tmp_path):
    agents, count = LEARNERS[name]
    _, (theirs, own), path = copied(tmp_path, agents, "marl/spread-v0", sizes)
    assert theirs.keys() == own.keys()
    assert len(own) == count  # critics and targets too
    for key in own:
        torch.testing.assert_close(own[key], theirs[key], rtol=1e-5, atol=1e-5)
    with marl.MultiAgentSystem.load(path) as system:
        assert system.learners[0].settings.network.sizes == sizes
        assert system.learners[0].settings.lr == 1e-4
        system.train(64)
        assert system.steps == 128


@pytest.mark.filterwarnings("ignore:.*has learnt little")
def test_moments_of_what_grows_begin_anew_and_all_else_is_the_parents(tmp_path):
    (theirs, mine), _, path = copied(tmp_path, marl.qmix(network=NET, **OFF), "marl/spread-v0", (9, 4))
    grown, mixer = "adam.0", "adam.1"
    assert int(theirs["optimizers"][grown]["steps"].max()) > 0
    assert int(mine["optimizers"][grown]["steps"].max()) == 0
    assert not mine["optimizers"][grown]["mean"].any()
    assert torch.equal(mine["optimizers"][mixer]["mean"], theirs["optimizers"][mixer]["mean"])
    assert torch.equal(mine["modules"]["net"]["head.bias"], theirs["modules"]["net"]["head.bias"])
    for name, tensor in theirs["modules"]["mixer"].items():
        assert torch.equal(mine["modules"]["mixer"][name], tensor)
    assert mine["updates"] == theirs["updates"]
    assert checkpoint.read_manifest(path)["meta"]["agents"]["network"]["sizes"] == [9, 4]


@pytest.mark.filterwarnings("ignore:.*has learnt little")
def test_a_network_of_other_sizes_stays_as_it_is(tmp_path):
    agents, _ = LEARNERS["mappo"]
    (theirs, mine), *_ = copied(tmp_path, agents, "marl/spread-v0", (9, 4))
    critics = [name for name in theirs["model"] if name.startswith("critic.")]
    assert len(critics) > 3
    for name in critics:
        assert torch.equal(mine["model"][name], theirs["model"][name])
