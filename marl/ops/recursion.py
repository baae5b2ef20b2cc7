"""The one recursion that returns, traces and advantages share: y_t = b_t + a_t y_{t+1}."""

import math

import torch
from torch import Tensor

__all__ = ["backward_recursion"]


def backward_recursion(additive: Tensor, decay: Tensor, last: Tensor) -> Tensor:
    """Solve y_t = additive_t + decay_t y_{t+1} backwards from y_T = last; all y_0 ... y_{T-1} come back.

    Three ways to the same numbers (up to rounding): in place on the CPU where no gradient is asked; row by row, out of
    place, where one is; and log2(T) doubling rounds when compiling or on an accelerator, where a long chain of tiny
    kernels is what costs.

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
    b, a, y = additive.detach(), decay.detach(), last.detach()
    block = math.isqrt(2 * length)
    if block < 4 or y.numel() > WIDEST_BLOCKED_ROW:
        _row_by_row(b, a, y, out)
        return out
    blocked = length - length % block
    if blocked < length:
        _row_by_row(b[blocked:], a[blocked:], y, out[blocked:])
        y = out[blocked]
    _by_blocks(b[:blocked], a[:blocked], y, out[:blocked], block)
    return out


# A row of 384 numbers costs a launch, not arithmetic, so all blocks take their steps together: 128 rows in 41
# operations instead of 128, measured 2.5 times faster. Beyond this many numbers per row the second pass over memory
# costs more.
WIDEST_BLOCKED_ROW = 8192


def _row_by_row(b: Tensor, a: Tensor, y: Tensor, out: Tensor) -> None:
    steps = list(zip(out.unbind(0), b.unbind(0), a.unbind(0), strict=True))
    for out_t, b_t, a_t in reversed(steps):
        y = torch.addcmul(b_t, a_t, y, out=out_t)


def _by_blocks(b: Tensor, a: Tensor, last: Tensor, out: Tensor, block: int) -> None:
    # Within a block, y_t = z_t + w_t y_end, where y_end is the first row of the next block.
    shape = (-1, block, *b.shape[1:])
    product = torch.empty_like(out)
    z, w = out.view(shape).unbind(1), product.view(shape).unbind(1)
    b_i, a_i = b.reshape(shape).unbind(1), a.reshape(shape).unbind(1)
    z[-1].copy_(b_i[-1])
    w[-1].copy_(a_i[-1])
    for i in range(block - 2, -1, -1):
        torch.addcmul(b_i[i], a_i[i], z[i + 1], out=z[i])
        torch.mul(a_i[i], w[i + 1], out=w[i])
    ends = torch.empty_like(z[0])  # what each block receives from the next
    ends[-1].copy_(last)
    steps = list(zip(ends.unbind(0), z[0].unbind(0), w[0].unbind(0), strict=True))
    for k in range(len(steps) - 1, 0, -1):
        end, z_0, w_0 = steps[k]
        torch.addcmul(z_0, w_0, end, out=steps[k - 1][0])
    out.view(shape).addcmul_(product.view(shape), ends.unsqueeze(1))


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
