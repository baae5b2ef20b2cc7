"""Value learning: temporal-difference errors for expected values. Per-transition functions take any batch axes (*);
sequence functions take time first: (T, *)."""

import torch
from torch import Tensor

from marl.ops.checks import check, check_numeric
from marl.ops.indexing import batched_index
from marl.ops.returns import (
    general_off_policy_returns_from_action_values,
    general_off_policy_returns_from_q_and_v,
    lambda_returns,
)

__all__ = [
    "double_q_learning",
    "expected_sarsa",
    "persistent_q_learning",
    "q_lambda",
    "q_learning",
    "qv_learning",
    "qv_max",
    "retrace",
    "retrace_continuous",
    "sarsa",
    "sarsa_lambda",
    "td_lambda",
    "td_learning",
]


def _error(r_t: Tensor, discount_t: Tensor, bootstrap_t: Tensor, prediction_tm1: Tensor, stop: bool) -> Tensor:
    target_tm1 = torch.addcmul(r_t, discount_t, bootstrap_t)
    return (target_tm1.detach() if stop else target_tm1) - prediction_tm1


def td_learning(
    v_tm1: Tensor, r_t: Tensor, discount_t: Tensor, v_t: Tensor, stop_target_gradients: bool = True
) -> Tensor:
    """Temporal-difference error of a state value.

        error = r_t + discount_t v_t - v_tm1

    Paper: "Learning to Predict by the Methods of Temporal Differences", Sutton 1988
    (https://doi.org/10.1007/BF00115009).

    Args:
        v_tm1: (*) value at the source state.
        r_t: (*) reward.
        discount_t: (*) discount; 0 at a termination.
        v_t: (*) value at the destination state.
        stop_target_gradients: detach the target r_t + discount_t v_t.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(v_tm1=(v_tm1, "float *"), r_t=(r_t, "float *"), discount_t=(discount_t, "float *"), v_t=(v_t, "float *"))
    return _error(r_t, discount_t, v_t, v_tm1, stop_target_gradients)


def td_lambda(
    v_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    v_t: Tensor,
    lambda_: float | Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """TD(lambda) errors: lambda-returns minus values.

        error_t = G_t^lambda - v_t

    Paper: "Learning to Predict by the Methods of Temporal Differences", Sutton 1988
    (https://doi.org/10.1007/BF00115009).

    Args:
        v_tm1: (T, *) values at times 0 ... T-1.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        v_t: (T, *) values at times 1 ... T.
        lambda_: a number, or (T, *).
        stop_target_gradients: detach the returns.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        v_tm1=(v_tm1, "float T *"), r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), v_t=(v_t, "float T *")
    )
    return lambda_returns(r_t, discount_t, v_t, lambda_, stop_target_gradients) - v_tm1


def sarsa(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    a_t: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """SARSA's temporal-difference error: bootstrap from the action taken next.

        error = r_t + discount_t q_t[a_t] - q_tm1[a_tm1]

    Paper: "On-Line Q-Learning Using Connectionist Systems", Rummery & Niranjan 1994.

    Args:
        q_tm1: (*, A) action values at the source state.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        q_t: (*, A) action values at the destination state.
        a_t: (*) integer, action taken there.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float * A"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        q_t=(q_t, "float * A"),
        a_t=(a_t, "int *"),
    )
    return _error(r_t, discount_t, batched_index(q_t, a_t), batched_index(q_tm1, a_tm1), stop_target_gradients)


def expected_sarsa(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    probs_a_t: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Expected SARSA's temporal-difference error: bootstrap from the policy's mean value.

        error = r_t + discount_t sum_a probs_a_t[a] q_t[a] - q_tm1[a_tm1]

    Paper: "A Theoretical and Empirical Analysis of Expected Sarsa", van Seijen et al. 2009
    (https://doi.org/10.1109/ADPRL.2009.4927542).

    Args:
        q_tm1: (*, A) action values at the source state.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        q_t: (*, A) action values at the destination state.
        probs_a_t: (*, A) the policy's probabilities there.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float * A"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        q_t=(q_t, "float * A"),
        probs_a_t=(probs_a_t, "float * A"),
    )
    expected_q_t = (probs_a_t * q_t).sum(-1)
    return _error(r_t, discount_t, expected_q_t, batched_index(q_tm1, a_tm1), stop_target_gradients)


def sarsa_lambda(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    a_t: Tensor,
    lambda_: float | Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """SARSA(lambda) errors: lambda-returns over the values of the actions taken.

        error_t = G_t^lambda(v = q_t[a_t]) - q_tm1[a_tm1]

    Paper: "Reinforcement Learning: An Introduction", Sutton & Barto 2018, chapter 12.

    Args:
        q_tm1: (T, *, A) action values at times 0 ... T-1.
        a_tm1: (T, *) integer, actions at times 0 ... T-1.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        q_t: (T, *, A) action values at times 1 ... T.
        a_t: (T, *) integer, actions at times 1 ... T.
        lambda_: a number, or (T, *).
        stop_target_gradients: detach the returns.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float T * A"),
        a_tm1=(a_tm1, "int T *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        q_t=(q_t, "float T * A"),
        a_t=(a_t, "int T *"),
    )
    target_tm1 = lambda_returns(r_t, discount_t, batched_index(q_t, a_t), lambda_, stop_target_gradients)
    return target_tm1 - batched_index(q_tm1, a_tm1)


def q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Q-learning's temporal-difference error: bootstrap from the best action.

        error = r_t + discount_t max_a q_t[a] - q_tm1[a_tm1]

    Paper: "Q-learning", Watkins & Dayan 1992 (https://doi.org/10.1007/BF00992698).

    Args:
        q_tm1: (*, A) action values at the source state.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        q_t: (*, A) action values at the destination state.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float * A"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        q_t=(q_t, "float * A"),
    )
    return _error(r_t, discount_t, q_t.amax(-1), batched_index(q_tm1, a_tm1), stop_target_gradients)


def double_q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t_value: Tensor,
    q_t_selector: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Double Q-learning's temporal-difference error: one estimate selects the action, another values it.

        error = r_t + discount_t q_t_value[argmax_a q_t_selector[a]] - q_tm1[a_tm1]

    Paper: "Double Q-learning", van Hasselt 2010
    (https://papers.nips.cc/paper/2010/hash/091d584fced301b442654dd8c23b3fc9-Abstract.html).

    Args:
        q_tm1: (*, A) action values at the source state.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        q_t_value: (*, A) action values at the destination state, for the target.
        q_t_selector: (*, A) action values at the destination state, for the choice; no gradient reaches it.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float * A"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        q_t_value=(q_t_value, "float * A"),
        q_t_selector=(q_t_selector, "float * A"),
    )
    bootstrap_t = batched_index(q_t_value, q_t_selector.argmax(-1))
    return _error(r_t, discount_t, bootstrap_t, batched_index(q_tm1, a_tm1), stop_target_gradients)


def persistent_q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    action_gap_scale: float,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Persistent Q-learning's temporal-difference error: the target leans towards repeating the action.

        error = r_t + discount_t ((1 - s) max_a q_t[a] + s q_t[a_tm1]) - q_tm1[a_tm1],    s = action_gap_scale

    Paper: "Increasing the Action Gap: New Operators for Reinforcement Learning", Bellemare et al. 2016
    (https://arxiv.org/abs/1512.04860).

    Args:
        q_tm1: (*, A) action values at the source state.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        q_t: (*, A) action values at the destination state.
        action_gap_scale: weight of repeating the action, in [0, 1].
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float * A"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        q_t=(q_t, "float * A"),
    )
    bootstrap_t = (1 - action_gap_scale) * q_t.amax(-1) + action_gap_scale * batched_index(q_t, a_tm1)
    return _error(r_t, discount_t, bootstrap_t, batched_index(q_tm1, a_tm1), stop_target_gradients)


def qv_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    v_t: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """QV-learning's temporal-difference error: action values bootstrap from a state value.

        error = r_t + discount_t v_t - q_tm1[a_tm1]

    Paper: "Two Novel On-policy Reinforcement Learning Algorithms based on TD(lambda)-methods", Wiering & van Hasselt
    2007
    (https://doi.org/10.1109/ADPRL.2007.368200).

    Args:
        q_tm1: (*, A) action values at the source state.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        v_t: (*) value of the destination state.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float * A"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        v_t=(v_t, "float *"),
    )
    return _error(r_t, discount_t, v_t, batched_index(q_tm1, a_tm1), stop_target_gradients)


def qv_max(v_tm1: Tensor, r_t: Tensor, discount_t: Tensor, q_t: Tensor, stop_target_gradients: bool = True) -> Tensor:
    """QVMAX's temporal-difference error: a state value bootstraps from the best action value.

        error = r_t + discount_t max_a q_t[a] - v_tm1

    Paper: "The QV Family Compared to Other Reinforcement Learning Algorithms", Wiering & van Hasselt 2009
    (https://doi.org/10.1109/ADPRL.2009.4927532).

    Args:
        v_tm1: (*) value of the source state.
        r_t: (*) reward.
        discount_t: (*).
        q_t: (*, A) action values at the destination state.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(v_tm1=(v_tm1, "float *"), r_t=(r_t, "float *"), discount_t=(discount_t, "float *"), q_t=(q_t, "float * A"))
    return _error(r_t, discount_t, q_t.amax(-1), v_tm1, stop_target_gradients)


def q_lambda(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    lambda_: float | Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Peng's Q(lambda) errors: lambda-returns over the best action values.

        error_t = G_t^lambda(v = max_a q_t[a]) - q_tm1[a_tm1]

    Paper: "Incremental Multi-Step Q-Learning", Peng & Williams 1996 (https://doi.org/10.1007/BF00114731).

    Args:
        q_tm1: (T, *, A) action values at times 0 ... T-1.
        a_tm1: (T, *) integer, actions at times 0 ... T-1.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        q_t: (T, *, A) action values at times 1 ... T.
        lambda_: a number, or (T, *).
        stop_target_gradients: detach the returns.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float T * A"),
        a_tm1=(a_tm1, "int T *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        q_t=(q_t, "float T * A"),
    )
    return lambda_returns(r_t, discount_t, q_t.amax(-1), lambda_, stop_target_gradients) - batched_index(q_tm1, a_tm1)


def retrace(
    q_tm1: Tensor,
    q_t: Tensor,
    a_tm1: Tensor,
    a_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    pi_t: Tensor,
    mu_t: Tensor,
    lambda_: float,
    eps: float = 1e-8,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Retrace(lambda) errors: off-policy returns whose traces are cut where the policies differ.

        error_t = G_t - q_tm1[a_tm1],    c_t = lambda min(1, pi_t[a_t] / (mu_t + eps))

    with G_t as in `general_off_policy_returns_from_action_values`.

    Paper: "Safe and Efficient Off-Policy Reinforcement Learning", Munos et al. 2016 (https://arxiv.org/abs/1606.02647).

    Args:
        q_tm1: (T, *, A) action values at times 0 ... T-1.
        q_t: (T, *, A) action values at times 1 ... T.
        a_tm1: (T, *) integer, actions at times 0 ... T-1.
        a_t: (T, *) integer, actions at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        pi_t: (T, *, A) target policy's probabilities at times 1 ... T.
        mu_t: (T, *) behavior policy's probabilities of a_t.
        lambda_: a number.
        eps: added to mu_t.
        stop_target_gradients: detach the returns.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float T * A"),
        q_t=(q_t, "float T * A"),
        a_tm1=(a_tm1, "int T *"),
        a_t=(a_t, "int T *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        pi_t=(pi_t, "float T * A"),
        mu_t=(mu_t, "float T *"),
    )
    check_numeric("lambda_", lambda_, mu_t)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not stop_target_gradients):
        ratio_t = batched_index(pi_t, a_t) / (mu_t + eps)
        c_t = torch.minimum(ratio_t, torch.ones_like(ratio_t)) * lambda_
        target_tm1 = general_off_policy_returns_from_action_values(q_t, a_t, r_t, discount_t, c_t, pi_t)
    return target_tm1 - batched_index(q_tm1, a_tm1)


def retrace_continuous(
    q_tm1: Tensor,
    q_t: Tensor,
    v_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    log_rhos: Tensor,
    lambda_: float | Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Retrace(lambda) errors where actions cannot be enumerated: values of the sampled actions and of the states.

        error_t = G_t - q_tm1,    c_t = lambda min(1, exp(log_rhos_t))

    with G_t as in `general_off_policy_returns_from_q_and_v`.

    Paper: "Safe and Efficient Off-Policy Reinforcement Learning", Munos et al. 2016 (https://arxiv.org/abs/1606.02647).

    Args:
        q_tm1: (T, *) values of the actions taken at times 0 ... T-1.
        q_t: (T-1, *) values of the actions taken at times 1 ... T-1.
        v_t: (T, *) values under the target policy at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        log_rhos: (T-1, *) log pi/mu of the actions at times 1 ... T-1.
        lambda_: a number, or (T-1, *).
        stop_target_gradients: detach the returns.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_tm1=(q_tm1, "float T *"),
        q_t=(q_t, "float T-1 *"),
        v_t=(v_t, "float T *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
        log_rhos=(log_rhos, "float T-1 *"),
    )
    check_numeric("lambda_", lambda_, log_rhos)
    rho_t = log_rhos.exp()
    c_t = torch.minimum(rho_t, torch.ones_like(rho_t)) * lambda_
    return general_off_policy_returns_from_q_and_v(q_t, v_t, r_t, discount_t, c_t, stop_target_gradients) - q_tm1
