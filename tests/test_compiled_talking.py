"""Teams that talk from step to step in one compiled call say and learn what torch says, step by step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import marl
from marl.channels import policy_net
from marl.compiled import backend, panels, talking
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters
from marl.schedules import Clock
from marl.topology import Complete, Graph, Nearest, Where
from tests.support.learning import fill
from tests.support.tiny import Team, spec_of

CHANNELS = {
    "commnet": marl.CommNet(),
    "commnet-small": marl.CommNet(size=4),
    "ic3net": marl.IC3Net(),
    "ic3net-small": marl.IC3Net(size=3),
    "tarmac": marl.TarMAC(signature=4, value=6),
}
NETWORKS = {
    "gru": marl.GRU(16),
    "gru-deep": marl.GRU(24, encoder=marl.MLP((8, 12), activation="relu")),
    "lstm": marl.nets.LSTM(20),
}
INDICES = {"shared": (0, 0, 0), "separate": (0, 1, 2), "groups": (0, 1, 0)}
TOPOLOGIES = {
    "complete": Complete(),
    "loops": Complete(loops=True),
    "chain": Graph([(0, 1), (1, 2)]),
    "near": Nearest(1, (0, 1), among=Where(hear=2)),
}


@pytest.fixture(autouse=True)
def _with_compiled_code():
    """Even where everything else is tested without it."""
    with marl.compiled.use("auto" if backend.word == "off" else backend.word):
        yield


def net_of(channel, network=NETWORKS["gru"], index=(0, 0, 0), turns=False):
    spec = dataclasses.replace(spec_of(len(index), 5), turn_based=turns)
    owner = Owner(index)
    generators = [torch.Generator().manual_seed(7 + k) for k in range(owner.num_sets)]
    ids = torch.eye(len(index))
    net = policy_net(channel, spec, spec.teams[0], network, owner, 3, generators, gain=1.0, ids=ids, normalize=True)
    FlatParameters([net], owner.num_sets)
    with torch.no_grad():  # gates of both kinds, and biases that are there
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generators[0]))
    return net


def rows_of(net, time=7, copies=5, seed=9):
    """Observations, a carry in mid-sentence, episodes that begin within, agents that are not acting."""
    agents = net.owner.num_agents
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(time, copies, agents, 5, generator=random)
    start, acting = (
        torch.rand(time, copies, *more, generator=random) < share for share, *more in ((0.2,), (0.8, agents))
    )
    with torch.no_grad(), marl.compiled.use("off"):
        _, carries = net(x.flip(0), torch.zeros(copies, *net.carry_shape), start, acting)
    return x, carries[-1].clone(), start, acting


def said_and_learnt(net, rows, word):
    """Outputs, carries, and the gradients of inputs, carry and parameters."""
    x, carry, start, acting = rows
    with marl.compiled.use(word):
        assert (net._decision().talking is not None) == (word != "off")
        seen, carry = net.encode(x).requires_grad_(), carry.clone().requires_grad_()
        out, carries = net.read(seen, carry, start, acting)
        slopes = torch.randn(carries.shape, generator=torch.Generator().manual_seed(3))
        wanted = [seen, carry, *net.parameters()]
        gradients = torch.autograd.grad(out.square().sum() + (carries * slopes).sum(), wanted, allow_unused=True)
    return out, carries, *gradients


def assert_same(net, rows):
    plain, ours = (said_and_learnt(net, rows, word) for word in ("off", "check"))
    for one, other in zip(plain, ours, strict=True):
        assert one is not None or other is None or not other.any()
        if one is not None:
            scale = max(1.0, float(one.detach().abs().max()))
            torch.testing.assert_close(other / scale, one / scale, rtol=0, atol=2e-6)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
def test_teams_say_and_learn_what_torchs_do(channel, topology):
    net = net_of(dataclasses.replace(channel, topology=topology))
    assert_same(net, rows_of(net))


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("channel", ["ic3net-small", "tarmac"])
def test_networks_and_owners_of_all_kinds_talk(channel, network, index):
    net = net_of(CHANNELS[channel], network, index)
    assert_same(net, rows_of(net))


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
def test_in_turns_last_words_stay_in_the_air(channel):
    net = net_of(channel, turns=True)
    assert_same(net, rows_of(net))


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
@pytest.mark.parametrize("agents", [2, 20, panels.ROWS + 1])
def test_teams_of_all_sizes_fill_rooms(channel, agents):
    for index in ((0,) * agents, (*(0, 1) * agents,)[:agents]):
        net = net_of(channel, index=index)
        assert_same(net, rows_of(net, time=3, copies=2))


def test_a_step_by_hand():
    """Nothing but messages moves a unit: ``h' = tanh(c) / 2 + h / 2``, ``c`` the mean of what the others said."""
    net = net_of(marl.CommNet(), marl.GRU(1, encoder=marl.MLP((1,), "relu")))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.body.encoder.layers[0].weight[0, -1] = 1.0  # the summary
        net.body.inputs.weight[0, 0, 2] = 1.0  # the candidate
        net.head.weight[0, 0, 0] = 1.0
    carry = torch.tensor([[[0.5, 0.5, 1.0], [0.2, 0.2, 1.0], [0.4, 0.4, 0.0]]])  # state, message, loudness
    never, always = torch.zeros(2, 1, dtype=torch.bool), torch.ones(2, 1, 3, dtype=torch.bool)
    with torch.no_grad():
        out, carries = net(torch.zeros(2, 1, 3, 5), carry, never, always)
    first = np.tanh([0.2, 0.5, 0.35]) / 2 + np.array([0.5, 0.2, 0.4]) / 2  # the third one said nothing before
    mean = (first.sum() - first) / 2
    torch.testing.assert_close(out[0, 0, :, 0].numpy(), first.astype(np.float32))
    torch.testing.assert_close(out[1, 0, :, 0].numpy(), (np.tanh(mean) / 2 + first / 2).astype(np.float32))
    assert carries[1, 0, :, 2].tolist() == [1, 1, 1]


def test_many_steps_at_once_are_the_steps_one_by_one_to_the_last_bit():
    net = net_of(CHANNELS["tarmac"])
    x, carry, start, acting = rows_of(net, copies=30)
    with torch.no_grad():
        whole, carries = net(x, carry, start, acting)
        for t in range(len(x)):
            out, carry = net.once(x[t], carry, start[t], acting[t])
            assert torch.equal(out, whole[t])
            assert torch.equal(carry, carries[t])
        copy = slice(17, 18)
        alone, _ = net(x[:, copy], carries[0, copy], start[:, copy], acting[:, copy])
        again, _ = net(x, carries[0], start, acting)
        assert torch.equal(alone, again[:, copy])


def test_what_was_said_and_looked_at_in_play_is_torch_s():
    net = net_of(CHANNELS["tarmac"])
    x, carry, start, acting = rows_of(net)
    acting = torch.ones_like(acting)
    found = []
    for word in ("off", "auto"):
        with marl.compiled.use(word), torch.inference_mode():
            net.once(x[0], carry, start[0], acting[0])
            found.append((*net.last, net.attention))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("channel", "sharing"), [("commnet", "all"), ("ic3net-small", "all"), ("tarmac", "none")])
def test_twenty_updates_are_those_of_torch(channel, sharing):
    config = marl.ippo(
        channel=CHANNELS[channel], network=marl.GRU(16), sharing=sharing, rollout=16, sequence=8, minibatches=1
    )
    spec = spec_of(3)
    ours, plain = (config.build(spec, spec.teams[0], 4, np.random.SeedSequence(3), "cpu") for _ in range(2))
    for update in range(20):
        for learner, word in ((ours, "auto"), (plain, "off")):
            with marl.compiled.use(word):
                fill(learner, update, [0, 1, 2])
                learner.generator.manual_seed(update)
                learner.update(Clock(0, 1))
    assert torch.allclose(ours.flat.values, plain.flat.values, atol=2e-5)


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=CHANNELS)
def test_nothing_has_changed_before_the_first_step(channel):
    """The ratio of old and new policies is 1, so KL and the share of clipped ratios are 0."""
    config = marl.ippo(
        channel=channel, network=marl.GRU(16), rollout=32, sequence=8, epochs=1, minibatches=1, normalize_values=False
    )
    with marl.MultiAgentSystem(config, lambda: Team(length=7, die=(3,)), num_envs=5, seed=3) as system:
        history = system.train(steps=5 * 32)
    assert history["kl"][-1] == pytest.approx(0, abs=1e-9)
    assert history["clip_fraction"][-1] == 0


@pytest.mark.parametrize(
    "channel",
    [
        marl.DIAL(),
        marl.GraphAttention(),
        marl.CommNet(rounds=1),
        marl.CommNet(link=marl.Link(delay=1)),
        marl.TarMAC(link=marl.Link(loss=0.1)),
        marl.IC3Net(link=marl.Link(bits=2)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_other_channels_and_links_are_left_to_torch(channel):
    assert net_of(channel)._decision().talking is None


def test_a_worse_link_is_left_to_torch_and_a_perfect_one_taken_again():
    net = net_of(marl.CommNet())
    assert net._decision().talking is not None
    net.use(marl.Link(loss=0.5), executing=True)
    assert net._decision().talking is None
    net.use(marl.Link())
    assert net._decision().talking is not None
    net.speech.speak = net.speech.speak  # a function of somebody's own
    net._chosen = None
    assert net._decision().talking is None


@pytest.mark.parametrize(("name", "what"), [("_forward", ""), ("_backward", "the gradient of ")])
def test_an_error_in_a_kernel_is_found(name, what, monkeypatch):
    net, kernel = net_of(marl.CommNet()), getattr(talking, name)
    x, carry, start, acting = rows_of(net)

    def wrong(*arguments):
        kernel(*arguments)
        arguments[10 if name == "_forward" else -1][...] *= 1.2

    monkeypatch.setattr(talking, name, wrong)
    with (
        marl.compiled.use("check"),
        pytest.raises(marl.compiled.MismatchError, match=f"{what}a network that talks: compiled code differs"),
    ):
        net(x, carry, start, acting)[0].square().sum().backward()
