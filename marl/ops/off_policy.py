"""V-trace: off-policy state values and policy-gradient advantages with clipped importance ratios."""

from typing import NamedTuple

import torch
from torch import Tensor

from marl.ops.checks import check, check_numeric
from marl.ops.recursion import backward_recursion

__all__ = [
    "VTraceOutput",
    "leaky_vtrace",
    "leaky_vtrace_td_error_and_advantage",
    "vtrace",
    "vtrace_td_error_and_advantage",
]


class VTraceOutput(NamedTuple):
    """What an actor-critic update needs, each (T, *): value errors, policy-gradient advantages, action-value
    estimates."""

    errors: Tensor
    pg_advantage: Tensor
    q_estimate: Tensor


def vtrace(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    lambda_: float | Tensor = 1.0,
    clip_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Tensor | None = None,
) -> Tensor:
    """V-trace errors: multi-step corrections weighted by clipped importance ratios.

        error_t = rho'_t delta_t + discount_{t+1} c_t error_{t+1}
        delta_t = r_{t+1} + discount_{t+1} v_{t+1} - v_t,    rho' = min(clip, rho),    c = lambda min(1, rho)

    Paper: "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", Espeholt et
    al. 2018
    (https://arxiv.org/abs/1802.01561).

    Args:
        v_tm1: (T, *) values at times 0 ... T-1.
        v_t: (T, *) values at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        rho_tm1: (T, *) importance ratios pi/mu at times 0 ... T-1.
        lambda_: a number, or (T, *).
        clip_rho_threshold: largest ratio on delta; it decides which policy's value is the fixed point.
        stop_target_gradients: detach the target error + v_tm1, so that the gradient is that of minus v_tm1.
        sample_mask: (T, *) bool; a step outside the mask passes the error of the next one on unchanged. None for all.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    return leaky_vtrace(
        v_tm1, v_t, r_t, discount_t, rho_tm1, 1.0, lambda_, clip_rho_threshold, stop_target_gradients, sample_mask
    )


def leaky_vtrace(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    alpha_: float | Tensor = 1.0,
    lambda_: float | Tensor = 1.0,
    clip_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Tensor | None = None,
) -> Tensor:
    """V-trace errors that leak part of the unclipped importance ratio.

        rho' = (1 - alpha) rho + alpha min(clip, rho),    c = lambda ((1 - alpha) rho + alpha min(1, rho))

    and the errors as in `vtrace`; alpha = 1 is V-trace, alpha = 0 is importance sampling.

    Paper: "Self-Tuning Deep Reinforcement Learning", Zahavy et al. 2020 (https://arxiv.org/abs/2002.12928).

    Args:
        v_tm1: (T, *) values at times 0 ... T-1.
        v_t: (T, *) values at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        rho_tm1: (T, *) importance ratios at times 0 ... T-1.
        alpha_: share of the clipped ratio; a number, or (T, *).
        lambda_: a number, or (T, *).
        clip_rho_threshold: largest clipped ratio on delta.
        stop_target_gradients: detach the target error + v_tm1.
        sample_mask: (T, *) bool, or None.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    _check_trajectory(v_tm1, v_t, r_t, discount_t, rho_tm1, sample_mask)
    check_numeric("alpha_", alpha_, v_tm1)
    check_numeric("lambda_", lambda_, v_tm1)
    if stop_target_gradients:
        with torch.no_grad():
            errors = _errors(v_tm1, v_t, r_t, discount_t, rho_tm1, alpha_, lambda_, clip_rho_threshold, sample_mask)
            targets = errors.add_(v_tm1)
        return targets - v_tm1
    return _errors(v_tm1, v_t, r_t, discount_t, rho_tm1, alpha_, lambda_, clip_rho_threshold, sample_mask)


def vtrace_td_error_and_advantage(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    lambda_: float | Tensor = 1.0,
    clip_rho_threshold: float = 1.0,
    clip_pg_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Tensor | None = None,
) -> VTraceOutput:
    """V-trace errors, and the advantages and action values that follow from them.

        q_t = r_{t+1} + discount_{t+1} (lambda_t target_{t+1} + (1 - lambda_t) v_{t+1}),    target = error + v
        advantage_t = min(clip_pg, rho_t) (q_t - v_t)

    and the last q bootstraps from v_T.

    Paper: "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", Espeholt et
    al. 2018
    (https://arxiv.org/abs/1802.01561).

    Args:
        v_tm1: (T, *) values at times 0 ... T-1.
        v_t: (T, *) values at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        rho_tm1: (T, *) importance ratios at times 0 ... T-1.
        lambda_: a number, or (T, *).
        clip_rho_threshold: largest ratio on the errors.
        clip_pg_rho_threshold: largest ratio on the advantages.
        stop_target_gradients: detach the targets of the errors.
        sample_mask: (T, *) bool, or None.

    Returns:
        errors, pg_advantage and q_estimate, each (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    return leaky_vtrace_td_error_and_advantage(
        v_tm1,
        v_t,
        r_t,
        discount_t,
        rho_tm1,
        1.0,
        lambda_,
        clip_rho_threshold,
        clip_pg_rho_threshold,
        stop_target_gradients,
        sample_mask,
    )


def leaky_vtrace_td_error_and_advantage(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    alpha: float | Tensor = 1.0,
    lambda_: float | Tensor = 1.0,
    clip_rho_threshold: float = 1.0,
    clip_pg_rho_threshold: float = 1.0,
    stop_target_gradients: bool = True,
    sample_mask: Tensor | None = None,
) -> VTraceOutput:
    """Leaky V-trace errors, and the advantages and action values that follow from them.

        advantage_t = ((1 - alpha) rho_t + alpha min(clip_pg, rho_t)) (q_t - v_t)

    and the rest as in `vtrace_td_error_and_advantage`.

    Paper: "Self-Tuning Deep Reinforcement Learning", Zahavy et al. 2020 (https://arxiv.org/abs/2002.12928).

    Args:
        v_tm1: (T, *) values at times 0 ... T-1.
        v_t: (T, *) values at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        rho_tm1: (T, *) importance ratios at times 0 ... T-1.
        alpha: share of the clipped ratio; a number, or (T, *).
        lambda_: a number, or (T, *).
        clip_rho_threshold: largest clipped ratio on the errors.
        clip_pg_rho_threshold: largest clipped ratio on the advantages.
        stop_target_gradients: detach the targets of the errors.
        sample_mask: (T, *) bool, or None.

    Returns:
        errors, pg_advantage and q_estimate, each (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    if isinstance(alpha, Tensor):
        _check_trajectory(v_tm1, v_t, r_t, discount_t, rho_tm1, sample_mask)
        check_numeric("alpha", alpha, v_tm1)
    errors = leaky_vtrace(
        v_tm1, v_t, r_t, discount_t, rho_tm1, alpha, lambda_, clip_rho_threshold, stop_target_gradients, sample_mask
    )
    targets_tm1 = errors + v_tm1
    lambda_tm1 = lambda_[:-1] if isinstance(lambda_, Tensor) and lambda_.dim() else lambda_
    mixed = lambda_tm1 * targets_tm1[1:] + (1 - lambda_tm1) * v_tm1[1:]
    q_bootstrap = torch.cat([mixed, v_t[-1:]])
    q_estimate = torch.addcmul(r_t, discount_t, q_bootstrap)
    pg_rho_tm1 = _leaky_clip(rho_tm1, clip_pg_rho_threshold, alpha)
    return VTraceOutput(errors, pg_rho_tm1 * (q_estimate - v_tm1), q_estimate)


def _leaky_clip(rho: Tensor, threshold: float, alpha: float | Tensor) -> Tensor:
    clipped = torch.minimum(rho, rho.new_full((), threshold))
    if not isinstance(alpha, Tensor) and alpha == 1.0:
        return clipped
    return (1 - alpha) * rho + alpha * clipped


def _errors(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    alpha: float | Tensor,
    lambda_: float | Tensor,
    clip_rho_threshold: float,
    sample_mask: Tensor | None,
) -> Tensor:
    clipped_rho_tm1 = _leaky_clip(rho_tm1, clip_rho_threshold, alpha)
    c_tm1 = clipped_rho_tm1 if clip_rho_threshold == 1.0 else _leaky_clip(rho_tm1, 1.0, alpha)
    if isinstance(lambda_, Tensor) or lambda_ != 1.0:
        c_tm1 = c_tm1 * lambda_
    delta_t = clipped_rho_tm1 * (torch.addcmul(r_t, discount_t, v_t) - v_tm1)
    decay = discount_t * c_tm1
    if sample_mask is not None:
        delta_t = torch.where(sample_mask, delta_t, 0.0)
        decay = torch.where(sample_mask, decay, 1.0)
    return backward_recursion(delta_t, decay, torch.zeros_like(delta_t[-1]))


def _check_trajectory(
    v_tm1: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    sample_mask: Tensor | None,
) -> None:
    check(
        v_tm1=(v_tm1, "float T *"),
        v_t=(v_t, "float T *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        rho_tm1=(rho_tm1, "float T *"),
    )
    if sample_mask is not None:
        check(v_tm1=(v_tm1, "float T *"), sample_mask=(sample_mask, "bool T *"))
