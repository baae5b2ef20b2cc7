"""Recurrent units over whole sequences in one compiled call are torch's, step by step."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import marl
from marl import parallel
from marl.compiled import backend, panels
from marl.compiled import recurrent as compiled
from marl.memory.base import PolicyInput
from marl.nets.agent_net import AgentNet
from marl.nets.owner import Owner
from marl.nets.recurrent import gru, lstm
from marl.nets.stacked import FlatParameters
from marl.schedules import Clock
from tests.support.learning import fill
from tests.support.tiny import spec_of

UNITS = {"gru": gru, "lstm": lstm}
INDICES = {"shared": (0, 0, 0), "separate": (0, 1, 2), "groups": (0, 1, 0)}


@pytest.fixture(autouse=True)
def _with_compiled_code():
    """Even where everything else is tested without it."""
    with marl.compiled.use("auto" if backend.word == "off" else backend.word):
        yield


def sequences(unit, sets, time, rows, units, seed=0):
    """Inputs of a unit: products, carry, starts, who acts, weight, bias."""
    random = torch.Generator().manual_seed(seed)
    normal = functools.partial(torch.randn, generator=random)
    start, acting = (torch.rand(sets, time, rows, generator=random) < share for share in (0.2, 0.8))
    width = unit.gates * units
    weight, bias = normal(sets, units, width) / units**0.5, normal(sets, width)
    return normal(sets, time, rows, width), normal(sets, rows, unit.state * units), start, acting, weight, bias


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("sets", "time", "rows", "units"), [(1, 6, 7, 8), (1, 1, 1, 64), (3, 5, 40, 20), (2, 3, 67, 33), (1, 40, 60, 64)]
)
def test_carries_and_gradients_are_those_of_the_loop(unit, sets, time, rows, units, threads, monkeypatch):
    monkeypatch.setattr(panels, "WORTH", 0)
    data = sequences(unit, sets, time, rows, units)
    found, wanted = ([x.clone().requires_grad_(x.is_floating_point()) for x in data] for _ in range(2))
    before = parallel.threads()
    parallel.set_threads(threads)
    try:
        ours = compiled.recurrence(unit, *found)
        theirs = unit.plain(*wanted)
        slope = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
        ours.backward(slope)
    finally:
        parallel.set_threads(before)
    theirs.backward(slope)
    assert torch.allclose(ours, theirs, atol=2e-6)
    for place in (0, 1, 4, 5):
        scale = float(wanted[place].grad.abs().max())
        assert torch.allclose(found[place].grad, wanted[place].grad, atol=2e-6 * max(scale, 1)), place


def test_one_step_of_a_gru_by_hand():
    # U = 0, c = 0, x_r = x_z = 0, x_n = 1: r = z = 1/2, h' = tanh(1) / 2 + h / 2
    x = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    there = torch.ones(1, 1, 1, dtype=torch.bool)
    zero = torch.zeros(1, 1, 3)
    for start, before in ((~there, 2.0), (there, 0.0)):
        hidden = compiled.recurrence(gru, x, torch.full((1, 1, 1), 2.0), start, there, zero, zero[0])
        assert hidden.item() == pytest.approx(np.tanh(1) / 2 + before / 2, abs=1e-6)
    idle = compiled.recurrence(gru, x, torch.full((1, 1, 1), 2.0), ~there, ~there, zero, zero[0])
    assert idle.item() == 2


def test_one_step_of_an_lstm_by_hand():
    # i = f = o = 1/2, g = tanh(1): c' = c / 2 + tanh(1) / 2, h' = tanh(c') / 2
    x = torch.tensor([0.0, 0.0, 1.0, 0.0]).reshape(1, 1, 1, 4)
    there, zero = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 4)
    before = torch.tensor([5.0, 2.0]).reshape(1, 1, 2)
    for start, cell in ((~there, 2.0), (there, 0.0)):
        hidden, after = compiled.recurrence(lstm, x, before, start, there, zero, zero[0]).flatten().tolist()
        assert after == pytest.approx(cell / 2 + np.tanh(1) / 2, abs=1e-6)
        assert hidden == pytest.approx(np.tanh(after) / 2, abs=1e-6)
    idle = compiled.recurrence(lstm, x, before, ~there, ~there, zero, zero[0])
    assert idle.flatten().tolist() == [5, 2]


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_row_is_the_same_to_the_last_bit_alone_and_among_others(unit):
    data = sequences(unit, 1, 9, 75, 48)
    together = compiled.recurrence(unit, *data)
    for row in (0, 31, 32, 74):
        alone = [x[:, :, row : row + 1] for x in data[:1]] + [data[1][:, row : row + 1]]
        alone += [x[:, :, row : row + 1] for x in data[2:4]]
        assert torch.equal(compiled.recurrence(unit, *alone, *data[4:]), together[:, :, row : row + 1])


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize(
    "network",
    [marl.GRU(16), marl.GRU(24, encoder=marl.MLP((8, 12), activation="relu")), marl.nets.LSTM(20)],
    ids=["gru", "gru-deep", "lstm"],
)
def test_networks_say_and_learn_what_torchs_do(network, index):
    owner = Owner(index)
    generators = [torch.Generator().manual_seed(which) for which in range(owner.num_sets)]
    net = AgentNet(network, owner, (5,), 3, generators, gain=1.0, ids=torch.eye(3), normalize=True)
    FlatParameters([net], owner.num_sets)
    random = torch.Generator().manual_seed(9)
    x, carry = torch.randn(7, 4, 3, 5, generator=random), torch.randn(4, 3, net.carry_shape[1], generator=random)
    start, acting = torch.rand(7, 4, generator=random) < 0.2, torch.rand(7, 4, 3, generator=random) < 0.8
    results = []
    for word in ("off", "check"):
        with marl.compiled.use(word):
            out, carries = net(x, carry, start, acting)
            gradients = torch.autograd.grad(out.square().sum() + carries.sum(), list(net.parameters()))
        results.append((out, carries, *gradients))
    for plain, ours in zip(*results, strict=True):
        assert torch.allclose(plain, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        marl.ippo(entropy=0.01),
        marl.ippo(sharing="none", sequence=16),
        marl.mappo(normalize_obs=True, sharing={"agent_0": "one", "agent_*": "others"}),
        marl.ia2c(rollout=64),
        marl.ippo(network=marl.nets.LSTM(16)),
    ],
    ids=["shared", "separate", "groups", "a2c", "lstm"],
)
@pytest.mark.parametrize("space", [Discrete(5), Box(-1, 1, (2,), np.float32)], ids=["choices", "boxes"])
def test_learners_learn_the_same(config, space):
    config = replace(config, rollout=64, network=config.network or marl.GRU(16))
    config = replace(config, epochs=3, minibatches=2) if isinstance(config, marl.PPO) else config
    spec = spec_of(3, action=space)
    ours, plain = (config.build(spec, spec.teams[0], 4, np.random.SeedSequence(3), "cpu") for _ in range(2))
    for update in range(20):
        for learner, word in ((ours, "auto"), (plain, "off")):
            with marl.compiled.use(word):
                fill(learner, update, [0, 1, 2])
                plain.generator.set_state(ours.generator.get_state()) if learner is ours else None
                learner.update(Clock(0, 1))
    assert torch.allclose(ours.flat.values, plain.flat.values, atol=2e-5)


@pytest.mark.parametrize("config", [marl.ippo(), marl.ippo(sharing="none"), marl.mappo()], ids=["flat", "own", "joint"])
def test_nothing_has_changed_before_the_first_step(config):
    """The ratio of old and new policies is 1, so KL and the share of clipped ratios are 0."""
    config = replace(config, network=marl.GRU(16), rollout=32, epochs=1, minibatches=1)
    with marl.MultiAgentSystem(config, "CartPole-v1", num_envs=5, seed=3) as system:
        history = system.train(steps=5 * 32)
    assert history["kl"][-1] == pytest.approx(0, abs=1e-9)
    assert history["clip_fraction"][-1] == 0


@pytest.mark.parametrize("network", [marl.GRU(32), marl.nets.LSTM(32)], ids=UNITS)
def test_acting_step_by_step_is_reading_the_sequence(network):
    owner = Owner((0, 1))
    generators = [torch.Generator().manual_seed(which) for which in range(2)]
    net = AgentNet(network, owner, (4,), 3, generators, gain=1.0)
    FlatParameters([net], 2)  # where compiled code finds them
    random = torch.Generator().manual_seed(2)
    x, carry = torch.randn(12, 3, 2, 4, generator=random), torch.zeros(3, *net.carry_shape)
    start, acting = torch.rand(12, 3, generator=random) < 0.2, torch.rand(12, 3, 2, generator=random) < 0.8
    with torch.no_grad():
        whole, carries = net(x, carry, start, acting)
        for time in range(12):
            out, carry = net.once(x[time], carry, start[time], acting[time])
            assert torch.allclose(carry, carries[time], atol=1e-6)
            assert torch.allclose(out, whole[time], atol=1e-6)


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_an_error_in_a_unit_is_found(unit):
    def wrong(*arguments):
        unit.forward(*arguments)
        arguments[6][:] *= 1.1  # the carries

    with (
        marl.compiled.use("check"),
        pytest.raises(marl.compiled.MismatchError, match=f"{unit.what}: compiled code differs from torch"),
    ):
        compiled.recurrence(unit._replace(forward=wrong), *sequences(unit, 1, 3, 4, 8))


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_an_error_in_its_gradient_is_found(unit):
    def wrong(*arguments):
        unit.backward(*arguments)
        arguments[8][:] *= 1.1  # the gradient of the products with the inputs

    data = [x.requires_grad_(x.is_floating_point()) for x in sequences(unit, 1, 3, 4, 8)]
    with marl.compiled.use("check"):
        after = compiled.recurrence(unit._replace(backward=wrong), *data)
        with pytest.raises(marl.compiled.MismatchError, match=f"the gradient of {unit.what}"):
            after.sum().backward()


def test_hooks_of_the_unit_are_called():
    owner = Owner((0,))
    net = AgentNet(marl.GRU(8), owner, (4,), 2, [torch.Generator().manual_seed(0)], gain=1.0)
    calls = []
    net.body.inputs.register_forward_hook(lambda *_: calls.append(1))
    inputs = PolicyInput(torch.zeros(3, 1, 4), torch.zeros(3, 1, 8), torch.zeros(3, dtype=torch.bool),
                         torch.ones(3, 1, dtype=torch.bool), None)  # fmt: skip
    net.once(inputs.obs, inputs.carry, inputs.started, inputs.acting)
    assert calls


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_all_sizes_of_tiles_are_covered(unit):
    for rows, units in itertools.product((1, compiled.ROWS - 1, compiled.ROWS + 1), (1, 31, 32)):
        data = sequences(unit, 1, 2, rows, units, seed=rows)
        assert torch.allclose(compiled.recurrence(unit, *data), unit.plain(*data), atol=2e-6)
