"""Networks: the written-out backward is autograd's, stacked layers are their parts, padding and custom modules work."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import marl
from marl.nets import CNN, GRU, MLP, Custom
from marl.nets.agent_net import AgentNet
from marl.nets.fused import Buffers, fused_mlp
from marl.nets.normalizers import RunningNorm
from marl.nets.owner import Owner
from marl.nets.stacked import FlatParameters

OWNERS = [(0,), (0, 0, 0), (0, 1, 2), (0, 1, 0)]


def generators(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sets", [1, 3])
def test_fused_gradients_equal_autograd(activation, sets):
    torch.manual_seed(0)
    sizes = [5, 8, 7, 3]
    x = torch.randn(sets, 11, 5, dtype=torch.float64, requires_grad=True)
    parameters = [
        torch.randn(sets, *shape, dtype=torch.float64, requires_grad=True)
        for a, b in itertools.pairwise(sizes)
        for shape in ((a, b), (b,))
    ]

    class Doubles(Buffers):
        def borrow(self, sets, rows, widths, device):
            return [buffer.double() for buffer in super().borrow(sets, rows, widths, device)]

    def plain(x, *parameters):
        for layer in range(0, len(parameters), 2):
            x = torch.baddbmm(parameters[layer + 1].unsqueeze(1), x, parameters[layer])
            if layer < len(parameters) - 2:
                x = getattr(torch, activation)(x)
        return x

    weight = torch.randn(sets, 11, 3, dtype=torch.float64)
    ours = fused_mlp(x, activation, Doubles(), parameters)
    theirs = plain(x, *parameters)
    assert torch.allclose(ours, theirs)
    wanted = torch.autograd.grad((theirs * weight).sum(), [x, *parameters])
    got = torch.autograd.grad((ours * weight).sum(), [x, *parameters])
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_two_forwards_before_a_backward_do_not_share_buffers():
    pool = Buffers()
    parameters = [torch.randn(1, 4, 6, requires_grad=True), torch.zeros(1, 6, requires_grad=True)]
    parameters += [torch.randn(1, 6, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)]
    x, y = torch.randn(1, 9, 4), torch.randn(1, 9, 4)
    alone = torch.autograd.grad(fused_mlp(x, "tanh", pool, parameters).sum(), parameters)
    first = fused_mlp(x, "tanh", pool, parameters).sum()
    second = fused_mlp(y, "tanh", pool, parameters).sum()
    with torch.no_grad():
        fused_mlp(y, "tanh", pool, parameters)
    together = torch.autograd.grad(first, parameters)
    second.backward()
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def test_a_second_backward_says_why_it_cannot_be():
    parameters = [torch.randn(1, 4, 6, requires_grad=True), torch.zeros(1, 6, requires_grad=True)]
    parameters += [torch.randn(1, 6, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)]
    loss = fused_mlp(torch.randn(1, 9, 4), "tanh", Buffers(), parameters).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("index", OWNERS)
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP((8, 8)), (5,)),
        (MLP((8,), "elu"), (5,)),
        (GRU(8), (5,)),
        (CNN((4,), (3,), (2,), 8), (2, 9, 9)),
        (GRU(8, CNN((4,), (3,), (2,), 8)), (2, 9, 9)),
        (Custom(lambda shape, extra: nn.Linear(shape[0] + extra, 8), 8), (5,)),
    ],
    ids=["mlp", "elu", "gru", "cnn", "cnn-gru", "custom"],
)
def test_every_agent_of_a_stack_equals_its_own_network(network, shape, index):
    """Batched over agents and time = agent by agent, step by step."""
    owner = Owner(index)
    ids = torch.eye(len(index)) if not owner.identity else None
    net = AgentNet(network, owner, shape, 3, generators(owner.num_sets), gain=1.0, ids=ids)
    time, batch, agents = 4, 2, len(index)
    x = (
        torch.randint(0, 255, (time, batch, agents, *shape), dtype=torch.uint8)
        if len(shape) == 3
        else torch.randn(time, batch, agents, *shape)
    )
    start = torch.tensor([[True, True], [False, False], [False, True], [False, False]])
    acting = torch.ones(time, batch, agents, dtype=torch.bool)
    acting[1, 0, 0] = False
    carry = torch.randn(batch, *net.carry_shape)
    with torch.no_grad():
        y, carries = net(x, carry, start, acting)
        for agent in range(agents):
            alone = net.restrict(agent)
            own = carry[:, agent : agent + 1]
            for t in range(time):
                part = (slice(t, t + 1), slice(None), slice(agent, agent + 1))
                out, after = alone(x[part], own, start[t : t + 1], acting[part])
                assert torch.allclose(out[0, :, 0], y[t, :, agent], atol=1e-5)
                own = after[0]
                assert torch.allclose(own[:, 0], carries[t, :, agent], atol=1e-5)


def test_orthogonal_columns_with_true_fan_in():
    net = AgentNet(
        MLP((6,)), Owner((0, 1)), (4,), 2, generators(2), gain=0.01, true_inputs=[torch.arange(2), torch.arange(4)]
    )
    weight = net.body.layers[0].weight
    assert (weight[0, 2:] == 0).all()
    assert torch.allclose(weight[0, :2] @ weight[0, :2].T, 2 * torch.eye(2), atol=1e-5)
    assert torch.allclose(weight[1] @ weight[1].T, 2 * torch.eye(4), atol=1e-5)


def test_flat_parameters_are_the_modules_own():
    net = AgentNet(MLP((6,)), Owner((0, 1)), (4,), 2, generators(2), gain=1.0)
    flat = FlatParameters([net], 2)
    x = torch.randn(1, 3, 2, 4)
    still, yes = torch.zeros(1, 3, dtype=torch.bool), torch.ones(1, 3, 2, dtype=torch.bool)
    out, _ = net(x, torch.zeros(3, 2, 0), still, yes)
    flat.backward(out.square().sum())
    wanted = torch.autograd.grad(net(x, torch.zeros(3, 2, 0), still, yes)[0].square().sum(), list(net.parameters()))
    assert torch.allclose(flat.gradients, torch.cat([g.reshape(2, -1) for g in wanted], dim=1), atol=1e-6)
    flat.values.zero_()
    assert all((parameter == 0).all() for parameter in net.parameters())
    norms = flat.clip(0.1)
    assert torch.allclose(flat.gradients.norm(dim=1), norms.clamp(max=0.1), atol=1e-4)


def test_custom_modules_lie_in_the_flat_matrix_by_set():
    custom = Custom(lambda shape, extra: nn.Linear(shape[0] + extra, 8), 8)
    net = AgentNet(custom, Owner((0, 1, 0)), (5,), 3, generators(2), gain=1.0, ids=torch.eye(3))
    flat = FlatParameters([net], 2)
    flat.values[1].zero_()
    assert (net.body.copies[1].module.weight == 0).all()
    assert not (net.body.copies[0].module.weight == 0).all()


def test_running_norm_equals_the_statistics_of_what_it_saw_and_respects_masks():
    norm = RunningNorm(Owner((0, 0)), 3)
    data, masks = [], []
    for _ in range(4):
        x, mask = torch.randn(7, 2, 3) * 3 + 1, torch.rand(7, 2) < 0.7
        norm.update(x, mask)
        data.append(x.reshape(-1, 3))
        masks.append(mask.reshape(-1))
    seen = torch.cat(data)[torch.cat(masks)]
    assert torch.allclose(norm.mean[0].float(), seen.mean(0), atol=1e-4)
    assert torch.allclose(norm.variance[0].float(), seen.var(0, correction=0), atol=1e-3)
    before = norm.mean.clone()
    norm.update(torch.full((2, 2, 3), 1e9), torch.zeros(2, 2, dtype=torch.bool))
    assert torch.equal(norm.mean, before)


def test_recurrent_carry_is_emptied_at_starts_only():
    net = AgentNet(GRU(4), Owner((0,)), (2,), 1, generators(1), gain=1.0)
    x = torch.randn(3, 1, 1, 2)
    start = torch.tensor([[False], [True], [False]])
    acting = torch.ones(3, 1, 1, dtype=torch.bool)
    with torch.no_grad():
        _, carries = net(x, torch.randn(1, 1, 4), start, acting)
        _, fresh = net(x[1:], torch.zeros(1, 1, 4), start[1:], acting[1:])
    assert torch.allclose(carries[1:], fresh)


def test_a_custom_network_that_lies_about_its_width_is_refused():
    liar = Custom(lambda shape, extra: nn.Linear(shape[0], 8), 9)
    net = AgentNet(liar, Owner((0,)), (5,), 3, generators(1), gain=1.0)
    with pytest.raises(marl.ConfigError, match="expected 9 features"):
        net(torch.zeros(1, 1, 1, 5), torch.zeros(1, 1, 0), torch.zeros(1, 1).bool(), torch.ones(1, 1, 1).bool())


def test_fast_tanh_is_tanh():
    from marl.compiled.kernels import tanh_

    x = torch.cat(
        [torch.linspace(-20, 20, 100_001), torch.logspace(-30, 0, 1000), torch.tensor([torch.inf, -torch.inf])]
    )
    y = x.clone()
    tanh_(y)
    wanted = torch.tanh(x.double())
    assert (y - wanted).abs().max() < 3e-7
    assert ((y - wanted).abs() <= 1e-6 * wanted.abs()).all()
    nan = torch.tensor([torch.nan, 1.0])
    tanh_(nan)
    assert nan[0].isnan()


@pytest.mark.parametrize("masked", [False, True])
def test_compiled_categorical_equals_torchs(masked):
    from torch.distributions import Categorical as Reference

    from marl.nets.distributions import Categorical, mask_logits

    torch.manual_seed(1)
    logits = (3 * torch.randn(4, 50, 5)).requires_grad_()
    action_mask = torch.rand(4, 50, 5) < 0.6 if masked else None
    if action_mask is not None:
        action_mask[..., 2] = True
    head = Categorical(5)
    action, drawn = head.draw(logits, action_mask, torch.Generator().manual_seed(3))
    reference = Reference(logits=mask_logits(logits, action_mask))
    assert action_mask is None or action_mask.gather(-1, action.unsqueeze(-1)).all()
    assert torch.allclose(drawn, reference.log_prob(action), atol=1e-5)
    log_prob, entropy = head.evaluate(logits, action_mask, action)
    assert torch.allclose(log_prob, reference.log_prob(action), atol=1e-5)
    plain = torch.log_softmax(mask_logits(logits, action_mask), -1)
    plain_entropy = -(plain.exp() * plain).sum(-1)
    assert torch.allclose(entropy, plain_entropy, atol=1e-5)
    weight, other = torch.randn(4, 50), torch.randn(4, 50)
    (ours,) = torch.autograd.grad((log_prob * weight + entropy * other).sum(), logits)
    chosen = plain.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    (theirs,) = torch.autograd.grad((chosen * weight + plain_entropy * other).sum(), logits)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_compiled_draws_have_the_right_frequencies():
    from marl.compiled.kernels import categorical_draw

    logits = torch.tensor([0.0, 1.0, -1e9, 2.0]).expand(40_000, 4)
    action, _ = categorical_draw(logits, torch.Generator().manual_seed(0))
    frequency = torch.bincount(action, minlength=4) / 40_000
    assert frequency[2] == 0
    assert torch.allclose(frequency, torch.softmax(logits[0], -1), atol=0.01)
