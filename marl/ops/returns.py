"""Multi-step returns and advantages. Time is the first axis; any batch axes follow: (T, *)."""

import torch
from torch import Tensor

from marl.ops.checks import check, check_numeric
from marl.ops.indexing import batched_index
from marl.ops.recursion import backward_recursion

__all__ = [
    "discounted_returns",
    "general_off_policy_returns_from_action_values",
    "general_off_policy_returns_from_q_and_v",
    "importance_corrected_td_errors",
    "lambda_returns",
    "n_step_bootstrapped_returns",
    "truncated_generalized_advantage_estimation",
]


def lambda_returns(
    r_t: Tensor,
    discount_t: Tensor,
    v_t: Tensor,
    lambda_: float | Tensor = 1.0,
    stop_target_gradients: bool = False,
) -> Tensor:
    """Lambda-weighted mixtures of all n-step returns, bootstrapping from the last value.

        G_t = r_{t+1} + discount_{t+1} ((1 - lambda_{t+1}) v_{t+1} + lambda_{t+1} G_{t+1}),    G_{T} = v_T

    Paper: "Reinforcement Learning: An Introduction", Sutton & Barto 2018, chapter 12.

    Args:
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *) discounts at times 1 ... T; 0 at a termination.
        v_t: (T, *) values of the states at times 1 ... T.
        lambda_: a number, or (T, *).
        stop_target_gradients: detach the result.

    Returns:
        (T, *) returns from times 0 ... T-1.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), v_t=(v_t, "float T *"))
    check_numeric("lambda_", lambda_, r_t)
    if stop_target_gradients:
        with torch.no_grad():
            return lambda_returns(r_t, discount_t, v_t, lambda_)
    if isinstance(lambda_, Tensor):
        decay = discount_t * lambda_
        additive = torch.addcmul(r_t, discount_t - decay, v_t)
    else:
        decay = discount_t * lambda_
        additive = torch.addcmul(r_t, discount_t, v_t, value=1 - lambda_)
    return backward_recursion(additive, decay, v_t[-1])


def discounted_returns(r_t: Tensor, discount_t: Tensor, v_t: Tensor, stop_target_gradients: bool = False) -> Tensor:
    """Discounted sums of the rewards to come, bootstrapping from the last value.

        G_t = r_{t+1} + discount_{t+1} G_{t+1},    G_T = v_T

    Paper: "Reinforcement Learning: An Introduction", Sutton & Barto 2018, chapter 3.

    Args:
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        v_t: (T, *) values, of which the last row is used, or (*) the last value alone.
        stop_target_gradients: detach the result.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    last_alone = isinstance(v_t, Tensor) and isinstance(r_t, Tensor) and v_t.dim() == r_t.dim() - 1
    v_axes = "float *" if last_alone else "float T *"
    check(r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), v_t=(v_t, v_axes))
    if last_alone:
        v_t = v_t.expand_as(r_t)
    return lambda_returns(r_t, discount_t, v_t, 1.0, stop_target_gradients)


def n_step_bootstrapped_returns(
    r_t: Tensor,
    discount_t: Tensor,
    v_t: Tensor,
    n: int,
    lambda_t: float | Tensor = 1.0,
    stop_target_gradients: bool = False,
) -> Tensor:
    """Returns that bootstrap after n steps, or at the last value where fewer are left.

        G_t = r_{t+1} + discount_{t+1} ((1 - lambda_{t+1}) v_{t+1} + lambda_{t+1} G_{t+1}),    iterated n times from
        v_{t+n}

    Paper: "Reinforcement Learning: An Introduction", Sutton & Barto 2018, chapter 7.

    Args:
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        v_t: (T, *) values to bootstrap from at times 1 ... T.
        n: number of steps, at least 1.
        lambda_t: a number, or (T, *).
        stop_target_gradients: detach the result.

    Returns:
        (T, *) returns from times 0 ... T-1.

    Raises:
        ValueError: a shape or dtype differs from the above, or n < 1.
    """
    check(r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), v_t=(v_t, "float T *"))
    check_numeric("lambda_t", lambda_t, r_t)
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    length = r_t.shape[0]
    decay = discount_t * lambda_t
    additive = torch.addcmul(r_t, discount_t - decay, v_t)
    # Past the end nothing happens: the last value stands for every later return.
    span = min(n, length)
    beyond = v_t[-1:].expand(span, *v_t.shape[1:])
    target = torch.cat([v_t[span - 1 :], beyond[: span - 1]])  # (T, *)
    for step in reversed(range(span)):
        # Row t now holds G_{t+step+1}; rows whose step lies past the end keep the last value.
        target = torch.cat([torch.addcmul(additive[step:], decay[step:], target[: length - step]), beyond[:step]])
    return target.detach() if stop_target_gradients else target


def truncated_generalized_advantage_estimation(
    r_t: Tensor,
    discount_t: Tensor,
    lambda_: float | Tensor,
    values: Tensor,
    stop_target_gradients: bool = False,
) -> Tensor:
    """Generalized advantage estimation over a window, bootstrapping from its last value.

        A_t = delta_t + discount_{t+1} lambda_{t+1} A_{t+1},    delta_t = r_{t+1} + discount_{t+1} v_{t+1} - v_t,
        A_T = 0

    Paper: "High-Dimensional Continuous Control Using Generalized Advantage Estimation", Schulman et al. 2016
    (https://arxiv.org/abs/1506.02438).

    Args:
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        lambda_: a number, or (T, *).
        values: (T+1, *) values at times 0 ... T.
        stop_target_gradients: detach the result.

    Returns:
        (T, *) advantages at times 0 ... T-1.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), values=(values, "float T+1 *"))
    check_numeric("lambda_", lambda_, r_t)
    if stop_target_gradients:
        with torch.no_grad():
            return truncated_generalized_advantage_estimation(r_t, discount_t, lambda_, values)
    delta_t = torch.addcmul(r_t, discount_t, values[1:]) - values[:-1]
    return backward_recursion(delta_t, discount_t * lambda_, torch.zeros_like(values[-1]))


def general_off_policy_returns_from_q_and_v(
    q_t: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    c_t: Tensor,
    stop_target_gradients: bool = False,
) -> Tensor:
    """Returns corrected for off-policy actions by traces c, from action values and state values.

        G_t = r_{t+1} + discount_{t+1} (v_{t+1} - c_{t+1} q_{t+1} + c_{t+1} G_{t+1}),    last: r_T + discount_T v_T

    Paper: "Safe and Efficient Off-Policy Reinforcement Learning", Munos et al. 2016 (https://arxiv.org/abs/1606.02647).

    Args:
        q_t: (T-1, *) values of the actions taken at times 1 ... T-1.
        v_t: (T, *) values under the target policy at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        c_t: (T-1, *) traces at times 1 ... T-1.
        stop_target_gradients: detach the result.

    Returns:
        (T, *) returns from times 0 ... T-1.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        v_t=(v_t, "float T *"),
        q_t=(q_t, "float T-1 *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        c_t=(c_t, "float T-1 *"),
    )
    if stop_target_gradients:
        with torch.no_grad():
            return general_off_policy_returns_from_q_and_v(q_t, v_t, r_t, discount_t, c_t)
    last = torch.addcmul(r_t[-1], discount_t[-1], v_t[-1])  # (*)
    expected = torch.addcmul(v_t[:-1], c_t, q_t, value=-1)
    additive = torch.addcmul(r_t[:-1], discount_t[:-1], expected)
    earlier = backward_recursion(additive, discount_t[:-1] * c_t, last)
    return torch.cat([earlier, last[None]])


def general_off_policy_returns_from_action_values(
    q_t: Tensor,
    a_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    c_t: Tensor,
    pi_t: Tensor,
    stop_target_gradients: bool = False,
) -> Tensor:
    """Returns corrected for off-policy actions by traces c, from all action values and the target policy.

        G_t = r_{t+1} + discount_{t+1} (E_pi[q_{t+1}] - c_{t+1} q_{t+1}(a_{t+1}) + c_{t+1} G_{t+1})

    The trace chooses the algorithm: pi/mu is importance sampling, lambda is Q(lambda), pi is tree-backup and
    lambda min(1, pi/mu) is Retrace.

    Paper: "Safe and Efficient Off-Policy Reinforcement Learning", Munos et al. 2016 (https://arxiv.org/abs/1606.02647).

    Args:
        q_t: (T, *, A) action values at times 1 ... T.
        a_t: (T, *) integer, actions taken at times 1 ... T; the last is not used.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        c_t: (T, *) traces at times 1 ... T; the last is not used.
        pi_t: (T, *, A) target policy's probabilities at times 1 ... T.
        stop_target_gradients: detach the result.

    Returns:
        (T, *) returns from times 0 ... T-1.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_t=(q_t, "float T * A"),
        a_t=(a_t, "int T *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        c_t=(c_t, "float T *"),
        pi_t=(pi_t, "float T * A"),
    )
    if stop_target_gradients:
        with torch.no_grad():
            return general_off_policy_returns_from_action_values(q_t, a_t, r_t, discount_t, c_t, pi_t)
    expected_q_t = (pi_t * q_t).sum(-1)  # (T, *)
    q_a_t = batched_index(q_t[:-1], a_t[:-1])  # (T-1, *)
    return general_off_policy_returns_from_q_and_v(q_a_t, expected_q_t, r_t, discount_t, c_t[:-1])


def importance_corrected_td_errors(
    r_t: Tensor,
    discount_t: Tensor,
    rho_tm1: Tensor,
    lambda_: float | Tensor,
    values: Tensor,
    stop_target_gradients: bool = False,
) -> Tensor:
    """Multi-step temporal-difference errors with per-decision importance sampling.

        error_t = rho_t D_t,    D_t = delta_t + rho_{t+1} lambda_{t+1} discount_{t+1} D_{t+1}
        delta_t = r_{t+1} + discount_{t+1} v_{t+1} - v_t

    Paper: "A new Q(lambda) with interim forward view and Monte Carlo equivalence", Sutton et al. 2014
    (https://proceedings.mlr.press/v32/sutton14.html).

    Args:
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        rho_tm1: (T, *) importance ratios at times 0 ... T-1.
        lambda_: a number, or (T, *).
        values: (T+1, *) values at times 0 ... T.
        stop_target_gradients: detach the target error + value, so that the gradient is that of minus the value.

    Returns:
        (T, *) errors at times 0 ... T-1.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        rho_tm1=(rho_tm1, "float T *"),
        values=(values, "float T+1 *"),
    )
    check_numeric("lambda_", lambda_, r_t)
    v_tm1, v_t = values[:-1], values[1:]
    delta_t = torch.addcmul(r_t, discount_t, v_t) - v_tm1
    rho_t = torch.cat([rho_tm1[1:], torch.ones_like(rho_tm1[:1])])
    errors = rho_tm1 * backward_recursion(delta_t, discount_t * rho_t * lambda_, torch.zeros_like(delta_t[-1]))
    if stop_target_gradients:
        return (errors + v_tm1).detach() - v_tm1
    return errors
