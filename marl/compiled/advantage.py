"""Advantages of a rollout and their normalization in one pass each, on a CPU, for :mod:`marl.ops.advantage`.

A rollout is a few thousand numbers, for which torch spends its time on starting dozens of operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.compiled import backend
from marl.compiled.cache import jit


def fits(x: Tensor) -> bool:
    """Whether the kernels take these numbers, which nobody wants a gradient of."""
    if not backend.enabled or backend.recorded() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return x.numel() > 0 and not (torch.is_grad_enabled() and x.requires_grad)


def estimate(rows: Sequence[Tensor], last: Sequence[Tensor], discount: float, lambda_: float) -> tuple[Tensor, Tensor]:
    """Advantages ``(T, *)`` and who is complete; see :func:`marl.ops.idle_generalized_advantage_estimation`.

    ``rows``: rewards, values, acting, terminated, truncated and final values, ``(T, *)``; ``last``: value and acting.
    """
    advantage = torch.empty(rows[0].shape, dtype=torch.float32)
    complete = torch.empty(rows[0].shape, dtype=torch.bool)
    length = len(advantage)
    tables = [x.detach().numpy().reshape(length, -1) for x in (*rows, advantage, complete)]
    weights = discount, discount * lambda_, discount * (1 - lambda_)
    _estimate()(*tables, *(x.detach().numpy().reshape(-1) for x in last), *weights)
    return advantage, complete


def normalize(x: Tensor, mask: Tensor, owner: Tensor, num_sets: int, epsilon: float) -> Tensor:
    """See :func:`marl.ops.masked_normalize`; sums are in double precision."""
    out = torch.empty(x.shape, dtype=torch.float32)
    agents = x.shape[-1]
    tables = [part.detach().numpy().reshape(-1, agents) for part in (x, mask, out)]
    _normalize()(*tables, owner.numpy().astype(np.int64, copy=False), num_sets, epsilon)
    return out


@cache
def _estimate() -> Any:
    """Compile on first use (cached on disk), so that importing costs nothing."""
    floats, flags = "float32[:,:], ", "boolean[:,:], "
    inputs = floats * 2 + flags * 3 + floats + floats + flags + "float32[:], boolean[:], "

    @jit([f"void({inputs}float32, float32, float32)"], nogil=True, error_model="numpy")
    def estimate(
        reward: Any,
        value: Any,
        acting: Any,
        terminated: Any,
        truncated: Any,
        final: Any,
        advantage: Any,
        complete: Any,
        last_value: Any,
        last_acting: Any,
        full: Any,
        tail: Any,
        own: Any,
    ) -> None:
        zero = np.float32(0)
        passed = np.where(last_acting, last_value * full, zero)  # what the rows before receive
        waiting = ~last_acting  # whether the next turn that comes has no outcome yet
        for t in range(len(reward) - 1, -1, -1):
            for m in range(len(passed)):
                ended = terminated[t, m] or truncated[t, m]
                if ended:
                    waiting[m] = False
                    outcome = reward[t, m]
                    if not terminated[t, m]:
                        outcome = final[t, m] * full + outcome
                else:
                    outcome = passed[m] + reward[t, m]
                known = acting[t, m] and not waiting[m]
                complete[t, m] = known
                advantage[t, m] = outcome - value[t, m] if known else zero
                if known:
                    passed[m] = own * value[t, m] + tail * outcome
                elif acting[t, m]:
                    passed[m] = full * value[t, m]
                    waiting[m] = False
                else:
                    passed[m] = outcome

    return estimate


@cache
def _normalize() -> Any:
    signature = "void(float32[:,:], boolean[:,:], float32[:,:], int64[:], int64, float64)"

    @jit([signature], nogil=True, error_model="numpy")
    def normalize(x: Any, mask: Any, out: Any, owner: Any, sets: int, epsilon: float) -> None:
        count, mean, squares, scale = np.zeros(sets), np.zeros(sets), np.zeros(sets), np.zeros(sets)
        top, bottom = np.full(sets, -np.inf), np.full(sets, np.inf)
        rows, agents = x.shape
        for agent in range(agents):
            which, total = owner[agent], 0.0
            many, highest, lowest = 0, top[which], bottom[which]
            for row in range(rows):
                if mask[row, agent]:
                    entry = np.float64(x[row, agent])
                    many += 1
                    total += entry
                    highest = entry if entry > highest else highest
                    lowest = entry if entry < lowest else lowest
            count[which] += many
            mean[which] += total
            top[which], bottom[which] = highest, lowest
        for which in range(sets):
            mean[which] /= max(count[which], 1.0)
        for agent in range(agents):
            middle, total = mean[owner[agent]], 0.0
            for row in range(rows):
                if mask[row, agent]:
                    total += (x[row, agent] - middle) ** 2
            squares[owner[agent]] += total
        for which in range(sets):
            if top[which] > bottom[which]:
                scale[which] = 1 / (np.sqrt(squares[which] / count[which]) + epsilon)
        for row in range(rows):
            for agent in range(agents):
                which = owner[agent]
                out[row, agent] = (x[row, agent] - mean[which]) * scale[which] if mask[row, agent] else 0.0

    return normalize
