"""Auxiliary tasks: rewards for controlling pixels and features, and the loss that learns from them."""

from typing import Literal

import torch
from torch import Tensor

from marl.ops.checks import check
from marl.ops.losses import l2_loss
from marl.ops.values import q_lambda

__all__ = ["feature_control_rewards", "pixel_control_loss", "pixel_control_rewards"]

Cumulant = Literal["feature", "absolute_change", "increase", "decrease", "potential"]


def pixel_control_rewards(observations: Tensor, cell_size: int) -> Tensor:
    """Mean absolute change of the pixels in each cell of a grid over the image.

        r_{t+1, i, j} = mean over pixels and channels of cell (i, j) of |x_{t+1} - x_t|

    Paper: "Reinforcement Learning with Unsupervised Auxiliary Tasks", Jaderberg et al. 2017
    (https://arxiv.org/abs/1611.05397).

    Args:
        observations: (T+1, *, H, W, C), values in [0, 1].
        cell_size: edge of a cell; divides H and W.

    Returns:
        (T, *, H / cell_size, W / cell_size). Differentiable.

    Raises:
        ValueError: observations have too few axes or are not floating point, or cell_size does not divide H and W.
    """
    check(observations=(observations, "float T * H W C"))
    height, width = observations.shape[-3:-1]
    if cell_size < 1 or height % cell_size or width % cell_size:
        raise ValueError(f"cell_size: expected a divisor of height {height} and width {width}, got {cell_size}")
    change = (observations[1:] - observations[:-1]).abs().mean(-1)  # (T, *, H, W)
    grid = (height // cell_size, cell_size, width // cell_size, cell_size)
    cells = change.reshape(*change.shape[:-2], *grid)
    return cells.mean((-3, -1))


def feature_control_rewards(
    features: Tensor, cumulant_type: Cumulant = "absolute_change", discount: float | Tensor | None = None
) -> Tensor:
    """Rewards for changing each feature.

        feature: x_{t+1};  absolute_change: |x_{t+1} - x_t|;  increase: x_{t+1} - x_t;  decrease: x_t - x_{t+1};
        potential: discount x_{t+1} - x_t

    Paper: "Reinforcement Learning with Unsupervised Auxiliary Tasks", Jaderberg et al. 2017
    (https://arxiv.org/abs/1611.05397).

    Args:
        features: (T+1, *, D).
        cumulant_type: one of the five above.
        discount: for potential only: a number, or a scalar tensor.

    Returns:
        (T, *, D). Differentiable.

    Raises:
        ValueError: features are not floating point, cumulant_type is unknown, or potential has no discount.
    """
    check(features=(features, "float T * D"))
    before, after = features[:-1], features[1:]
    if cumulant_type == "feature":
        return after
    if cumulant_type == "absolute_change":
        return (after - before).abs()
    if cumulant_type == "increase":
        return after - before
    if cumulant_type == "decrease":
        return before - after
    if cumulant_type == "potential":
        if discount is None:
            raise ValueError("discount: expected a number for cumulant_type 'potential', got None")
        if isinstance(discount, Tensor) and discount.dim():
            raise ValueError(f"discount: expected a number or a scalar tensor, got shape {tuple(discount.shape)}")
        return discount * after - before
    raise ValueError(
        "cumulant_type: expected 'feature', 'absolute_change', 'increase', 'decrease' or 'potential', "
        f"got {cumulant_type!r}"
    )


def pixel_control_loss(
    observations: Tensor,
    actions: Tensor,
    action_values: Tensor,
    discount_factor: float | Tensor,
    cell_size: int,
) -> Tensor:
    """Squared Q(lambda = 1) errors of the action values of all pixel-control cells.

        loss = q_lambda(action_values, actions, pixel_control_rewards, discount_factor, lambda = 1)^2 / 2

    Paper: "Reinforcement Learning with Unsupervised Auxiliary Tasks", Jaderberg et al. 2017
    (https://arxiv.org/abs/1611.05397).

    Args:
        observations: (T+1, *, H, W, C), values in [0, 1].
        actions: (T, *) integer.
        action_values: (T+1, *, H / cell_size, W / cell_size, A).
        discount_factor: a number, a scalar tensor, or (T,) or (T, *).
        cell_size: edge of a cell.

    Returns:
        (T, *, H / cell_size, W / cell_size). The returns are detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(actions=(actions, "int T *"), observations=(observations, "float T+1 * H W C"))
    rewards = pixel_control_rewards(observations, cell_size)  # (T, *, I, J)
    cells = tuple(rewards.shape[-2:])
    expected = (rewards.shape[0] + 1, *rewards.shape[1:])
    if tuple(action_values.shape[:-1]) != expected:
        raise ValueError(
            f"action_values: expected shape {expected} and an action axis, got {tuple(action_values.shape)}"
        )
    check(observations=(observations, "float T * H W C"), action_values=(action_values, "float T * I J A"))
    discounts = torch.as_tensor(discount_factor, dtype=rewards.dtype, device=rewards.device)
    if tuple(discounts.shape) not in ((), tuple(actions.shape[:1]), tuple(actions.shape)):
        shapes = f"a number, {tuple(actions.shape[:1])} or {tuple(actions.shape)}"
        raise ValueError(f"discount_factor: expected {shapes}, got shape {tuple(discounts.shape)}")
    if discounts.dim():
        discounts = discounts.reshape(discounts.shape + (1,) * (rewards.dim() - discounts.dim()))
    errors = q_lambda(
        action_values[:-1],
        actions[..., None, None].expand(*actions.shape, *cells),
        rewards,
        discounts.expand_as(rewards),
        action_values[1:],
        1.0,
    )
    return l2_loss(errors)
