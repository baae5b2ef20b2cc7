"""What several learning agents need beyond one: value mixing, counterfactual advantages, sequential ratios."""

import torch
from torch import Tensor

from marl.ops.checks import check, check_numeric
from marl.ops.indexing import batched_index
from marl.ops.returns import lambda_returns

__all__ = [
    "coma_advantage",
    "greedy_action_values",
    "happo_ratio_product",
    "monotonic_mixing",
    "qmix_lambda_targets",
    "qmix_targets",
    "sum_mixing",
    "vdn_targets",
]


def coma_advantage(q_t: Tensor, a_t: Tensor, pi_t: Tensor) -> Tensor:
    """Counterfactual advantage: an agent's action against its own policy's average, the other agents' actions held
    fixed.

        A = Q(s, (a_-i, a_i)) - sum_a' pi_i(a') Q(s, (a_-i, a'))

    Paper: "Counterfactual Multi-Agent Policy Gradients", Foerster et al. 2018 (https://arxiv.org/abs/1705.08926).

    Args:
        q_t: (*, A) for each agent, the joint action's value at each own action, the others' as taken; agents are
            among *.
        a_t: (*) integer, own action taken.
        pi_t: (*, A) own policy's probabilities; 0 where illegal.

    Returns:
        (*). Nothing is detached; `policy_gradient_loss` detaches advantages itself.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(q_t=(q_t, "float * A"), a_t=(a_t, "int *"), pi_t=(pi_t, "float * A"))
    return batched_index(q_t, a_t) - (pi_t * q_t).sum(-1)


def happo_ratio_product(ratio_t: Tensor, order: Tensor, mask: Tensor | None = None) -> Tensor:
    """For each agent, the product of the probability ratios of the agents updated before it.

        M_{i_m} = prod_{j < m} ratio_{i_j},    for the update order i_1 ... i_N;    M_{i_1} = 1

    An agent's surrogate uses M times the joint advantage, so that each update builds on those before it.

    Paper: "Trust Region Policy Optimisation in Multi-Agent Reinforcement Learning", Kuba et al. 2022
    (https://arxiv.org/abs/2109.11251).

    Args:
        ratio_t: (*, N) new over old probability of each agent's action, after its update.
        order: (N,) integer, a permutation: the agents from first to last updated.
        mask: (*, N) bool, where the agent acted (its ratio counts as 1 elsewhere), or None for all.

    Returns:
        (*, N) by agent (not by place in the order). Detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(ratio_t=(ratio_t, "float * N"), order=(order, "int N"))
    ratio_t = ratio_t.detach()
    if mask is not None:
        check(ratio_t=(ratio_t, "float * N"), mask=(mask, "bool * N"))
        ratio_t = torch.where(mask, ratio_t, 1.0)
    ordered = ratio_t[..., order]  # (*, N) by place
    before = torch.cat([torch.ones_like(ordered[..., :1]), ordered[..., :-1]], -1).cumprod(-1)
    place = torch.empty_like(order).scatter(
        0, order.long(), torch.arange(len(order), device=order.device).to(order.dtype)
    )
    return before[..., place]


def greedy_action_values(q_t_value: Tensor, q_t_selector: Tensor, action_mask_t: Tensor | None = None) -> Tensor:
    """Each agent's value of its own greedy legal action, selected and valued by separate estimates.

        v = q_t_value[argmax_a q_t_selector[a]],    illegal selector entries replaced by a large negative finite number

    Paper: "Deep Reinforcement Learning with Double Q-learning", van Hasselt et al. 2016
    (https://arxiv.org/abs/1509.06461).

    Args:
        q_t_value: (*, A) values, usually of the target network; agents are among *.
        q_t_selector: (*, A) values that choose; no gradient reaches them.
        action_mask_t: (*, A) bool, or None for all.

    Returns:
        (*). Differentiable in q_t_value.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(q_t_value=(q_t_value, "float * A"), q_t_selector=(q_t_selector, "float * A"))
    if action_mask_t is not None:
        check(q_t_value=(q_t_value, "float * A"), action_mask_t=(action_mask_t, "bool * A"))
        q_t_selector = torch.where(action_mask_t, q_t_selector, torch.finfo(q_t_selector.dtype).min / 2)
    return batched_index(q_t_value, q_t_selector.argmax(-1))


def sum_mixing(q: Tensor, mask: Tensor | None = None) -> Tensor:
    """VDN's joint value: the sum of the agents' own.

        Q_tot = sum_i Q_i

    Paper: "Value-Decomposition Networks For Cooperative Multi-Agent Learning", Sunehag et al. 2018
    (https://arxiv.org/abs/1706.05296).

    Args:
        q: (*, N) values of the agents' own actions.
        mask: (*, N) bool, agents that count, or None for all.

    Returns:
        (*). Differentiable.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(q=(q, "float * N"))
    if mask is None:
        return q.sum(-1)
    check(q=(q, "float * N"), mask=(mask, "bool * N"))
    return torch.where(mask, q, 0.0).sum(-1)


def monotonic_mixing(
    q: Tensor, w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor, mask: Tensor | None = None
) -> Tensor:
    """QMIX's joint value: a two-layer network of the agents' own values with weights made non-negative.

        Q_tot = |w_2| . ELU(q |w_1| + b_1) + b_2,    so dQ_tot / dQ_i >= 0

    Paper: "QMIX: Monotonic Value Function Factorisation for Deep Multi-Agent Reinforcement Learning", Rashid et al.
    2018
    (https://arxiv.org/abs/1803.11485).

    Args:
        q: (*, N) values of the agents' own actions.
        w_1: (*, N, M) first layer's weights, from a hypernetwork of the state.
        b_1: (*, M).
        w_2: (*, M).
        b_2: (*).
        mask: (*, N) bool, agents that count (the value of others enters as 0), or None for all.

    Returns:
        (*). Differentiable in all.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q=(q, "float * N"),
        w_1=(w_1, "float * N M"),
        b_1=(b_1, "float * M"),
        w_2=(w_2, "float * M"),
        b_2=(b_2, "float *"),
    )
    if mask is not None:
        check(q=(q, "float * N"), mask=(mask, "bool * N"))
        q = torch.where(mask, q, 0.0)
    hidden = torch.nn.functional.elu((q.unsqueeze(-2) @ w_1.abs()).squeeze(-2) + b_1)  # (*, M)
    return (hidden * w_2.abs()).sum(-1) + b_2


def vdn_targets(r_t: Tensor, discount_t: Tensor, q_t: Tensor, mask_t: Tensor | None = None) -> Tensor:
    """One-step targets of the joint value under sum mixing.

        y = r_t + discount_t sum_i Q_i(a_i*)

    Paper: "Value-Decomposition Networks For Cooperative Multi-Agent Learning", Sunehag et al. 2018
    (https://arxiv.org/abs/1706.05296).

    Args:
        r_t: (*) team reward.
        discount_t: (*) team discount; 0 at the team's termination.
        q_t: (*, N) greedy values at the destination, as from `greedy_action_values`.
        mask_t: (*, N) bool, agents that act there, or None for all.

    Returns:
        (*). Detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(r_t=(r_t, "float *"), discount_t=(discount_t, "float *"), q_t=(q_t, "float * N"))
    if mask_t is not None:
        check(q_t=(q_t, "float * N"), mask_t=(mask_t, "bool * N"))
    with torch.no_grad():
        return torch.addcmul(r_t, discount_t, sum_mixing(q_t, mask_t))


def qmix_targets(
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    w_1: Tensor,
    b_1: Tensor,
    w_2: Tensor,
    b_2: Tensor,
    mask_t: Tensor | None = None,
) -> Tensor:
    """One-step targets of the joint value under monotonic mixing.

        y = r_t + discount_t monotonic_mixing(Q_1(a_1*), ..., Q_N(a_N*))

    Paper: "QMIX: Monotonic Value Function Factorisation for Deep Multi-Agent Reinforcement Learning", Rashid et al.
    2018
    (https://arxiv.org/abs/1803.11485).

    Args:
        r_t: (*) team reward.
        discount_t: (*) team discount; 0 at the team's termination.
        q_t: (*, N) greedy values at the destination, as from `greedy_action_values`.
        w_1: (*, N, M) target mixer's weights there.
        b_1: (*, M).
        w_2: (*, M).
        b_2: (*).
        mask_t: (*, N) bool, agents that act there, or None for all.

    Returns:
        (*). Detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        q_t=(q_t, "float * N"),
        w_1=(w_1, "float * N M"),
        b_1=(b_1, "float * M"),
        w_2=(w_2, "float * M"),
        b_2=(b_2, "float *"),
    )
    if mask_t is not None:
        check(q_t=(q_t, "float * N"), mask_t=(mask_t, "bool * N"))
    with torch.no_grad():
        return torch.addcmul(r_t, discount_t, monotonic_mixing(q_t, w_1, b_1, w_2, b_2, mask_t))


def qmix_lambda_targets(r_t: Tensor, discount_t: Tensor, q_tot_t: Tensor, lambda_: float | Tensor) -> Tensor:
    """TD(lambda) targets of the joint value.

        y_t = r_{t+1} + discount_{t+1} ((1 - lambda) Qtot_{t+1} + lambda y_{t+1}),    y_T = Qtot_T

    Paper: "Rethinking the Implementation Tricks and Monotonicity Constraint in Cooperative Multi-Agent Reinforcement
    Learning", Hu et al. 2021 (https://arxiv.org/abs/2102.03479), after Peng's Q(lambda).

    Args:
        r_t: (T, *) team rewards at times 1 ... T.
        discount_t: (T, *) team discounts.
        q_tot_t: (T, *) mixed greedy values at times 1 ... T, by whichever mixer.
        lambda_: a number, or (T, *).

    Returns:
        (T, *). Detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), q_tot_t=(q_tot_t, "float T *"))
    check_numeric("lambda_", lambda_, r_t)
    return lambda_returns(r_t, discount_t, q_tot_t, lambda_, stop_target_gradients=True)
