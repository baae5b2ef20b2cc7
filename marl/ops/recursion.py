"""The one recursion that returns, traces and advantages share: y_t = b_t + a_t y_{t+1}."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from marl.compiled import backend
from marl.compiled.cache import jit

__all__ = ["backward_recursion"]


def backward_recursion(additive: Tensor, decay: Tensor, last: Tensor) -> Tensor:
    """Solve y_t = additive_t + decay_t y_{t+1} backwards from y_T = last; all y_0 ... y_{T-1} come back.

    Float32 and float64 on the CPU in one compiled pass; in log2(T) doubling rounds for other dtypes, when compiling or
    tracing, and on an accelerator, where a long chain of tiny kernels is what costs. The numbers are the same up to
    rounding.

    Args:
        additive: (T, *).
        decay: (T, *).
        last: (*).

    Returns:
        (T, *), differentiable, any number of times.
    """
    if additive.shape[0] == 0:
        return additive
    if not backend.enabled or backend.recorded() or not _fits_kernel(additive, decay, last):
        return _by_doubling(additive, decay, last)
    if not torch.is_grad_enabled() or not (additive.requires_grad or decay.requires_grad or last.requires_grad):
        return _solve(additive, decay, last)
    out: Tensor = _Recursion.apply(additive, decay, last)  # type: ignore[no-untyped-call]
    return out


def _fits_kernel(additive: Tensor, decay: Tensor, last: Tensor) -> bool:
    dtype = additive.dtype
    same = dtype == decay.dtype == last.dtype
    return same and dtype in (torch.float32, torch.float64) and additive.device.type == "cpu"


class _Recursion(torch.autograd.Function):
    """The adjoint runs the other way: l_t = g_t + a_{t-1} l_{t-1}, so dL/db_t = l_t and dL/da_t = l_t y_{t+1}."""

    @staticmethod
    def forward(ctx: Any, additive: Tensor, decay: Tensor, last: Tensor) -> Tensor:
        y = _solve(additive, decay, last)
        ctx.save_for_backward(decay, last, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, last, y = ctx.saved_tensors
        before = torch.cat([torch.zeros_like(decay[:1]), decay[:-1]])  # a_{t-1}; nothing comes before the first row
        adjoint = backward_recursion(gradient.flip(0), before.flip(0), torch.zeros_like(last)).flip(0)
        return adjoint, adjoint * torch.cat([y[1:], last[None]]), adjoint[-1] * decay[-1]


def _solve(additive: Tensor, decay: Tensor, last: Tensor) -> Tensor:
    length = additive.shape[0]
    out = torch.empty_like(additive, memory_format=torch.contiguous_format)
    width = last.numel()
    columns = [x.detach().contiguous().view(length, width).numpy() for x in (additive, decay)]
    _kernel()(*columns, last.detach().contiguous().view(width).numpy(), out.view(length, width).numpy())
    if backend.checking:
        wanted = _by_doubling(additive.detach(), decay.detach(), last.detach())
        backend.require_equal("the backward recursion", (out, wanted))
    return out


@cache
def _kernel() -> Any:
    """Compile on first use (cached on disk), so that importing costs nothing."""

    @jit(
        [f"void({real}[:,::1], {real}[:,::1], {real}[::1], {real}[:,::1])" for real in ("float32", "float64")],
        nogil=True,
        error_model="numpy",
    )
    def solve(additive: Any, decay: Any, last: Any, out: Any) -> None:
        length, width = additive.shape
        for m in range(width):
            out[length - 1, m] = additive[length - 1, m] + decay[length - 1, m] * last[m]
        for t in range(length - 2, -1, -1):
            for m in range(width):
                out[t, m] = additive[t, m] + decay[t, m] * out[t + 1, m]

    return solve


def _by_doubling(b: Tensor, a: Tensor, last: Tensor) -> Tensor:
    # Row t holds y_t = b_t + a_t y_{t+span}; composing it with row t + span doubles the span.
    length = b.shape[0]
    b = torch.cat([b[:-1], torch.addcmul(b[-1], a[-1], last)[None]])
    a = torch.cat([a[:-1], torch.zeros_like(a[-1:])])
    span = 1
    while span < length:
        b = torch.cat([torch.addcmul(b[:-span], a[:-span], b[span:]), b[-span:]])
        a = torch.cat([a[:-span] * a[span:], a[-span:]])
        span *= 2
    return b
