"""Functions of torch's, compiled for the CPU where torch's own leave speed on the table.

Each stands for one function of torch's, decides for itself whether it takes what it is given, and is compared with
torch's while ``check`` is on. Measured gains stand beside each.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.compiled import backend, tiles
from marl.compiled.acting import require_draw
from marl.compiled.cache import jit
from marl.ranks import uniform as uniform_of
from marl.types import Array


def takes(x: Tensor) -> bool:
    """Whether the kernels take this tensor: float32 on the CPU, nobody writes operations down, and none is off."""
    return backend.enabled and x.is_cpu and x.dtype == torch.float32 and not backend.recorded()


def tanh_(x: Tensor) -> None:
    """``tanh`` in place: compiled for contiguous float32 on the CPU, torch's everywhere else."""
    if takes(x) and x.is_contiguous():
        wanted = x.tanh() if backend.checking else None
        tiles.tanh_all(x.numpy().reshape(-1))
        if wanted is not None:
            backend.require_equal("tanh", (x, wanted))
    else:
        x.tanh_()


def stray(scores: Tensor, chance: Tensor, share: Tensor, other: Tensor) -> Tensor:
    """The choice ``other (E, N)`` where ``chance (E, N) < share``, else the first one of the greatest score.

    ``scores (E, N, K)``; ``share`` is ``()`` or ``(E, 1)``. Of 24 rows in a fifth of the time of torch's operations.
    """
    if not takes(scores):
        return torch.where(chance < share, other, scores.argmax(-1))
    chosen = np.empty(chance.shape, dtype=np.int64)
    _stray(scores.contiguous().numpy(), chance.numpy(), share.numpy().reshape(-1), other.numpy(), chosen)
    found = torch.from_numpy(chosen)
    if backend.checking:
        backend.require_equal("exploring choices", (found, torch.where(chance < share, other, scores.argmax(-1))))
    return found


@jit(nogil=True, error_model="numpy")
def _stray(scores: Array, chance: Array, share: Array, other: Array, chosen: Array) -> None:
    copies, agents, choices = scores.shape
    for e in range(copies):
        for n in range(agents):
            if chance[e, n] < share[e % share.size]:
                chosen[e, n] = other[e, n]
                continue
            best = 0
            for a in range(1, choices):
                top, value = scores[e, n, best], scores[e, n, a]
                if value > top or (value != value and top == top):  # NaN counts as the greatest, as in torch
                    best = a
            chosen[e, n] = best


@cache
def _categorical_kernels() -> tuple[Any, Any, Any]:
    """Sample, evaluate, and the gradient of evaluate, over logits ``(R, n)``."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    floats, matrix, integers = "float32[::1]", "float32[:,::1]", "int64[::1]"

    @jit([f"void({matrix}, {floats}, {integers}, {floats})"], **options)
    def draw(logits: Any, uniform: Any, action: Any, log_prob: Any) -> None:
        rows, n = logits.shape
        for row in range(rows):
            top = logits[row, 0]
            for j in range(1, n):
                top = max(top, logits[row, j])
            total = np.float32(0)
            for j in range(n):
                total += np.exp(logits[row, j] - top)
            left = uniform[row] * total
            chosen = 0
            for j in range(n):
                weight = np.exp(logits[row, j] - top)
                if weight > 0:  # so that rounding never ends on an impossible choice
                    chosen = j
                    if left < weight:
                        break
                left -= weight
            action[row] = chosen
            log_prob[row] = logits[row, chosen] - top - np.log(total)

    @jit([f"void({matrix}, {integers}, {matrix}, {floats}, {floats})"], **options)
    def evaluate(logits: Any, action: Any, log_policy: Any, log_prob: Any, entropy: Any) -> None:
        rows, n = logits.shape
        for row in range(rows):
            top = logits[row, 0]
            for j in range(1, n):
                top = max(top, logits[row, j])
            total = np.float32(0)
            mean = np.float32(0)
            for j in range(n):
                shifted = logits[row, j] - top
                weight = np.exp(shifted)
                log_policy[row, j] = shifted
                total += weight
                mean += weight * shifted
            log_total = np.log(total)
            for j in range(n):
                log_policy[row, j] -= log_total
            log_prob[row] = log_policy[row, action[row]]
            entropy[row] = log_total - mean / total

    @jit([f"void({matrix}, {integers}, {floats}, {floats}, {floats}, {matrix})"], **options)
    def gradient(log_policy: Any, action: Any, entropy: Any, to_log_prob: Any, to_entropy: Any, to_logits: Any) -> None:
        rows, n = log_policy.shape
        for row in range(rows):
            for j in range(n):
                log_p = log_policy[row, j]
                p = np.exp(log_p)
                to_logits[row, j] = -p * (to_log_prob[row] + to_entropy[row] * (log_p + entropy[row]))
            to_logits[row, action[row]] += to_log_prob[row]

    return draw, evaluate, gradient


def categorical_draw(logits: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Sample ``softmax(logits)`` by inverting its distribution function; action and log-probability ``(...)``.

    One pass and one uniform number a row: 5 times as fast as a Gumbel argmax with a log-softmax at 384 rows of 5.
    """
    uniform = uniform_of(logits.shape[:-1], generator)
    action, log_prob = torch.empty(logits.shape[:-1], dtype=torch.int64), torch.empty_like(uniform)
    rows = logits.detach().contiguous().view(-1, logits.shape[-1]).numpy()
    flat = (uniform.view(-1).numpy(), action.view(-1).numpy(), log_prob.view(-1).numpy())
    _categorical_kernels()[0](rows, *flat)
    if backend.checking:
        require_draw("a draw of a choice", logits.detach(), uniform, action, log_prob)
    return action, log_prob


class _CategoricalEvaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_policy = torch.empty_like(logits, memory_format=torch.contiguous_format)
        log_prob = torch.empty(action.shape, dtype=torch.float32)
        entropy = torch.empty_like(log_prob)
        width = logits.shape[-1]
        rows, chosen = logits.contiguous().view(-1, width), action.contiguous().view(-1)
        out = (log_policy.view(-1, width).numpy(), log_prob.view(-1).numpy(), entropy.view(-1).numpy())
        _categorical_kernels()[1](rows.numpy(), chosen.numpy(), *out)
        if backend.checking:
            wanted = logits.log_softmax(-1)
            backend.require_equal(
                "a choice's distribution",
                (log_policy, wanted),
                (log_prob, wanted.gather(-1, action.unsqueeze(-1)).squeeze(-1)),
                (entropy, -(wanted.exp() * wanted).sum(-1)),
            )
        ctx.save_for_backward(log_policy, chosen, entropy)
        return log_prob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_log_prob: Tensor, to_entropy: Tensor) -> tuple[Tensor, None]:
        log_policy, chosen, entropy = ctx.saved_tensors
        to_logits = torch.empty_like(log_policy)
        width = log_policy.shape[-1]
        rows = [x.contiguous().view(-1).numpy() for x in (entropy, to_log_prob, to_entropy)]
        policy, out = log_policy.view(-1, width).numpy(), to_logits.view(-1, width).numpy()
        _categorical_kernels()[2](policy, chosen.numpy(), *rows, out)
        if backend.checking:
            _check_slope(log_policy, chosen, to_log_prob, to_entropy, to_logits)
        return to_logits, None


def _check_slope(
    log_policy: Tensor, chosen: Tensor, to_log_prob: Tensor, to_entropy: Tensor, to_logits: Tensor
) -> None:
    """Log-probabilities are their own logits, so torch differentiates the same function at them."""
    with torch.enable_grad():
        logits = log_policy.detach().clone().requires_grad_()
        policy = logits.log_softmax(-1)
        log_prob = policy.gather(-1, chosen.view(*policy.shape[:-1], 1)).squeeze(-1)
        entropy = -(policy.exp() * policy).sum(-1)
        (wanted,) = torch.autograd.grad((log_prob * to_log_prob + entropy * to_entropy).sum(), logits)
    backend.require_equal("the gradient of a choice's distribution", (to_logits, wanted))


def categorical_evaluate(logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """``log softmax(logits)[action]`` and the entropy, with their gradient in one pass each.

    Torch does not vectorize a softmax over a short last axis: 5 times as fast at 12,288 rows of 5, backward included.
    """
    result: tuple[Tensor, Tensor] = _CategoricalEvaluate.apply(logits, action)  # type: ignore[no-untyped-call]
    return result
