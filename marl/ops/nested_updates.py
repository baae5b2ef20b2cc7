"""Switching whole sets of tensors, such as a target network's, at chosen times."""

from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor

__all__ = ["conditional_update", "periodic_update"]

Nest = TypeVar("Nest")


def conditional_update(new_tensors: Nest, old_tensors: Nest, is_time: bool | Tensor) -> Nest:
    """Take the new tensors if it is time, else the old ones, without a branch.

        y = new if is_time else old

    Paper: "Human-level control through deep reinforcement learning", Mnih et al. 2015
    (https://doi.org/10.1038/nature14236).

    Args:
        new_tensors: a tensor, or mappings, lists and tuples of them, nested.
        old_tensors: the same structure and shapes.
        is_time: a bool, or a scalar bool tensor.

    Returns:
        The same structure (mappings become dicts). Differentiable in the tensors taken.

    Raises:
        ValueError: structures, shapes or dtypes differ, or is_time is not a scalar.
    """
    if isinstance(is_time, Tensor) and is_time.dim():
        raise ValueError(f"is_time: expected a scalar, got shape {tuple(is_time.shape)}")
    return cast(Nest, _select(new_tensors, old_tensors, is_time, "new_tensors"))


def periodic_update(new_tensors: Nest, old_tensors: Nest, steps: int | Tensor, update_period: int) -> Nest:
    """Take the new tensors at every update_period-th step, else the old ones.

        y = new if steps mod update_period = 0 else old

    Paper: "Human-level control through deep reinforcement learning", Mnih et al. 2015
    (https://doi.org/10.1038/nature14236).

    Args:
        new_tensors: a tensor, or mappings, lists and tuples of them, nested.
        old_tensors: the same structure and shapes.
        steps: a number, or a scalar integer tensor.
        update_period: at least 1.

    Returns:
        The same structure (mappings become dicts). Differentiable in the tensors taken.

    Raises:
        ValueError: structures, shapes or dtypes differ, or update_period < 1.
    """
    if update_period < 1:
        raise ValueError(f"update_period: expected at least 1, got {update_period}")
    return conditional_update(new_tensors, old_tensors, steps % update_period == 0)


def _select(new: object, old: object, is_time: bool | Tensor, name: str) -> object:
    if isinstance(new, Tensor) and isinstance(old, Tensor):
        if new.shape != old.shape or new.dtype != old.dtype:
            expected = f"{tuple(old.shape)} {old.dtype} as in old_tensors"
            raise ValueError(f"{name}: expected {expected}, got {tuple(new.shape)} {new.dtype}")
        if isinstance(is_time, Tensor):
            return torch.where(is_time.bool(), new, old)
        return new if is_time else old
    if isinstance(new, Mapping) and isinstance(old, Mapping) and new.keys() == old.keys():
        return {key: _select(new[key], old[key], is_time, f"{name}[{key!r}]") for key in new}
    if isinstance(new, list | tuple) and isinstance(old, list | tuple) and len(new) == len(old):
        items = [_select(a, b, is_time, f"{name}[{i}]") for i, (a, b) in enumerate(zip(new, old, strict=True))]
        if isinstance(new, list):
            return items
        make = getattr(type(new), "_make", tuple)
        return make(items)
    raise ValueError(f"{name}: expected the structure of old_tensors, {type(old).__name__}, got {type(new).__name__}")
