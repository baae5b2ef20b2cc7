"""A policy as a program of numpy operations gives the numbers that torch gives."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import marl
from marl.compiled import MismatchError
from marl.program import program_of
from marl.types import ConfigError
from marl_runtime import program as runtime
from marl_runtime.program import Operation, Program, ProgramError, Runner, Stage
from tests.support.policies import ACTIONS, CHANNELS, IMAGE, IMAGE_NETWORKS, NETWORKS, VECTOR, agent_of, rows, spoken


def alone(agent, seen):
    """Actions by the program and by torch, each from its own episode."""
    found = []
    for word in ("auto", "off"):
        with marl.compiled.use(word):
            agent.reset()
            found.append([np.asarray(agent.act(row)) for row in seen])
            assert (agent._runner() is None) == (word == "off")
    return found


def assert_alike(agent, seen):
    for ours, torchs in zip(*alone(agent, seen), strict=True):
        assert ours.dtype == torchs.dtype
        np.testing.assert_allclose(ours, torchs, atol=1e-5)
    with marl.compiled.use("check"):  # the network's outputs, to a hundredth of rounding
        agent.reset()
        for row in seen:
            agent.act(row)


@pytest.mark.parametrize(("network", "kind"), list(itertools.product(NETWORKS, ACTIONS)))
def test_the_program_of_every_network_and_action_acts_as_torch_does(network, kind):
    recurrent = network in ("gru", "lstm")
    learner = marl.PPO(network=NETWORKS[network], normalize_obs=network == "relu", rollout=8, minibatches=1)
    agent = agent_of(replace(learner, sequence=4) if recurrent else learner, ACTIONS[kind])
    with torch.no_grad():
        agent.net.head.weight.mul_(50)  # a new policy's outputs are all but equal
    assert_alike(agent, rows(VECTOR))


@pytest.mark.parametrize("network", IMAGE_NETWORKS)
def test_the_program_of_every_network_over_images_acts_as_torch_does(network):
    learner = marl.PPO(network=IMAGE_NETWORKS[network], rollout=8, minibatches=1)
    agent = agent_of(replace(learner, sequence=4) if network == "gru" else learner, observation=IMAGE)
    with torch.no_grad():
        agent.net.head.weight.mul_(50)
    assert_alike(agent, rows(IMAGE, 10))


@pytest.mark.parametrize(
    ("learner", "kind"),
    [
        (marl.DQN(), "discrete"),
        (marl.DQN(dueling=True), "discrete"),
        (marl.DQN(distribution=marl.nets.Atoms(-2, 2, 11)), "discrete"),
        (marl.DQN(dueling=True, distribution=marl.nets.Quantiles(5)), "discrete"),
        (marl.DQN(network=marl.MLP((8,), noisy=0.5)), "discrete"),
        *((marl.DDPG(), kind) for kind in ACTIONS),
        (marl.SAC(), "box"),
        (marl.SAC(), "discrete"),
        (marl.PPO(squash=True), "box"),
    ],
    ids=str,
)
def test_the_program_of_every_other_head_acts_as_torch_does(learner, kind):
    agent = agent_of(learner, ACTIONS[kind])
    with torch.no_grad():
        agent.net.head.weight.mul_(50)
    assert_alike(agent, rows(VECTOR))


@pytest.mark.parametrize(("channel", "rounds", "memory"), list(itertools.product(CHANNELS, (0, 1, 2), (False, True))))
def test_the_program_of_every_channel_talks_as_torch_does(channel, rounds, memory):
    network = {"network": marl.GRU(8), "sequence": 4} if memory else {}
    learner = marl.PPO(channel=replace(CHANNELS[channel], rounds=rounds), rollout=8, minibatches=1, **network)
    agent, heard = agent_of(learner), np.random.default_rng(1)
    with torch.no_grad():
        agent.net.head.weight.mul_(50)
    rest = [heard.normal(size=(3, agent.size)).astype(np.float32) for _ in range(20 * max(rounds, 1))]
    weights = [(heard.random(3) < 0.6).astype(np.float32) for _ in rest]
    told = {}
    for word in ("auto", "off", "check"):
        messages, told[word] = iter(zip(rest, weights, strict=True)), []
        with marl.compiled.use(word):
            agent.reset()
            for row in rows(VECTOR, 20):
                turn = agent.turn(row, None, False, next(messages) if not rounds else None)
                told[word] += spoken(turn, messages if rounds else itertools.repeat(None))
    for ours, torchs in zip(told["auto"], told["off"], strict=True):
        np.testing.assert_allclose(ours, torchs, atol=1e-5)


@pytest.mark.parametrize("kind", ["discrete", "multidiscrete", "multibinary"])
def test_a_masked_choice_is_the_best_legal_one(kind):
    agent = agent_of(marl.PPO(), ACTIONS[kind])
    choices = {"discrete": 4, "multidiscrete": 5, "multibinary": 6}[kind]
    allowed = {"multidiscrete": [0, 1, 1, 0, 1], "discrete": [0, 1, 0, 1], "multibinary": [1, 0, 0, 1, 1, 1]}[kind]
    mask = np.array(allowed, bool)
    assert len(mask) == choices
    for row in rows(VECTOR):
        ours = agent.decide(row, mask)
        with marl.compiled.use("off"):
            np.testing.assert_array_equal(ours, agent.decide(row, mask))


DRAWS = 40_000


def drawn(agent, kind, mask=None):
    """Actions of many draws in one state, by the program, and by torch."""
    program = program_of(agent.net, agent.distribution)
    runner, random = Runner(program), np.random.default_rng(2)
    row = rows(VECTOR, 1)[0]
    values = runner.begin(observation=row, carry=np.zeros(0, np.float32), action_mask=mask)
    parameters = runner.run(values, 0)["parameters"]
    uniform, normal = random.random((DRAWS, 16), np.float32), random.standard_normal((DRAWS, 16), np.float32)
    for name, noise in (("uniform", uniform), ("normal", normal)):
        if name in program.inputs:
            runner.give(values, **{name: noise[:, : program.inputs[name][0]]})
    ours = runner.head(values, "sample" if mask is None else "sample_masked")
    outputs = torch.from_numpy(parameters).expand(DRAWS, 1, -1)
    given = None if mask is None else torch.from_numpy(mask).expand(DRAWS, 1, -1)
    torchs = agent.distribution.to_env(agent.distribution.sample(outputs, given, torch.Generator().manual_seed(1)))
    return ours.reshape(DRAWS, -1).astype(np.float64), torchs.view(DRAWS, -1).double().numpy()


@pytest.mark.parametrize(
    ("learner", "kind"),
    [
        *((marl.PPO(), kind) for kind in ACTIONS),
        (marl.PPO(squash=True), "box"),
        (marl.SAC(), "box"),
        (marl.SAC(), "discrete"),
    ],
    ids=str,
)
def test_the_sampling_head_draws_from_the_distribution_that_torch_draws_from(learner, kind):
    agent = agent_of(learner, ACTIONS[kind])
    with torch.no_grad():
        agent.net.head.weight.mul_(30)
    for values in zip(*(array.T for array in drawn(agent, kind)), strict=True):
        ours, torchs = map(np.sort, values)
        assert abs(ours - torchs).max() <= 2 or kind == "box"
        for moment in (1, 2):
            one, other = ours**moment, torchs**moment
            assert abs(one.mean() - other.mean()) < 5 * max(one.std(), other.std(), 1e-6) * (2 / DRAWS) ** 0.5


def test_a_masked_draw_is_legal():
    mask = np.array([0, 1, 0, 1], bool)
    ours, torchs = drawn(agent_of(marl.PPO()), "discrete", mask)
    assert set(np.unique(ours)) == set(np.unique(torchs)) == {1, 3}


def test_parameters_that_change_in_place_change_the_program(tmp_path):
    agent = agent_of(marl.PPO(normalize_obs=True))
    seen = rows(VECTOR, 20)
    before = [agent.act(row) for row in seen]
    with torch.no_grad():
        agent.net.norm.mean.add_(0.7)
        agent.net.head.weight.mul_(-40)
    assert_alike(agent, seen)
    assert [agent.act(row) for row in seen] != before


def test_a_hook_is_called_again_once_somebody_hooked_into_the_network():
    agent, called = agent_of(marl.PPO()), []
    agent.act(rows(VECTOR, 1)[0])
    agent.net.head.register_forward_hook(lambda module, inputs, output: called.append(output))
    agent.act(rows(VECTOR, 1)[0])
    assert len(called) == 1


def test_check_mode_finds_an_error_in_an_operation(monkeypatch):
    agent = agent_of(marl.PPO())
    monkeypatch.setitem(runtime.ACTIVATIONS, "tanh", lambda x: x)
    with marl.compiled.use("check"), pytest.raises(MismatchError, match="an agent's policy"):
        agent.act(rows(VECTOR, 1)[0])


def test_a_network_of_ones_own_is_torchs():
    own = marl.Custom(lambda shape, extra: torch.nn.Linear(shape[0] + extra, 8), 8)
    agent = agent_of(marl.PPO(network=own))
    agent.act(rows(VECTOR, 1)[0])
    assert agent._runner() is None
    with pytest.raises(ConfigError, match="cannot be written as a program"):
        program_of(agent.net, agent.distribution)


def test_what_follows_from_constants_alone_is_computed_once():
    add = Operation("add", "three", ("one", "two"), {})
    more = Operation("multiply", "out", ("x", "three"), {})
    program = Program(
        {"x": ()}, {"one": np.float32(1), "two": np.float32(2)}, (Stage((add, more), {"parameters": "out"}),), {}
    )
    runner = Runner(program)
    assert len(runner.stages[0][0]) == 1
    assert runner.run(runner.begin(x=np.float32(4)), 0)["parameters"] == 12
    bound = Runner(program, {"x": np.float32(5)})
    assert not bound.stages[0][0]
    assert bound.run(bound.begin(), 0)["parameters"] == 15


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (Operation("os.system", "out", ("x",), {}), "operation 'os.system' is not known here"),
        (Operation("tanh", "out", ("nowhere",), {}), "reads 'nowhere', which nothing before it computes"),
    ],
)
def test_a_program_that_makes_no_sense_is_refused_before_it_runs(operation, said):
    with pytest.raises(ProgramError, match=said):
        Runner(Program({"x": ()}, {}, (Stage((operation,), {"parameters": "out"}),), {}))
