"""Maximum a posteriori policy optimization (MPO) and its on-policy form (V-MPO)."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from marl.ops.checks import check

__all__ = [
    "LagrangePenalty",
    "MpoOutputs",
    "compute_parametric_kl_penalty_and_dual_loss",
    "mpo_compute_weights_and_temperature_loss",
    "mpo_loss",
    "vmpo_compute_weights_and_temperature_loss",
    "vmpo_loss",
]

Projection = Callable[[Tensor], Tensor]


class LagrangePenalty(NamedTuple):
    """A soft constraint `value <= epsilon` with multiplier alpha: () or, per action dimension, (A,)."""

    alpha: Tensor
    epsilon: float
    per_dimension: bool = False


class MpoOutputs(NamedTuple):
    """The parts of an MPO loss, unweighted."""

    temperature_loss: Tensor
    policy_loss: Tensor
    kl_loss: Tensor
    alpha_loss: Tensor
    normalized_weights: Tensor
    num_samples: int | Tensor


def _positive(x: Tensor) -> Tensor:
    return x.clamp(min=1e-10)


def mpo_loss(
    sample_log_probs: Tensor,
    sample_q_values: Tensor,
    temperature_constraint: LagrangePenalty,
    kl_constraints: Sequence[tuple[Tensor, LagrangePenalty]],
    projection_operator: Projection = _positive,
    policy_loss_weight: float = 1.0,
    temperature_loss_weight: float = 1.0,
    kl_loss_weight: float = 1.0,
    alpha_loss_weight: float = 1.0,
    sample_axis: int = 0,
    use_stop_gradient: bool = True,
) -> tuple[Tensor, MpoOutputs]:
    """MPO's loss: fit the policy to its own samples reweighted by their values, within a KL bound.

        policy_loss = -sum_s w_s log pi(a_s),    w = softmax_s(q_s / temperature)

    plus the temperature's dual loss, the KL penalties and the multipliers' dual losses, each times its weight.

    Paper: "Maximum a Posteriori Policy Optimisation", Abdolmaleki et al. 2018 (https://arxiv.org/abs/1806.06920).

    Args:
        sample_log_probs: (*) with an axis S of sampled actions at sample_axis: log-probabilities under the policy.
        sample_q_values: same shape, their values.
        temperature_constraint: bound on the KL of the reweighting; its alpha is the temperature.
        kl_constraints: pairs of KL (*), or (*, A) with per_dimension, and penalty.
        projection_operator: maps a dual variable to the positive numbers.
        policy_loss_weight: of the policy loss.
        temperature_loss_weight: of the temperature loss.
        kl_loss_weight: of the KL penalties.
        alpha_loss_weight: of the multipliers' losses.
        sample_axis: place of S.
        use_stop_gradient: detach the weights in the policy loss, the multipliers in the KL penalties and the KLs in the
            multipliers' losses.

    Returns:
        The loss (*), and its parts.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(sample_log_probs=(sample_log_probs, "float *"), sample_q_values=(sample_q_values, "float *"))
    _check_samples(sample_q_values, temperature_constraint, sample_axis)
    _check_kl(kl_constraints, {"sample_log_probs": (sample_log_probs.select(sample_axis, 0), "float *")})
    temperature_loss, normalized_weights, num_samples = mpo_compute_weights_and_temperature_loss(
        sample_q_values, temperature_constraint, projection_operator, sample_axis
    )
    if use_stop_gradient:
        normalized_weights = normalized_weights.detach()
    policy_loss = -(normalized_weights * sample_log_probs).sum(sample_axis)
    kl_loss, alpha_loss = compute_parametric_kl_penalty_and_dual_loss(
        kl_constraints, projection_operator, use_stop_gradient
    )
    loss = (
        policy_loss_weight * policy_loss
        + temperature_loss_weight * temperature_loss
        + kl_loss_weight * kl_loss
        + alpha_loss_weight * alpha_loss
    )
    return loss, MpoOutputs(temperature_loss, policy_loss, kl_loss, alpha_loss, normalized_weights, num_samples)


def mpo_compute_weights_and_temperature_loss(
    sample_q_values: Tensor,
    temperature_constraint: LagrangePenalty,
    projection_operator: Projection,
    sample_axis: int = 0,
) -> tuple[Tensor, Tensor, int]:
    """MPO's E-step: weights of the sampled actions, and the dual loss of the temperature eta.

        w = softmax_s(q_s / eta),    loss = eta (epsilon + log mean_s exp(q_s / eta))

    Paper: "Maximum a Posteriori Policy Optimisation", Abdolmaleki et al. 2018 (https://arxiv.org/abs/1806.06920).

    Args:
        sample_q_values: (*) with an axis S at sample_axis.
        temperature_constraint: its alpha is eta before projection, its epsilon the bound.
        projection_operator: maps a dual variable to the positive numbers.
        sample_axis: place of S.

    Returns:
        temperature loss (*), weights of sample_q_values's shape, and S. Values are detached in the temperature loss.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    _check_samples(sample_q_values, temperature_constraint, sample_axis)
    num_samples = sample_q_values.shape[sample_axis]
    temperature = projection_operator(temperature_constraint.alpha)
    tempered = sample_q_values / temperature
    log_sum = tempered.logsumexp(sample_axis)
    temperature_loss = temperature * (temperature_constraint.epsilon + log_sum - math.log(num_samples))
    return temperature_loss, tempered.softmax(sample_axis), num_samples


def compute_parametric_kl_penalty_and_dual_loss(
    kl_constraints: Sequence[tuple[Tensor, LagrangePenalty]],
    projection_operator: Projection,
    use_stop_gradient: bool = True,
) -> tuple[Tensor, Tensor]:
    """Lagrangian penalties on KL divergences, and the losses that adapt their multipliers.

        kl_loss = sum_c alpha_c KL_c,    alpha_loss = sum_c alpha_c (epsilon_c - KL_c)

    Paper: "Relative Entropy Regularized Policy Iteration", Abdolmaleki et al. 2018 (https://arxiv.org/abs/1812.02256).

    Args:
        kl_constraints: pairs of KL (*), or (*, A) with per_dimension, and penalty; sums run over A.
        projection_operator: maps a multiplier to the positive numbers.
        use_stop_gradient: detach alpha in kl_loss and KL in alpha_loss.

    Returns:
        kl_loss (*) and alpha_loss (*); scalar zeros without constraints.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    kl_loss = alpha_loss = torch.zeros((), dtype=torch.float32)
    _check_kl(kl_constraints, {})
    for place, (kl, penalty) in enumerate(kl_constraints):
        alpha = projection_operator(penalty.alpha)
        penalized = (alpha.detach() if use_stop_gradient else alpha) * kl
        dual = alpha * (penalty.epsilon - (kl.detach() if use_stop_gradient else kl))
        if penalty.per_dimension:
            penalized, dual = penalized.sum(-1), dual.sum(-1)
        kl_loss = penalized if place == 0 else kl_loss + penalized
        alpha_loss = dual if place == 0 else alpha_loss + dual
    return kl_loss, alpha_loss


def vmpo_loss(
    sample_log_probs: Tensor,
    advantages: Tensor,
    temperature_constraint: LagrangePenalty,
    kl_constraints: Sequence[tuple[Tensor, LagrangePenalty]],
    projection_operator: Projection = _positive,
    restarting_weights: Tensor | None = None,
    importance_weights: Tensor | None = None,
    top_k_fraction: float = 0.5,
    policy_loss_weight: float = 1.0,
    temperature_loss_weight: float = 1.0,
    kl_loss_weight: float = 1.0,
    alpha_loss_weight: float = 1.0,
    use_stop_gradient: bool = True,
) -> tuple[Tensor, MpoOutputs]:
    """V-MPO's loss: fit the policy to the best of the actions taken, reweighted by their advantages, within a KL bound.

        policy_loss = -M w log pi(a),    w as in `vmpo_compute_weights_and_temperature_loss`, M the number of examples

    so that the mean over the examples is the paper's weighted sum. The temperature's loss is added to every example.

    Paper: "V-MPO: On-Policy Maximum a Posteriori Policy Optimization for Discrete and Continuous Control", Song et
    al. 2020
    (https://arxiv.org/abs/1909.12238).

    Args:
        sample_log_probs: (*) log-probabilities of the actions taken.
        advantages: (*).
        temperature_constraint: bound on the KL of the reweighting; its alpha is the temperature.
        kl_constraints: pairs of KL (*), or (*, A) with per_dimension, and penalty.
        projection_operator: maps a dual variable to the positive numbers.
        restarting_weights: (*) 0 where an episode begins and the example is ignored, else 1; None for all ones.
        importance_weights: (*); None for all ones.
        top_k_fraction: share of the examples, those with the largest advantages, that count.
        policy_loss_weight: of the policy loss.
        temperature_loss_weight: of the temperature loss.
        kl_loss_weight: of the KL penalties.
        alpha_loss_weight: of the multipliers' losses.
        use_stop_gradient: detach the weights, the multipliers in the KL penalties and the KLs in the
            multipliers' losses.

    Returns:
        The loss (*), and its parts.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    if restarting_weights is None:
        restarting_weights = torch.ones_like(sample_log_probs)
    if importance_weights is None:
        importance_weights = torch.ones_like(sample_log_probs)
    check(sample_log_probs=(sample_log_probs, "float *"), advantages=(advantages, "float *"))
    _check_kl(kl_constraints, {"sample_log_probs": (sample_log_probs, "float *")})
    temperature_loss, normalized_weights, num_samples = vmpo_compute_weights_and_temperature_loss(
        advantages,
        restarting_weights,
        importance_weights,
        temperature_constraint,
        projection_operator,
        top_k_fraction,
        use_stop_gradient,
    )
    policy_loss = -(sample_log_probs.numel() * normalized_weights) * sample_log_probs
    kl_loss, alpha_loss = compute_parametric_kl_penalty_and_dual_loss(
        kl_constraints, projection_operator, use_stop_gradient
    )
    loss = (
        policy_loss_weight * policy_loss
        + temperature_loss_weight * temperature_loss
        + kl_loss_weight * kl_loss
        + alpha_loss_weight * alpha_loss
    )
    return loss, MpoOutputs(temperature_loss, policy_loss, kl_loss, alpha_loss, normalized_weights, num_samples)


def vmpo_compute_weights_and_temperature_loss(
    advantages: Tensor,
    restarting_weights: Tensor,
    importance_weights: Tensor,
    temperature_constraint: LagrangePenalty,
    projection_operator: Projection,
    top_k_fraction: float,
    use_stop_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """V-MPO's E-step: weights of the best examples, and the dual loss of the temperature eta.

        w_i ~ m_i rho_i exp(adv_i / eta),    loss = eta (epsilon + log sum_i m_i rho_i exp(adv_i / eta) - log sum_i m_i)

    where m_i is the restarting weight if example i is among the top k (ties at the threshold all count), else 0, and
    rho_i the importance weight.

    Paper: "V-MPO: On-Policy Maximum a Posteriori Policy Optimization for Discrete and Continuous Control", Song et
    al. 2020
    (https://arxiv.org/abs/1909.12238).

    Args:
        advantages: (*).
        restarting_weights: (*) 0 or 1.
        importance_weights: (*).
        temperature_constraint: its alpha is eta before projection, its epsilon the bound.
        projection_operator: maps a dual variable to the positive numbers.
        top_k_fraction: share of the examples that count, in (0, 1].
        use_stop_gradient: detach the importance weights and the returned weights, not the temperature loss's
            advantages.

    Returns:
        temperature loss (), weights (*), and the number of examples that count ().

    Raises:
        ValueError: a shape or dtype differs from the above, or top_k_fraction leaves no example.
    """
    check(
        advantages=(advantages, "float *"),
        restarting_weights=(restarting_weights, "float *"),
        importance_weights=(importance_weights, "float *"),
        **{"temperature_constraint.alpha": (temperature_constraint.alpha, "float")},
    )
    count = int(top_k_fraction * advantages.numel())
    if not 0 < top_k_fraction <= 1 or count < 1:
        raise ValueError(
            f"top_k_fraction: expected a share of {advantages.numel()} examples that leaves at least one, at most 1, "
            f"got {top_k_fraction}"
        )
    if use_stop_gradient:
        importance_weights = importance_weights.detach()
    temperature = projection_operator(temperature_constraint.alpha)
    tempered = restarting_weights * advantages / temperature
    lowest = torch.finfo(tempered.dtype).min / 2
    counted = restarting_weights
    if top_k_fraction < 1:
        eligible = torch.where(restarting_weights > 0, tempered, lowest)
        threshold = eligible.detach().flatten().topk(count).values[-1]
        counted = restarting_weights * (eligible >= threshold).to(tempered.dtype)
    weight = counted * importance_weights
    # Examples that do not count get an exponent of zero weight without a logarithm of zero in the gradient.
    log_weight = torch.where(weight > 0, weight, 1.0).log()
    scores = torch.where(weight > 0, tempered + log_weight, lowest)
    num_samples = counted.sum()
    log_sum = scores.flatten().logsumexp(0)
    temperature_loss = temperature * (temperature_constraint.epsilon + log_sum - num_samples.log())
    normalized_weights = (scores - log_sum).exp() * (weight > 0)
    if use_stop_gradient:
        normalized_weights = normalized_weights.detach()
    return temperature_loss, normalized_weights, num_samples


def _check_samples(sample_q_values: Tensor, temperature_constraint: LagrangePenalty, sample_axis: int) -> None:
    check(
        sample_q_values=(sample_q_values, "float *"),
        **{"temperature_constraint.alpha": (temperature_constraint.alpha, "float")},
    )
    axes = sample_q_values.dim()
    if not -axes <= sample_axis < axes or sample_q_values.shape[sample_axis] < 1:
        found = f"{sample_axis} for shape {tuple(sample_q_values.shape)}"
        raise ValueError(f"sample_axis: expected an axis of sample_q_values with samples, got {found}")


def _check_kl(kl_constraints: Sequence[tuple[Tensor, LagrangePenalty]], like: dict[str, tuple[Tensor, str]]) -> None:
    """All divergences have the batch shape of `like`, or of the first of them; each per dimension has its own A."""
    for place, (kl, penalty) in enumerate(kl_constraints):
        name = f"kl_constraints[{place}]"
        own = {name: (kl, "float * A" if penalty.per_dimension else "float *")}
        check(**like, **own)
        one_each = penalty.per_dimension and isinstance(penalty.alpha, Tensor) and penalty.alpha.dim() > 0
        check(**own, **{f"{name}.alpha": (penalty.alpha, "float A" if one_each else "float")})
        if not like:
            like = {name: (kl.select(-1, 0) if penalty.per_dimension else kl, "float *")}
