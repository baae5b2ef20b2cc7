"""Exponential moving averages of first and second moments."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = ["EmaMoments", "EmaState", "create_ema"]


class EmaMoments(NamedTuple):
    """Mean and variance, () each, per entry of the tracked mapping."""

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]


class EmaState(NamedTuple):
    """Biased first and second moments, and the product of the decays so far, by which the bias is removed."""

    mu: dict[str, Tensor]
    nu: dict[str, Tensor]
    decay_product: float
