"""Deep Q-learning along sequences: successors, mixers, and compiled networks with a memory against torch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import marl
from marl.compiled import backend, mixing, recurrent_net, side_by_side
from marl.grid.duplex import DuplexMixer
from marl.grid.mixers import MonotonicMixer
from marl.grid.weighted import FreeMixer
from marl.learners.off_policy import at_successors
from marl.nets.side_by_side import SideBySide, dense_layers
from marl.nets.stacked import FlatParameters
from marl.schedules import Clock
from tests.support.equality import assert_equal_trees
from tests.support.learning import trained
from tests.support.tiny import Team, Turns


class Late(Team):
    """The last agent joins in the third step, the first dies in the fifth."""

    def __init__(self):
        super().__init__(die=(5,))

    def reset(self, seed=None, options=None):
        super().reset(seed, options)
        self.agents = self.agents[:-1]
        self.seen = {agent: self.seen[agent] for agent in self.agents}
        return dict(self.seen), {agent: {} for agent in self.agents}

    def step(self, actions):
        _, *told = super().step(actions)
        if self.time == 3:
            self.agents.append(self.possible_agents[-1])
            self.seen |= self._look(self.agents[-1:])
        return dict(self.seen), *told


WORLDS = {
    "whole": Team,
    "deaths": lambda: Team(die=(4, None, 2)),
    "late": Late,
    "ends": lambda: Team(terminal=True, length=4),
    "turns": lambda: Turns(together=True),
}
NETWORKS = {"gru": marl.GRU(8), "lstm": marl.nets.LSTM(8)}
SMALL = {"batch": 8, "learning_starts": 20, "buffer": 300, "updates_per_step": 0.25, "sequence": 6}
RECIPES = {
    "iql": marl.iql,
    "vdn": marl.vdn,
    "qmix": marl.qmix,
    "qplex": marl.qplex,
    "wqmix": marl.wqmix,
    "central": lambda **how: marl.wqmix(credit=marl.WeightedQMix(weighting="central"), **how),
}


@pytest.fixture(autouse=True)
def _with_compiled_code():
    """Even where everything else is tested without it."""
    with marl.compiled.use("auto" if backend.word == "off" else backend.word):
        yield


def one_step_on(net, sample, seen, next_seen):
    """Outputs at the successors, each one step after its own row's carry: what they are whatever a sequence holds."""
    _, carries = net.read(seen, sample.carry, sample.started, sample.acting)
    length, batch, agents = sample.acting.shape
    no = torch.zeros(1, length * batch, dtype=torch.bool)
    there = sample.next_acting if type(net).__name__ == "ChannelNet" else torch.ones_like(sample.next_acting)
    rows, carry = next_seen.flatten(0, 1).unsqueeze(0), carries.flatten(0, 1)
    out, _ = net.read(rows, carry, no, there.reshape(1, -1, agents))
    return out.view(length, batch, agents, -1)


@pytest.mark.parametrize("channel", [None, marl.DIAL(size=2), marl.CommNet(size=2)], ids=["none", "dial", "commnet"])
@pytest.mark.parametrize("recipe", [marl.iql, marl.vdn, marl.maddpg], ids=lambda recipe: recipe.__name__)
@pytest.mark.parametrize("world", WORLDS)
def test_successors_are_one_step_after_the_carry_of_their_row(world, recipe, channel):
    if channel is not None and world == "turns":
        pytest.skip("channels do not go with turns in a replay")
    learner = trained(recipe(network=marl.GRU(8), channel=channel, **SMALL), WORLDS[world], steps=80).learners[0]
    net = learner.policy_net
    sample = learner.experience.draw(Clock(80))
    seen, next_seen = net.encode(sample.obs), net.encode(sample.next_obs)
    with torch.no_grad():
        found, wanted = at_successors(net, sample, seen, next_seen), one_step_on(net, sample, seen, next_seen)
    goes_on = sample.discount > 0
    assert goes_on.any()
    assert torch.allclose(found[goes_on], wanted[goes_on], atol=1e-6)


def test_successors_that_the_sequence_holds_cost_nothing(monkeypatch):
    learner = trained(marl.vdn(network=marl.GRU(8), **SMALL), lambda: Team(length=100), steps=80).learners[0]
    net, sample = learner.net, learner.experience.draw(Clock(80))
    seen, next_seen = net.encode(sample.obs), net.encode(sample.next_obs)
    shapes, read = [], net.read
    monkeypatch.setattr(net, "read", lambda x, *rest: shapes.append(x.shape[:2]) or read(x, *rest))
    with torch.no_grad():
        at_successors(net, sample, seen, next_seen)
    assert shapes == [(6, 8), (1, 8)]  # the sequences, and one step after their last rows


def twin(learner, config):
    """Another learner in the same state."""
    made = config.build(learner.spec, learner.team, learner.num_envs, np.random.SeedSequence(0), "cpu")
    made.load_state_dict(copy.deepcopy(learner.state_dict()))
    for stepper, other in zip(made.steppers, learner.steppers, strict=True):
        stepper.lr = other.lr
    return made


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("name", RECIPES)
def test_compiled_and_torchs_learners_learn_the_same(name, network):
    for world in ("deaths", "late"):
        config = RECIPES[name](network=network, td_lambda=0.8 if world == "late" else None, burn_in=1, **SMALL)
        ours = trained(config, WORLDS[world], steps=60).learners[0]
        plain = twin(ours, config)
        for _ in range(20):
            sample = ours.experience.draw(Clock(60))
            for learner, word in ((ours, "auto"), (plain, "off")):
                with marl.compiled.use(word):
                    learner.learn(sample)
        assert plain.net._chosen.recurrent is None
        assert ours.net._chosen.recurrent is not None
        for one, other in zip(ours.flats, plain.flats, strict=True):
            assert torch.allclose(one.values, other.values, atol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_both_ways_compared_find_no_difference(name):
    with marl.compiled.use("check"):
        trained(RECIPES[name](network=marl.GRU(8), normalize_obs=True, **SMALL), WORLDS["deaths"], steps=60)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("recipe", [marl.iql, marl.vdn], ids=lambda recipe: recipe.__name__)
def test_stacked_agents_act_and_are_judged_as_each_alone(recipe, network):
    """Three parameter sets in one compiled call say, to the last bit, what three calls say."""
    learner = trained(recipe(network=network, sharing="none", **SMALL), Team, steps=60).learners[0]
    sample = learner.experience.draw(Clock(60))
    with torch.no_grad():
        together, carries = learner.net.read(sample.obs, sample.carry, sample.started, sample.acting)
        for agent in range(3):
            alone = learner.net.restrict(agent)
            FlatParameters([alone], 1)  # where compiled code finds them
            part = slice(agent, agent + 1)
            inputs = sample.obs[:, :, part], sample.carry[:, part], sample.started, sample.acting[:, :, part]
            out, after = alone.read(*inputs)
            assert alone._chosen.recurrent is not None
            assert torch.equal(out, together[:, :, part])
            assert torch.equal(after, carries[:, :, part])


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("name", RECIPES)
def test_resuming_is_never_having_stopped(name, network, tmp_path):
    config = RECIPES[name](network=network, burn_in=1, **SMALL)
    env = WORLDS["deaths"]
    with marl.MultiAgentSystem(config, env, num_envs=2, seed=3) as system:
        system.train(steps=50)
        system.save(tmp_path / "half")
        system.train(steps=40)
        unbroken = system.state_dict()["learners"]
    with marl.MultiAgentSystem.load(tmp_path / "half", env=env) as system:
        system.train(steps=40)
        assert_equal_trees(system.state_dict()["learners"], unbroken)


def test_the_threads_that_compute_change_nothing_but_the_order_of_sums(monkeypatch):
    from marl import parallel
    from marl.compiled import panels

    monkeypatch.setattr(panels, "WORTH", 0)
    learner = trained(marl.qmix(network=marl.GRU(8), **SMALL), Team, steps=60).learners[0]
    sample, before = learner.experience.draw(Clock(60)), parallel.threads()
    seen, next_seen = learner.net.encode(sample.obs), learner.net.encode(sample.next_obs)
    found = []
    try:
        for threads in (1, 2):
            parallel.set_threads(threads)
            loss, _, value = learner.compute_loss(sample, seen, next_seen)
            learner.backward(loss, learner.flats, sample, seen)
            found.append((loss.detach(), value, *(flat.gradients.clone() for flat in learner.flats)))
    finally:
        parallel.set_threads(before)
    assert torch.equal(found[0][1], found[1][1])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


# --- the parts ---


def mixer_of(kind, **sizes):
    mixer = kind(3, 5, 4, torch.Generator().manual_seed(0), **sizes)
    FlatParameters([mixer], 1)  # where compiled code finds them
    return mixer


MIXERS = {
    "qmix": (MonotonicMixer, {}),
    "qmix, linear": (MonotonicMixer, {"hypernet": 0, "embed": 7}),
    "qplex": (DuplexMixer, {}),
    "free": (FreeMixer, {}),
}


@pytest.mark.parametrize("rows", [(1,), (32,), (5, 13)], ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_mixers_say_and_learn_what_torchs_do(name, rows):
    kind, sizes = MIXERS[name]
    mixer, random = mixer_of(kind, **sizes), torch.Generator().manual_seed(1)
    q, state = torch.randn(*rows, 3, generator=random), torch.randn(*rows, 5, generator=random)
    best, acting = q + torch.rand(*rows, 3, generator=random), torch.rand(*rows, 3, generator=random) < 0.7
    action = torch.nn.functional.one_hot(torch.randint(4, (*rows, 3), generator=random), 4).float()
    found = []
    for word in ("off", "auto", "check"):
        with marl.compiled.use(word):
            leaf = q.clone().requires_grad_()
            total = mixer(leaf, best, acting, state, action)
            slopes = torch.autograd.grad(total.square().sum(), [leaf, *mixer.parameters()])
        found.append((total.detach(), *slopes))
    for ours in found[1:]:
        for one, other in zip(ours, found[0], strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_qmixs_mixing_by_hand():
    # |w_1| = (1, 2), b_1 = -1, |w_2| = 3, b_2 = 0.5: q = (2, 1) gives u = 3; q = (0.5, 0), a dead second, u = -0.5
    made = torch.tensor([[-1.0, 2.0, -1.0, -3.0, 0.5]] * 2)
    q, acting = torch.tensor([[2.0, 1.0], [0.5, 9.0]]), torch.tensor([[True, True], [True, False]])
    made.requires_grad_()
    q.requires_grad_()
    plain = MonotonicMixer(2, 1, 1, torch.Generator(), embed=1)._mix
    total = mixing.monotonic(q, acting, made, plain)
    low = np.exp(-0.5)
    assert total.tolist() == pytest.approx([9.5, 3 * (low - 1) + 0.5], abs=1e-6)
    total.sum().backward()
    assert np.allclose(q.grad, [[3, 6], [3 * low, 0]], atol=1e-6)
    assert np.allclose(made.grad, [[-6, 3, 3, -3, 1], [-1.5 * low, 0, 3 * low, 1 - low, 1]], atol=1e-6)


def test_networks_side_by_side_are_each_of_them():
    random = torch.Generator().manual_seed(0)
    nets = [dense_layers(sizes, random) for sizes in ((4, 40, 3), (4, 2), (4, 8, 33, 1))]
    for gathered in (False, True):
        if gathered:
            FlatParameters(nets, 1)
        together = SideBySide()
        x = torch.randn(3, 7, 4, generator=random).requires_grad_()
        out = together(x, *nets)
        assert (together._chosen.nets is not None) == gathered  # where parameters lie apart, torch computes
        wanted = torch.cat([net(x) for net in nets], dim=-1)
        assert torch.allclose(out, wanted, atol=1e-6)
        (slope,) = torch.autograd.grad(out.square().sum(), x)
        (expected,) = torch.autograd.grad(wanted.square().sum(), x)
        assert torch.allclose(slope, expected, atol=1e-5)


def test_hooks_of_a_hypernetwork_are_called():
    mixer, calls = mixer_of(MonotonicMixer), []
    q, yes = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    mixer(q, q, yes, torch.zeros(2, 5), torch.zeros(2, 3, 4))
    mixer.value[0].register_forward_hook(lambda *_: calls.append(1))
    mixer(q, q, yes, torch.zeros(2, 5), torch.zeros(2, 3, 4))
    assert calls


@pytest.mark.parametrize(
    ("module", "name", "place", "what"),
    [
        (recurrent_net, "_forward", 10, "a recurrent network"),
        (recurrent_net, "_backward", -1, "the gradient of a recurrent network"),
        (side_by_side, "_forward", 9, "networks side by side"),
        (side_by_side, "_backward", -1, "the gradient of networks side by side"),
        (mixing, "_mix", 3, "QMIX's mixing"),
        (mixing, "_unmix", 4, "the gradient of QMIX's mixing"),
    ],
)
def test_an_error_in_a_kernel_is_found(module, name, place, what, monkeypatch):
    # Several steps at once go through autograd, so each kernel is compared by itself.
    learner = trained(marl.qmix(network=marl.GRU(8), n_step=2, **SMALL), Team, steps=60).learners[0]
    sample, kernel = learner.experience.draw(Clock(60)), getattr(module, name)

    def wrong(*arguments):
        kernel(*arguments)
        arguments[place][...] *= 1.2

    with marl.compiled.use("check"):
        learner.learn(sample)
        monkeypatch.setattr(module, name, wrong)
        with pytest.raises(marl.compiled.MismatchError, match=what):
            learner.learn(sample)
