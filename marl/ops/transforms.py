"""Monotone scalar transforms and the two-hot code."""

import math

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = [
    "hyperbolic_arcsin",
    "hyperbolic_sin",
    "identity",
    "logit",
    "power",
    "sigmoid",
    "signed_expm1",
    "signed_hyperbolic",
    "signed_logp1",
    "signed_parabolic",
    "transform_from_2hot",
    "transform_to_2hot",
]


def identity(x: Tensor) -> Tensor:
    """The identity.

        y = x

    Args:
        x: (*).

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function.

        y = 1 / (1 + exp(-x))

    Args:
        x: (*).

    Returns:
        (*) in (0, 1).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x.sigmoid()


def logit(x: Tensor) -> Tensor:
    """The inverse of the logistic function.

        y = log(x / (1 - x))

    Args:
        x: (*) in (0, 1).

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x.logit()


def power(x: Tensor, p: float) -> Tensor:
    """Power transform with the sign kept, of slope 1 at 0.

        y = sign(x) ((|x| / q + 1)^p - 1) / q,    q = sqrt(p)

    Args:
        x: (*).
        p: exponent, above 0.

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    q = math.sqrt(p)
    return x.sign() * ((x.abs() / q + 1).pow(p) - 1) / q


def signed_logp1(x: Tensor) -> Tensor:
    """Logarithm of one plus the magnitude, with the sign kept.

        y = sign(x) log(1 + |x|)

    Paper: "Mastering Diverse Domains through World Models", Hafner et al. 2023 (https://arxiv.org/abs/2301.04104).

    Args:
        x: (*).

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x.sign() * x.abs().log1p()


def signed_expm1(x: Tensor) -> Tensor:
    """Inverse of `signed_logp1`.

        y = sign(x) (exp(|x|) - 1)

    Paper: "Mastering Diverse Domains through World Models", Hafner et al. 2023 (https://arxiv.org/abs/2301.04104).

    Args:
        x: (*).

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x.sign() * x.abs().expm1()


def signed_hyperbolic(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Square-root squashing with a linear part that keeps it invertible.

        y = sign(x) (sqrt(|x| + 1) - 1) + eps x

    Paper: "Observe and Look Further: Achieving Consistent Performance on Atari", Pohlen et al. 2018
    (https://arxiv.org/abs/1805.11593).

    Args:
        x: (*).
        eps: slope of the linear part.

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x.sign() * ((x.abs() + 1).sqrt() - 1) + eps * x


def signed_parabolic(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Inverse of `signed_hyperbolic`.

        y = sign(x) (z^2 - 1),    z = (sqrt(1 + 4 eps (eps + 1 + |x|)) - 1) / (2 eps)

    Paper: "Observe and Look Further: Achieving Consistent Performance on Atari", Pohlen et al. 2018
    (https://arxiv.org/abs/1805.11593).

    Args:
        x: (*).
        eps: as in `signed_hyperbolic`.

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    # z without subtracting nearly equal numbers: in float32 the plain form (RLax's) is off by 5e-4 around x = 1, this
    # by 4e-6.
    c = eps + 1 + x.abs()
    z = 2 * c / ((1 + 4 * eps * c).sqrt() + 1)
    return x.sign() * (z.square() - 1)


def hyperbolic_sin(x: Tensor) -> Tensor:
    """Hyperbolic sine.

        y = (exp(x) - exp(-x)) / 2

    Args:
        x: (*).

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x.sinh()


def hyperbolic_arcsin(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine.

        y = log(x + sqrt(x^2 + 1))

    Args:
        x: (*).

    Returns:
        (*).

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    return x.asinh()


def transform_to_2hot(scalar: Tensor, min_value: float, max_value: float, num_bins: int) -> Tensor:
    """Code a scalar as two neighboring weights on evenly spaced bins, whose mean it is.

        y_i = max(0, 1 - |position - i|),    position = (clip(x, min, max) - min) / (max - min) (num_bins - 1)

    Paper: "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265), appendix F.

    Args:
        scalar: (*).
        min_value: place of the first bin.
        max_value: place of the last bin.
        num_bins: K, at least 2.

    Returns:
        (*, K), non-negative, summing to 1. Differentiable almost everywhere.

    Raises:
        ValueError: scalar is not floating point, or there are fewer than 2 bins.
    """
    check(scalar=(scalar, "float *"))
    if num_bins < 2:
        raise ValueError(f"num_bins: expected at least 2, got {num_bins}")
    width = (max_value - min_value) / (num_bins - 1)
    position = (scalar.clamp(min_value, max_value) - min_value) / (max_value - min_value) * (num_bins - 1)
    # How far x has moved through the gap right of each bin, 0 to 1; the slack in the gap's width is RLax's, kept for
    # equal numbers: it lifts the upper weight by at most 1e-5 / width.
    progress = (position.unsqueeze(-1) - torch.arange(num_bins - 1, device=scalar.device)).clamp(0, 1)  # (*, K-1)
    progress = torch.where(progress > 0, 1 - (1 - progress) * (width / (width + 1e-5)), 0.0)
    one, zero = torch.ones_like(progress[..., :1]), torch.zeros_like(progress[..., :1])
    return torch.cat([one, progress], -1) - torch.cat([progress, zero], -1)


def transform_from_2hot(probs: Tensor, min_value: float, max_value: float, num_bins: int) -> Tensor:
    """Mean of a distribution over evenly spaced bins.

        y = sum_i probs_i bin_i

    Paper: "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265), appendix F.

    Args:
        probs: (*, K).
        min_value: place of the first bin.
        max_value: place of the last bin.
        num_bins: K, at least 2.

    Returns:
        (*).

    Raises:
        ValueError: probs is not floating point or its last axis is not K, or there are fewer than 2 bins.
    """
    if num_bins < 2:
        raise ValueError(f"num_bins: expected at least 2, got {num_bins}")
    check(probs=(probs, "float * K"))
    if probs.shape[-1] != num_bins:
        raise ValueError(f"probs: expected a last axis of {num_bins} bins, got shape {tuple(probs.shape)}")
    bins = torch.linspace(min_value, max_value, num_bins, dtype=probs.dtype, device=probs.device)
    return (probs * bins).sum(-1)
