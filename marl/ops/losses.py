"""Elementwise losses and gradient clipping."""

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = ["clip_gradient", "expectile_loss", "huber_loss", "l2_loss", "likelihood", "log_loss"]


def l2_loss(predictions: Tensor, targets: Tensor | None = None) -> Tensor:
    """Half the squared error.

        loss = (predictions - targets)^2 / 2

    Paper: "Pattern Recognition and Machine Learning", Bishop 2006, section 1.2.

    Args:
        predictions: (*).
        targets: (*); zeros if None.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(predictions=(predictions, "float *"))
    if targets is None:
        return 0.5 * predictions.square()
    check(predictions=(predictions, "float *"), targets=(targets, "float *"))
    return 0.5 * (predictions - targets).square()


def likelihood(predictions: Tensor, targets: Tensor) -> Tensor:
    """Likelihood of binary targets under predicted probabilities.

        L = predictions^targets (1 - predictions)^(1 - targets)

    Paper: "Pattern Recognition and Machine Learning", Bishop 2006, section 2.1.

    Args:
        predictions: (*) probabilities.
        targets: (*) 0 or 1.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(predictions=(predictions, "float *"), targets=(targets, "float *"))
    return predictions.pow(targets) * (1 - predictions).pow(1 - targets)


def log_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihood of binary targets under predicted probabilities.

        loss = -targets log(predictions) - (1 - targets) log(1 - predictions)

    Paper: "Pattern Recognition and Machine Learning", Bishop 2006, section 4.3.

    Args:
        predictions: (*) probabilities.
        targets: (*) 0 or 1.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    return -likelihood(predictions, targets).log()


def huber_loss(x: Tensor, delta: float = 1.0) -> Tensor:
    """Quadratic near zero, linear beyond delta.

        loss = x^2 / 2 if |x| <= delta, else delta (|x| - delta / 2)

    Paper: "Robust Estimation of a Location Parameter", Huber 1964 (https://doi.org/10.1214/aoms/1177703732).

    Args:
        x: (*) errors.
        delta: where the loss turns linear.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: x is not floating point.
    """
    check(x=(x, "float *"))
    magnitude = x.abs()
    quadratic = magnitude.clamp(max=delta)
    return 0.5 * quadratic.square() + delta * (magnitude - quadratic)


def expectile_loss(predictions: Tensor, targets: Tensor, expectile: float) -> Tensor:
    """Squared error weighted by its sign, so that its minimizer is an expectile.

        loss = |expectile - 1[targets < predictions]| (targets - predictions)^2

    Paper: "Asymmetric Least Squares Estimation and Testing", Newey & Powell 1987 (https://doi.org/10.2307/1911031).

    Args:
        predictions: (*).
        targets: (*).
        expectile: in (0, 1); one half gives half the squared error.

    Returns:
        (*). Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(predictions=(predictions, "float *"), targets=(targets, "float *"))
    error = targets - predictions
    over = (error <= 0).to(error.dtype)
    return (expectile - over).abs() * error.square()


class _ClipGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, gradient_min: float, gradient_max: float) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(
        ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, float, float], output: Tensor
    ) -> None:
        ctx.bounds = inputs[1:]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        low, high = ctx.bounds  # type: ignore[attr-defined]
        return gradient.clamp(low, high), None, None


def clip_gradient(x: Tensor, gradient_min: float, gradient_max: float) -> Tensor:
    """The identity, whose gradient is clipped elementwise on the way back.

        y = x,    dL/dx = clip(dL/dy, gradient_min, gradient_max)

    Paper: "Human-level control through deep reinforcement learning", Mnih et al. 2015
    (https://doi.org/10.1038/nature14236).

    Args:
        x: (*).
        gradient_min: lower bound, at most 0.
        gradient_max: upper bound, at least 0.

    Returns:
        (*), equal to x.

    Raises:
        ValueError: x is not floating point, or the bounds do not enclose 0.
    """
    check(x=(x, "float *"))
    if gradient_min > 0 or gradient_max < 0:
        raise ValueError(f"gradient_min, gradient_max: expected bounds around 0, got {gradient_min} and {gradient_max}")
    clipped: Tensor = _ClipGradient.apply(x, gradient_min, gradient_max)  # type: ignore[no-untyped-call]
    return clipped
