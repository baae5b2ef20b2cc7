"""Distilling a policy from weighted sampled actions."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from marl.ops.checks import check

__all__ = ["PolicyTarget", "constant_policy_targets", "sampled_policy_distillation_loss", "zero_policy_targets"]


class PolicyTarget(NamedTuple):
    """Actions (S, *, ...) and their weights (S, *)."""

    actions: Tensor
    weights: Tensor


def constant_policy_targets(
    distribution: Distribution, generator: Generator | None, num_samples: int, weights_scale: float = 1.0
) -> PolicyTarget:
    """Sample actions and give each the same weight.

        a_s ~ distribution,    w_s = weights_scale

    Paper: "Muesli: Combining Improvements in Policy Optimization", Hessel et al. 2021
    (https://arxiv.org/abs/2104.06159).

    Args:
        distribution: a torch distribution with batch shape (*).
        generator: source of randomness (torch distributions take none, so it seeds torch's own for the draw, which is
            then put back); None for torch's own.
        num_samples: S.
        weights_scale: the weight.

    Returns:
        Actions (S, *, event) and weights (S, *), detached.

    Raises:
        ValueError: num_samples is below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: expected at least 1, got {num_samples}")
    if generator is None:
        actions = distribution.sample((num_samples,))
    else:
        seed = int(torch.randint(0, 2**62, (), generator=generator, device=generator.device))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            actions = distribution.sample((num_samples,))
    shape = (num_samples, *distribution.batch_shape)
    dtype = actions.dtype if actions.is_floating_point() else torch.get_default_dtype()
    return PolicyTarget(actions, torch.full(shape, weights_scale, dtype=dtype, device=actions.device))


def zero_policy_targets(
    distribution: Distribution, generator: Generator | None, num_samples: int, *, weights_scale: float = 0.0
) -> PolicyTarget:
    """`constant_policy_targets` of weight 0: targets that teach nothing, for places that must hold some.

        a_s ~ distribution,    w_s = 0

    Paper: "Muesli: Combining Improvements in Policy Optimization", Hessel et al. 2021
    (https://arxiv.org/abs/2104.06159).

    Args:
        distribution: a torch distribution with batch shape (*).
        generator: source of randomness.
        num_samples: S.
        weights_scale: the weight.

    Returns:
        Actions (S, *, event) and weights (S, *), detached.

    Raises:
        ValueError: num_samples is below 1.
    """
    return constant_policy_targets(distribution, generator, num_samples, weights_scale)


def sampled_policy_distillation_loss(
    distribution: Distribution, policy_targets: PolicyTarget, stop_target_gradients: bool = True
) -> Tensor:
    """Cross-entropy towards weighted sampled actions.

        loss = -mean_{s, *} w_s log p(a_s)

    Paper: "Muesli: Combining Improvements in Policy Optimization", Hessel et al. 2021
    (https://arxiv.org/abs/2104.06159).

    Args:
        distribution: the predicted torch distribution, batch shape (*).
        policy_targets: actions (S, *, event) and weights (S, *).
        stop_target_gradients: detach actions and weights.

    Returns:
        () the mean over samples and batch.

    Raises:
        ValueError: the weights do not have the shape of the actions' log-probabilities.
    """
    actions, weights = policy_targets
    check(actions=(actions, "any *"))
    check(weights=(weights, "float *"))
    if stop_target_gradients:
        actions, weights = actions.detach(), weights.detach()
    one = (*distribution.batch_shape, *distribution.event_shape)
    if tuple(actions.shape[1:]) != one:
        raise ValueError(f"actions: expected shape (S, {', '.join(map(str, one))}), got {tuple(actions.shape)}")
    expected = (*actions.shape[:1], *distribution.batch_shape)
    if tuple(weights.shape) != expected:
        raise ValueError(f"weights: expected shape {expected} as actions have, got {tuple(weights.shape)}")
    log_probs: Tensor = distribution.log_prob(actions)
    return -(weights * log_probs).mean()
