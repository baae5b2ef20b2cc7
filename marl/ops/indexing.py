"""Picking and replacing entries of batched tensors."""

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = ["batched_index", "lhs_broadcast", "one_hot", "replace_masked"]


def batched_index(values: Tensor, indices: Tensor, keepdims: bool = False) -> Tensor:
    """Pick one entry of the last axis per batch element: `y[...] = values[..., indices[...]]`.

    Args:
        values: (*, D) any dtype.
        indices: (*) integer in [0, D).
        keepdims: keep the last axis, of size 1.

    Returns:
        (*), or (*, 1). Differentiable in values.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(values=(values, "any * D"), indices=(indices, "int *"))
    picked = values.gather(-1, indices.long().unsqueeze(-1))
    return picked if keepdims else picked.squeeze(-1)


def one_hot(indices: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Indicator vectors: `y[..., k] = 1 if indices[...] == k else 0`; an index outside [0, K) gives zeros.

    Args:
        indices: (*) integer.
        num_classes: K.
        dtype: of the result.

    Returns:
        (*, K).

    Raises:
        ValueError: indices is not an integer tensor.
    """
    check(indices=(indices, "int *"))
    return (indices.unsqueeze(-1) == torch.arange(num_classes, device=indices.device)).to(dtype)


def lhs_broadcast(source: Tensor, target: Tensor) -> Tensor:
    """Give `source` trailing axes of size 1 until it broadcasts against `target` from the left.

    Args:
        source: (*), a prefix of target's shape.
        target: (*, ...).

    Returns:
        `source` viewed as (*, 1, ..., 1).

    Raises:
        ValueError: the shape of source is not a prefix of target's.
    """
    check(source=(source, "any *"))
    if tuple(target.shape[: source.dim()]) != tuple(source.shape):
        expected = f"a prefix of target's shape {tuple(target.shape)}"
        raise ValueError(f"source: expected {expected}, got {tuple(source.shape)}")
    return source.reshape(source.shape + (1,) * (target.dim() - source.dim()))


def replace_masked(data: Tensor, replacement: Tensor | None, mask: Tensor) -> Tensor:
    """Take `replacement` (zeros if None) where the mask is set and `data` elsewhere.

    Args:
        data: (*, ...).
        replacement: (*, ...) or None.
        mask: (*) bool or 0/1; its shape is a prefix of data's.

    Returns:
        Same shape as data. Differentiable in data and replacement.

    Raises:
        ValueError: shapes differ from the above.
    """
    check(data=(data, "any *"))
    if replacement is None:
        replacement = torch.zeros_like(data)
    check(replacement=(replacement, "any *"))
    if replacement.shape != data.shape or replacement.dtype != data.dtype:
        expected, found = (f"{tuple(x.shape)} {x.dtype}" for x in (data, replacement))
        raise ValueError(f"replacement: expected shape {expected} as data has, got {found}")
    if tuple(data.shape[: mask.dim()]) != tuple(mask.shape):
        raise ValueError(f"mask: expected a prefix of data's shape {tuple(data.shape)}, got {tuple(mask.shape)}")
    return torch.where(lhs_broadcast(mask, data).bool(), replacement, data)
