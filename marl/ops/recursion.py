"""The one recursion that returns, traces and advantages share: y_t = b_t + a_t y_{t+1}."""

import torch
from torch import Tensor

__all__ = ["backward_recursion"]


def backward_recursion(additive: Tensor, decay: Tensor, last: Tensor) -> Tensor:
    """Solve y_t = additive_t + decay_t y_{t+1} backwards from y_T = last; all y_0 ... y_{T-1} come back.

    Three ways to the same numbers (up to rounding): one fused operation per row written in place where no gradient is
    asked; the same, out of place, where one is; and log2(T) doubling rounds when compiling or on an accelerator,
    where a long chain of tiny kernels is what costs.

    Args:
        additive: (T, *).
        decay: (T, *).
        last: (*).

    Returns:
        (T, *), differentiable in all three.
    """
    length = additive.shape[0]
    if length == 0:
        return additive
    if torch.compiler.is_compiling() or additive.device.type != "cpu":
        return _by_doubling(additive, decay, last)
    tracked = torch.is_grad_enabled() and (additive.requires_grad or decay.requires_grad or last.requires_grad)
    if tracked:
        y = last
        rows = []
        for b_t, a_t in zip(reversed(additive.unbind(0)), reversed(decay.unbind(0)), strict=True):
            y = torch.addcmul(b_t, a_t, y)
            rows.append(y)
        return torch.stack(rows[::-1])
    out = torch.empty_like(additive, memory_format=torch.contiguous_format)
    y = last.detach()
    steps = zip(out.unbind(0), additive.detach().unbind(0), decay.detach().unbind(0), strict=True)
    for out_t, b_t, a_t in reversed(list(steps)):
        y = torch.addcmul(b_t, a_t, y, out=out_t)
    return out


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
