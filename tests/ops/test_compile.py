"""Every loss and return is one graph: torch.compile(fullgraph=True) gives the eager numbers and gradients."""

import numpy as np
import pytest
import torch

from marl import ops
from tests.ops.cases import SEQ, STEP, draw
from tests.ops.rows import NAMES as EVERY
from tests.ops.rows import TABLE, leaves, rows_of


def tensors(case):
    out = []
    for a in case.arguments:
        if isinstance(a, np.ndarray):
            t = torch.from_numpy(a)
            out.append(t.float().requires_grad_() if t.is_floating_point() else t)
        else:
            out.append(a)
    return out


def outcome(function, arguments, options):
    out = function(*arguments, **options)
    outs = list(out) if isinstance(out, tuple) else [out]
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    total = sum(o.sum() for o in outs)
    if not total.requires_grad:
        return outs
    return outs + [g for g in torch.autograd.grad(total, leaves, allow_unused=True) if g is not None]


def compiles(function, arguments, backend, options=None):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=False)
    options = options or {}
    for mine, eager in zip(outcome(compiled, arguments, options), outcome(function, arguments, options), strict=True):
        torch.testing.assert_close(mine, eager, rtol=1e-4, atol=1e-5)


NAMES = [*STEP, *SEQ]
FEW = ["q_learning", "clipped_surrogate_pg_loss", "vtrace", "retrace", "categorical_q_learning", "quantile_q_learning"]


def case_of(name):
    case = draw(name, 0, 3, (5, 2) if name in SEQ else (3,))
    return tensors(case), {k: torch.from_numpy(v) for k, v in case.options.items()}


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_each_function_is_captured_whole(name):
    arguments, options = case_of(name)
    compiles(getattr(ops, name), arguments, "aot_eager", options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # inductor's own imports
@pytest.mark.parametrize("name", ["lambda_returns", "policy_gradient_loss"])
def test_inductor_gives_the_same_numbers(name):
    arguments, options = case_of(name)
    compiles(getattr(ops, name), arguments, "inductor", options)


def penalty(value, per_dimension=False):
    return ops.LagrangePenalty(torch.tensor(value), 0.1, per_dimension)


def test_losses_with_constraints_are_captured_whole():
    g = torch.Generator().manual_seed(0)
    logp, q, kl = (torch.randn(3, 4, generator=g).requires_grad_() for _ in range(3))

    def mpo(logp, q, kl):
        return ops.mpo_loss(logp, q, penalty(0.7), [(kl[0].square(), penalty(0.5))])[0]

    def vmpo(logp, q, kl):
        return ops.vmpo_loss(logp, q, penalty(0.7), [(kl.square(), penalty(0.5))])[0]

    for function in (mpo, vmpo):
        compiles(function, [logp, q, kl], "aot_eager")


def test_multi_agent_functions_are_captured_whole():
    g = torch.Generator().manual_seed(0)
    q, pi = torch.randn(5, 2, 3, generator=g).requires_grad_(), torch.rand(5, 2, 3, generator=g).softmax(-1)
    a = torch.randint(0, 3, (5, 2), generator=g)
    compiles(ops.coma_advantage, [q, a, pi], "aot_eager")
    compiles(ops.happo_ratio_product, [q, torch.tensor([2, 0, 1])], "aot_eager")
    r = torch.randn(5, 2, generator=g)
    compiles(ops.vdn_targets, [r, r, q], "aot_eager")
    compiles(ops.qmix_lambda_targets, [r, r, q[..., 0].detach(), 0.7], "aot_eager")
    compiles(ops.masked_mean, [q, q > 0], "aot_eager")
    compiles(ops.masked_normalize, [q, q > 0, torch.tensor([0, 1, 0]), 2], "aot_eager")
    w1, b1 = torch.randn(5, 2, 3, 4, generator=g), torch.randn(5, 2, 4, generator=g)
    compiles(ops.monotonic_mixing, [q, w1, b1, b1, r], "aot_eager")


def test_the_idle_row_advantage_is_captured_whole():
    g = torch.Generator().manual_seed(0)
    x, mask = torch.randn(5, 4, 2, generator=g), torch.rand(5, 4, 2, generator=g) < 0.4
    arguments = [x[0], x[1], ~mask[0], mask[1], mask[2], x[2], x[3][0], mask[3][0], 0.9, 0.8]
    torch._dynamo.reset()
    compiled = torch.compile(ops.idle_generalized_advantage_estimation, fullgraph=True, backend="aot_eager")
    for mine, eager in zip(compiled(*arguments), ops.idle_generalized_advantage_estimation(*arguments), strict=True):
        torch.testing.assert_close(mine, eager)


REST = sorted(set(TABLE) - set(STEP) - set(SEQ))
QUICK = {"sampled_policy_distillation_loss", "gumbel_softmax_straight_through", "softmax", "monotonic_mixing"}


def test_every_function_is_captured_somewhere():
    assert set(REST) | set(NAMES) == set(EVERY)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own doing
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REST])
def test_each_function_of_more_than_tensors_is_captured_whole(name):
    for row in rows_of(name).values():
        arguments = row.arguments(dtype=torch.float32)
        floats = [x.requires_grad_() for x in arguments.values() if x.is_floating_point()]
        torch._dynamo.reset()
        compiled = torch.compile(row.call, fullgraph=True, backend="aot_eager", dynamic=False)
        results = []
        for call in (compiled, row.call):
            torch.manual_seed(0)  # random functions draw from torch's own generator here
            out = leaves(call(**arguments))
            tracked = [x for x in out if x.requires_grad]
            gradients = torch.autograd.grad(sum(x.sum() for x in tracked), floats, allow_unused=True) if tracked else []
            results.append([*out, *[g for g in gradients if g is not None]])
        for mine, eager in zip(*results, strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-4, atol=1e-5)
