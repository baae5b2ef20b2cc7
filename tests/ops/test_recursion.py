"""The compiled recursion and its adjoint against a plain loop: values, first and second derivatives, awkward inputs."""

import pytest
import torch

from marl.ops.recursion import _by_doubling, backward_recursion


def loop(additive, decay, last):
    out = []
    for b, a in zip(reversed(additive), reversed(decay), strict=True):
        last = b + a * last
        out.append(last)
    return torch.stack(out[::-1])


def draw(shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    additive, decay = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    return additive, decay, torch.randn(shape[1:], generator=g, dtype=torch.float64).to(dtype)


SHAPES = [(1,), (1, 3), (2, 3), (7,), (7, 2, 3), (8, 1), (5, 0), (4, 2, 0), (64, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solve", [backward_recursion, _by_doubling])
def test_equals_a_plain_loop(shape, dtype, solve):
    x = draw(shape, dtype)
    found = solve(*x)
    assert found.dtype == dtype
    assert found.shape == shape
    torch.testing.assert_close(found, loop(*x), rtol=1e-12 if dtype == torch.float64 else 1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_and_second_derivatives_equal_a_plain_loops(shape, dtype):
    def derivatives(solve):
        x = [part.requires_grad_() for part in draw(shape, dtype)]
        weight = draw(shape, dtype, seed=1)[0]
        first = torch.autograd.grad((weight * solve(*x).sin()).sum(), x, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), x)
        return [*first, *second]

    tolerance = 1e-9 if dtype == torch.float64 else 1e-2
    for mine, plain in zip(derivatives(backward_recursion), derivatives(loop), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(1, 2), (4, 2), (5,)])
@pytest.mark.parametrize("tracked", [(0, 1, 2), (0,), (1,), (2,), (0, 2)])
def test_gradcheck_and_gradgradcheck(shape, tracked):
    x = draw(shape)
    for place in tracked:
        x[place].requires_grad_()
    assert torch.autograd.gradcheck(backward_recursion, x)
    assert torch.autograd.gradgradcheck(backward_recursion, x)


def test_inputs_need_not_be_contiguous():
    additive, decay, last = draw((6, 4, 3))
    expected = loop(additive, decay, last)
    awkward = [
        (additive.permute(2, 0, 1).contiguous().permute(1, 2, 0), decay.flip(0).flip(0), last.T.contiguous().T),
        (torch.cat([additive, additive], 1)[:, :4], torch.stack([decay, decay], -1)[..., 0], last),
        (additive, decay, torch.stack([last, last], 1)[:, 1]),
    ]
    for inputs in awkward:
        assert not all(x.is_contiguous() for x in inputs) or inputs is awkward[0]
        torch.testing.assert_close(backward_recursion(*inputs), expected)
    one = decay[:1, :1, :1]
    torch.testing.assert_close(
        backward_recursion(additive, one.expand_as(decay), last), loop(additive, one.expand_as(decay), last)
    )
    inputs = [x.detach().requires_grad_() for x in awkward[1]]
    mine = torch.autograd.grad(backward_recursion(*inputs).square().sum(), inputs)
    plain = torch.autograd.grad(loop(*inputs).square().sum(), inputs)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b)
    # A gradient that arrives expanded, as from a sum, or transposed.
    inputs = [x.clone().requires_grad_() for x in (additive, decay, last)]
    mine = torch.autograd.grad(backward_recursion(*inputs).sum(), inputs)
    plain = torch.autograd.grad(loop(*inputs).sum(), inputs)
    for a, b in zip(mine, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_no_time_step_gives_nothing():
    additive, decay, last = draw((0, 3))
    assert backward_recursion(additive, decay, last).shape == (0, 3)


def test_inputs_are_not_written_and_the_result_is_new():
    x = draw((3, 2))
    before = [part.clone() for part in x]
    out = backward_recursion(*x)
    out.zero_()
    for part, old in zip(x, before, strict=True):
        assert torch.equal(part, old)


def test_tracking_follows_the_inputs():
    x = draw((3, 2))
    assert not backward_recursion(*x).requires_grad
    x[1].requires_grad_()
    assert backward_recursion(*x).requires_grad
    with torch.no_grad():
        assert not backward_recursion(*x).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_falls_back(dtype):
    x = [part.requires_grad_() for part in draw((6, 3), dtype)]
    out = backward_recursion(*x)
    assert out.dtype == dtype
    tolerance = 0.02 if dtype == torch.float16 else 0.2
    torch.testing.assert_close(out.double(), loop(*draw((6, 3))), rtol=tolerance, atol=tolerance)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(out.sum(), x))


def test_integers_fall_back():
    x = torch.tensor([[1], [2], [3]])
    assert backward_recursion(x, torch.full_like(x, 2), torch.tensor([5])).tolist() == [[57], [28], [13]]


def test_infinity_and_nan_stay_in_their_column():
    additive, decay, last = draw((4, 3))
    additive[2, 0], additive[1, 1] = torch.inf, torch.nan
    found, expected = backward_recursion(additive, decay, last), loop(additive, decay, last)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert torch.isfinite(found[:, 2]).all()


@pytest.mark.slow
def test_threads_may_solve_at_once():
    from concurrent.futures import ThreadPoolExecutor

    inputs = [draw((50, 40), seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for found, x in zip(pool.map(lambda x: backward_recursion(*x), inputs), inputs, strict=True):
            torch.testing.assert_close(found, loop(*x))
