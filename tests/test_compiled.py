"""What is compiled says what torch says: PPO's gradient, Adam with clipping, acting."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

import marl
from marl import parallel
from marl.compiled import backend, tiles
from marl.memory.base import PolicyInput
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import mask_logits
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters
from marl.optim import Adam, Stepper
from marl.schedules import Clock
from tests.support.learning import fill
from tests.support.tiny import Team, spec_of

SEED = np.random.SeedSequence(5)

PAIRS = {"agent_0": "one", "agent_*": "others"}


@pytest.fixture(autouse=True)
def _with_compiled_code():
    """Even where everything else is tested without it."""
    with marl.compiled.use("auto" if backend.word == "off" else backend.word):
        yield


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("config", "masked"),
    [
        (marl.ippo(entropy=0.01), False),
        (marl.ippo(entropy=0.02, sharing="none"), True),
        (marl.ippo(entropy=0.01, sharing=PAIRS, network=marl.MLP((30, 17, 9), activation="relu")), True),
        (marl.ippo(target_kl=0.002, lr=3e-3, epochs=6, sharing="none"), False),
        (marl.mappo(normalize_obs=True, normalize_values=True), False),
        (marl.mappo(sharing="none", critic_network=marl.MLP((24,))), False),
        (marl.mappo(sharing=PAIRS), False),
        (marl.happo(), False),
        (marl.mappo(value_clip=0.02, lr=3e-3), False),
    ],
    ids=[
        "shared",
        "separate",
        "groups",
        "kl-stop",
        "joint",
        "joint-separate",
        "joint-groups",
        "sequential",
        "value-clip",
    ],
)
def test_ppo_without_autograd_learns_the_same(config, masked, threads):
    # A value beyond its clip on one side of rounding only makes a gradient of its own: fewer chances.
    updates = 20 if config.value_clip is None else 3
    # With more updates, and targets that move with statistics, rounding grows beyond what is compared.
    epochs, normalized = min(config.epochs, 6 if config.target_kl else 4), config.normalize_obs
    config = replace(config, rollout=64, minibatches=2, epochs=epochs, normalize_values=normalized)
    spec = spec_of(3, action=Discrete(5), masked=masked)
    ours, plain = (config.build(spec, spec.teams[0], 5, np.random.SeedSequence(3), "cpu") for _ in range(2))
    assert ours.chosen.compiled
    by_autograd(plain)
    plain.flat.values.copy_(ours.flat.values)
    before = parallel.threads()
    parallel.set_threads(threads)
    try:
        for update in range(updates):
            for learner in (ours, plain):
                fill(learner, update, [0, 1, 2])
                if masked:
                    forbid(learner.memory, update)
            plain.generator.set_state(ours.generator.get_state())
            metrics, expected = ours.update(Clock(0, 1)), plain.update(Clock(0, 1))
            assert not plain.chosen.compiled
            assert metrics.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.allclose(metrics[name].float(), value.float(), rtol=1e-4, atol=1e-5), (update, name)
    finally:
        parallel.set_threads(before)
    assert torch.allclose(ours.flat.gradients, plain.flat.gradients, atol=1e-5)
    assert torch.allclose(ours.flat.values, plain.flat.values, atol=2e-6)


def by_autograd(learner):
    """Leave the gradient to the learner's own equations, and only that, so that nothing else is rounded differently."""
    name = next(name for name in ("compute_critic_loss", "compute_loss") if hasattr(learner, name))
    setattr(learner, name, functools.partial(getattr(type(learner), name), learner))


def forbid(memory, seed):
    """Make some choices illegal, never the one that was taken."""
    random = torch.Generator().manual_seed(seed)
    memory.action_mask.copy_(torch.rand(memory.action_mask.shape, generator=random) < 0.7)
    memory.action_mask[:-1].scatter_(-1, memory.action.unsqueeze(-1), True)
    memory.action_mask[-1] = True


@pytest.mark.parametrize(
    "config",
    [
        marl.ippo(network=marl.GRU(8)),
        marl.ippo(network=marl.MLP((8,), activation="elu")),
        marl.ippo(network=marl.Custom(lambda shape, extra: nn.Linear(shape[0] + extra, 8), 8)),
    ],
    ids=["gru", "elu", "custom"],
)
def test_other_networks_go_through_autograd(config):
    spec = spec_of(3)
    learner = config.build(spec, spec.teams[0], 4, SEED.spawn(1)[0], "cpu")
    assert not learner.chosen.compiled
    assert "layers" in learner.chosen.reason


@pytest.mark.parametrize("where", ["compiled", "torch"])
def test_flat_adam_is_torchs_adam_of_clipped_gradients(where):
    torch.manual_seed(0)
    flat = FlatParameters([nn.ParameterList([nn.Parameter(torch.randn(3, 40))])], 3)
    rows = [nn.Parameter(row.clone()) for row in flat.values]
    adam, wanted = Stepper(Adam(eps=1e-5), flat, lr=0.01), torch.optim.Adam(rows, lr=0.01, eps=1e-5)
    flat.freeze(1)
    for step in range(30):
        flat.gradients.copy_(torch.randn(3, 40) * (10 if step % 2 else 0.01))
        for row, gradient in zip(rows, flat.gradients, strict=True):
            row.grad = gradient.clone()
            nn.utils.clip_grad_norm_([row], 0.5)
        rows[1].grad = None
        norms = torch.linalg.vector_norm(flat.gradients, dim=1)
        if where == "compiled":
            assert torch.allclose(adam.step(0.5), norms, rtol=1e-5)
        else:
            adam.step_of_torch(0.5)
        wanted.step()
    assert torch.allclose(flat.values, torch.stack(list(rows)), atol=1e-6)


def test_a_row_without_a_finite_gradient_stays_where_it_is():
    flat = FlatParameters([nn.ParameterList([nn.Parameter(torch.ones(2, 8))])], 2)
    adam = Stepper(Adam(), flat, lr=0.1)
    for times in (1, 2):
        flat.gradients.copy_(torch.ones(2, 8))
        flat.gradients[1, 3] = np.nan
        adam.step(1.0)
        assert int(flat.non_finite) == times
    assert torch.isfinite(flat.values).all()
    assert (flat.values[0] != 1).all()
    assert (flat.values[1] == 1).all()
    flat.gradients.fill_(1)
    adam.step(1.0)
    assert int(flat.non_finite) == 0


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("sharing", ["all", "none", PAIRS], ids=["all", "none", "groups"])
def test_compiled_acting_draws_from_the_policy(sharing, masked):
    """The same log-probabilities as torch's, only legal choices, and as often as the policy says."""
    spec = spec_of(3, action=Discrete(4), widths=(4, 6, 5), masked=masked)
    model = marl.ippo(sharing=sharing).build(spec, spec.teams[0], 400, np.random.SeedSequence(3), "cpu").model
    model.parameters_flat.values.mul_(1.3)
    with torch.no_grad():
        model.actor.head.weight.mul_(100)  # far from uniform
    action_mask = torch.rand(400, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.7
    action_mask[..., 2] = True
    obs = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(2)).expand(400, 3, 6).contiguous()
    inputs = PolicyInput(
        obs, torch.zeros(400, 3, 0), torch.zeros(400, dtype=torch.bool), torch.ones(400, 3, dtype=torch.bool),
        action_mask if masked else None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    assert model.actor.compiled() is not None
    with torch.enable_grad():  # through torch
        logits = model.actor(obs[None], inputs.carry, inputs.started[None], inputs.acting[None])[0][0]
        policy = mask_logits(logits, inputs.action_mask).softmax(-1).detach()
    counts = torch.zeros(400, 3, 4)
    for _ in range(30):
        decision = model.act(inputs, generator, explore=True)
        wanted, _ = model.distribution.evaluate(logits, inputs.action_mask, decision.action)
        assert torch.allclose(decision.log_prob, wanted, atol=1e-5)
        counts += torch.nn.functional.one_hot(decision.action, 4)
    assert not masked or (counts[~action_mask] == 0).all()
    assert torch.allclose(counts.sum(0) / 12_000, policy.mean(0), atol=0.02)
    with torch.no_grad():
        compiled = model.actor(obs[None], inputs.carry, inputs.started[None], inputs.acting[None])[0][0]
    assert torch.allclose(compiled, logits, atol=1e-5)


def test_compiled_forward_looks_at_the_parameters_as_they_are():
    """After a step of the optimizer, after loading, in a copy."""
    spec = spec_of(3)
    learner = marl.ippo(sharing="none").build(spec, spec.teams[0], 4, np.random.SeedSequence(3), "cpu")
    net = learner.model.actor
    x, carry = torch.randn(5, 4, 3, 4), torch.zeros(4, 3, 0)
    still, yes = torch.zeros(5, 4, dtype=torch.bool), torch.ones(5, 4, 3, dtype=torch.bool)

    def said(by):
        with torch.no_grad():
            return by(x, carry, still, yes)[0]

    before = said(net)
    twin = copy.deepcopy(net)
    other = FlatParameters([twin], 3)
    with torch.no_grad():
        learner.flat.values.add_(0.1)
        other.values.mul_(2)
    assert not torch.allclose(said(net), before)
    assert torch.allclose(said(net), net(x, carry, still, yes)[0], atol=1e-5)
    assert torch.allclose(said(twin), twin(x, carry, still, yes)[0], atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        marl.iql(),
        marl.iql(double=False, sharing="none", huber=0.3, n_step=3),
        marl.iql(
            hysteresis=0.4, sharing={"agent_0": "one", "agent_*": "others"}, prioritized=marl.memory.Prioritized()
        ),
        marl.iql(credit=marl.TeamReward(), network=marl.MLP((24,), "relu"), normalize_obs=True),
    ],
    ids=["double", "none-huber", "groups-hysteretic", "team"],
)
@pytest.mark.parametrize("dies", [None, 4], ids=["all-live", "one-dies"])
def test_dqn_without_autograd_learns_the_same(config, dies):
    config = replace(config, learning_starts=40, batch=24, buffer=200, lr=1e-2, updates_per_step=0.25)
    learners = []
    for autograd in (False, True):
        env = lambda: Team(widths=(3, 4), choices=(2, 3), die=(None, dies))  # noqa: E731
        system = marl.MultiAgentSystem(config, env, num_envs=3, seed=1)
        if autograd:
            by_autograd(system.learners[0])
        system.train(steps=240)
        learners.append(system.learners[0])
    assert learners[0].chosen.compiled
    assert not learners[1].chosen.compiled
    assert learners[0].experience.updates == learners[1].experience.updates > 30
    assert torch.allclose(learners[0].flat.values, learners[1].flat.values, atol=1e-5)
    assert torch.allclose(learners[0].flat.gradients, learners[1].flat.gradients, atol=1e-5)


def test_halves_within_halves_do_not_wait_for_each_other():
    """Autograd in two halves calls networks that would go in two halves themselves."""
    before = parallel.threads()
    parallel.set_threads(2)
    try:
        assert parallel.both(
            lambda: parallel.both(lambda: 1, lambda: 2), lambda: parallel.both(lambda: 3, lambda: 4)
        ) == (
            (1, 2),
            (3, 4),
        )
        spec = spec_of(3, action=Box(-1, 1, (2,), np.float32))
        learner = marl.ippo(rollout=128, minibatches=1, epochs=1).build(
            spec, spec.teams[0], 40, SEED.spawn(1)[0], "cpu"
        )
        assert not learner.chosen.compiled
        fill(learner, 0, [0, 1, 2])
        learner.update(Clock(0, 1))
    finally:
        parallel.set_threads(before)


@pytest.mark.parametrize(
    ("inputs", "outputs", "columns"),
    [(1, 1, 32), (3, 2, 64), (21, 64, 96), (17, 35, 32), (64, 7, 512), (300, 33, 64), (601, 16, 32), (8, 100, 320)],
)
def test_products_of_any_size(inputs, outputs, columns):
    random = np.random.default_rng(0)
    flat = np.zeros(5 + inputs * outputs + outputs, np.float32)
    flat[:] = random.standard_normal(flat.size)
    weight, bias = flat[5 : 5 + inputs * outputs].reshape(inputs, outputs), flat[-outputs:]
    layers = tiles.layer_table([(inputs, outputs)], [(5, 5 + inputs * outputs)])
    scratch = tiles.Scratch(layers)
    assert scratch.size >= 64
    x, z = scratch.x[:, :columns].copy(), np.zeros((2, max(inputs, outputs), columns), np.float32)
    x[:] = random.standard_normal(x.shape)
    slope = random.standard_normal((outputs, columns)).astype(np.float32)
    hidden = np.full((1, outputs, columns), np.nan, np.float32)
    tiles.forward(flat, layers, tiles.TANH, x, hidden, columns)
    assert np.allclose(hidden[0], weight.T.astype(float) @ x + bias[:, None], atol=1e-4)
    z[0, :outputs], gradient = slope, np.ones_like(flat)
    place = tiles.backward(flat, layers, tiles.TANH, x, hidden, z, columns, gradient, True, 0, inputs)
    assert np.allclose(z[place, :inputs], weight.astype(float) @ slope, atol=1e-4)
    assert np.allclose(gradient[5:-outputs].reshape(weight.shape), 1 + x.astype(float) @ slope.T, atol=1e-4)
    assert np.allclose(gradient[-outputs:], 1 + slope.sum(1), atol=1e-4)
    assert (gradient[:5] == 1).all()
    # A row's numbers are the same wherever it lies.
    again = np.zeros_like(hidden)
    tiles.forward(flat, layers, tiles.TANH, np.roll(x, 5, 1), again, columns)
    assert (np.roll(hidden, 5, 2) == again).all()


@pytest.mark.parametrize("width", [1, 15, 16, 21, 64, 75])
@pytest.mark.parametrize("rows", [1, 16, 31, 90])
def test_rows_become_columns(width, rows):
    random = np.random.default_rng(1)
    source = random.standard_normal((rows, width)).astype(np.float32)
    out = np.zeros((width, 96), np.float32)
    tiles.flip(out, 2, 96, source, 0, width, rows, width)
    assert (out[:, 2 : 2 + rows] == source.T).all()
    assert (np.delete(out, range(2, 2 + rows), 1) == 0).all()
    places, out = random.integers(rows, size=70), np.full((width, 96), np.nan, np.float32)
    tiles.gather_columns(out, source, places, 70)
    assert (out[:, :70] == source[places].T).all()
    assert (out[:, 70:] == 0).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("index", [(0,), (0, 0, 0), (0, 1, 2), (0, 1, 1, 0)])
@pytest.mark.parametrize("network", [marl.MLP((64, 64)), marl.MLP((200, 30, 7), "relu")], ids=["tanh", "relu"])
def test_networks_in_compiled_tiles_have_autograds_gradients(network, index, threads):
    """Inputs side by side, some of them seen by all agents, all copies or all times, some with a gradient."""
    owner, agents, rows = Owner(index), len(index), 650
    generators = [torch.Generator().manual_seed(i) for i in range(owner.num_sets)]
    net = AgentNet(network, owner, (9,), 5, generators, gain=1.0, extra_inputs=3 + 20)
    x = torch.randn(2, rows, 1, 9)
    ids, extra_inputs = torch.randn(agents, 3), torch.randn(2, rows, agents, 20)
    leaves = [x, ids, extra_inputs]
    slope = torch.randn(2, rows, agents, 5)
    still, yes = torch.zeros(2, rows, dtype=torch.bool), torch.ones(2, rows, agents, dtype=torch.bool)

    def gradients(*wanted):
        for leaf in leaves:
            leaf.requires_grad_(any(leaf is one for one in wanted))
        parts = x.expand(2, rows, agents, 9), ids.expand(2, rows, agents, 3), extra_inputs
        y, _ = net.read(parts[0], torch.zeros(rows, agents, 0), still, yes, parts[1:])
        return y.detach(), torch.autograd.grad((y * slope).sum(), wanted)

    before = parallel.threads()
    parallel.set_threads(threads)
    try:
        plain, wanted = gradients(*leaves, *net.parameters())
        flat = FlatParameters([net], owner.num_sets)
        compiled, found = gradients(*leaves, *net.parameters())
        assert net.compiled() is not None
        assert torch.allclose(plain, compiled, atol=1e-5)
        for one, other in zip(found, wanted, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=4e-3)  # sums of 1,300 rows
        with torch.no_grad():
            parts = x.expand(2, rows, agents, 9), ids.expand(2, rows, agents, 3), extra_inputs
            said, _ = net.read(parts[0], torch.zeros(rows, agents, 0), still, yes, parts[1:])
        assert torch.equal(said, compiled)
        for parameter in flat.parameters:
            parameter.requires_grad_(False)
        for some in ([0], [1], [2], [0, 2], [1, 2]):
            for place, one in zip(some, gradients(*(leaves[place] for place in some))[1], strict=True):
                assert torch.equal(one, found[place])
    finally:
        parallel.set_threads(before)


class Steered(Team):
    """The same with boxes: the sign of an action's first component is the choice."""

    def action_space(self, agent):
        return self.spaces[agent]

    def __init__(self, components, **how):
        super().__init__(**how)
        boxes = [Box(-2, 1, (count,), np.float32) for count in components]
        self.spaces = dict(zip(self.possible_agents, boxes, strict=True))

    def step(self, actions):
        return super().step({agent: action[0] > 0 for agent, action in actions.items()})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("config", "dies"),
    [
        (marl.isac(network=marl.MLP((200, 200), "relu"), max_grad_norm=10.0), None),
        (marl.isac(sharing="none", n_step=3, temperature=0.1), 4),
        (marl.isac(sharing={"agent_0": "one", "agent_*": "others"}, prioritized=marl.memory.Prioritized()), 4),
        (marl.isac(credit=marl.TeamReward(), critic_network=marl.MLP((24,)), discount=0.9), None),
    ],
    ids=["shared", "none-n-step", "groups-prioritized", "team"],
)
def test_sac_without_autograd_learns_the_same(config, dies, threads):
    config = replace(config, learning_starts=40, batch=40, buffer=400, lr=3e-3, updates_per_step=0.2)
    learners, before = [], parallel.threads()
    parallel.set_threads(threads)
    try:
        for autograd in (False, True):
            env = lambda: Steered((1, 2, 1), widths=(3, 4, 3), die=(None, dies, None))  # noqa: E731
            system = marl.MultiAgentSystem(config, env, num_envs=3, seed=1)
            if autograd:
                by_autograd(system.learners[0])
            system.train(steps=180)
            learners.append(system.learners[0])
    finally:
        parallel.set_threads(before)
    assert learners[0].chosen.compiled
    assert not learners[1].chosen.compiled
    assert learners[0].experience.updates == learners[1].experience.updates > 20
    for name in ("actor_flat", "log_temperature"):
        ours, plain = (getattr(learner, name) for learner in learners)
        assert torch.allclose(ours.values, plain.values, atol=1e-4), name
    ours, plain = (learner.critic.flat for learner in learners)
    assert torch.allclose(ours.values, plain.values, atol=1e-4)
    assert torch.allclose(ours.gradients, plain.gradients, atol=1e-4)
