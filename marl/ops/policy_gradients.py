"""Policy-gradient losses. Time is the first axis, and the losses are means over it: (T, *, ...) -> (*)."""

import torch
from torch import Tensor

from marl.ops.checks import check
from marl.ops.indexing import batched_index
from marl.ops.losses import l2_loss

__all__ = [
    "clipped_surrogate_pg_loss",
    "dpg_loss",
    "entropy_loss",
    "policy_gradient_loss",
    "qpg_loss",
    "rm_loss",
    "rpg_loss",
]


def policy_gradient_loss(
    logits_t: Tensor, a_t: Tensor, adv_t: Tensor, w_t: Tensor, use_stop_gradient: bool = True
) -> Tensor:
    """REINFORCE's surrogate loss: weighted log-probabilities times advantages.

        loss = -mean_t w_t adv_t log softmax(logits_t)[a_t]

    Paper: "Policy Gradient Methods for Reinforcement Learning with Function Approximation", Sutton et al. 1999.

    Args:
        logits_t: (T, *, A).
        a_t: (T, *) integer.
        adv_t: (T, *) advantages.
        w_t: (T, *) weights, e.g. 0 where an action does not count.
        use_stop_gradient: detach adv_t.

    Returns:
        (*), the mean over T.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(logits_t=(logits_t, "float T * A"), a_t=(a_t, "int T *"), adv_t=(adv_t, "float T *"), w_t=(w_t, "float T *"))
    if use_stop_gradient:
        adv_t = adv_t.detach()
    log_pi_a_t = batched_index(logits_t.log_softmax(-1), a_t)
    return -(w_t * adv_t * log_pi_a_t).mean(0)


def entropy_loss(logits_t: Tensor, w_t: Tensor) -> Tensor:
    """Negative weighted entropy of a softmax policy.

        loss = mean_t w_t sum_a p_t[a] log p_t[a],    p_t = softmax(logits_t)

    Paper: "Function Optimization using Connectionist Reinforcement Learning Algorithms", Williams & Peng 1991
    (https://doi.org/10.1080/09540099108946587).

    Args:
        logits_t: (T, *, A); finite.
        w_t: (T, *) weights.

    Returns:
        (*), the mean over T. Nothing is detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(logits_t=(logits_t, "float T * A"), w_t=(w_t, "float T *"))
    log_pi_t = logits_t.log_softmax(-1)
    return (w_t * (log_pi_t.exp() * log_pi_t).sum(-1)).mean(0)


def dpg_loss(a_t: Tensor, dqda_t: Tensor, dqda_clipping: float | None = None, use_stop_gradient: bool = True) -> Tensor:
    """Deterministic policy gradient as a regression of the action onto itself moved up the value's gradient.

        loss = (a_t + dqda_t - a_t)^2 / 2,    the target a_t + dqda_t held fixed, so dloss/da = -dq/da

    Paper: "Deterministic Policy Gradient Algorithms", Silver et al. 2014
    (https://proceedings.mlr.press/v32/silver14.html).

    Args:
        a_t: (*, A) action.
        dqda_t: (*, A) gradient of the value with respect to the action.
        dqda_clipping: largest Euclidean norm of dqda_t over its last axis; None for no clipping.
        use_stop_gradient: detach the target.

    Returns:
        (*, A), one loss per action dimension.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(a_t=(a_t, "float * A"), dqda_t=(dqda_t, "float * A"))
    if dqda_clipping is not None:
        smallest = torch.finfo(dqda_t.dtype).tiny
        norm = dqda_t.square().sum(-1, keepdim=True).clamp(min=smallest).sqrt()
        dqda_t = dqda_t * (dqda_clipping / norm).clamp(max=1)
    target = a_t + dqda_t
    return l2_loss((target.detach() if use_stop_gradient else target) - a_t)


def qpg_loss(logits_t: Tensor, q_t: Tensor, use_stop_gradient: bool = True) -> Tensor:
    """Q-based policy gradient: every action is pushed by its advantage, not only the one taken.

        loss = -mean_t sum_a p_t[a] (q_t[a] - sum_b p_t[b] q_t[b]),    p_t = softmax(logits_t)

    Paper: "Actor-Critic Policy Optimization in Partially Observable Multiagent Environments", Srinivasan et al. 2018
    (https://arxiv.org/abs/1810.09026).

    Args:
        logits_t: (T, *, A).
        q_t: (T, *, A) action values.
        use_stop_gradient: detach the advantage.

    Returns:
        (*), the mean over T.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(logits_t=(logits_t, "float T * A"), q_t=(q_t, "float T * A"))
    pi_t = logits_t.softmax(-1)
    advantage_t = q_t - (pi_t * q_t).sum(-1).unsqueeze(-1)
    if use_stop_gradient:
        advantage_t = advantage_t.detach()
    return -(pi_t * advantage_t).sum(-1).mean(0)


def rm_loss(logits_t: Tensor, q_t: Tensor, use_stop_gradient: bool = True) -> Tensor:
    """Regret-matching policy gradient: only actions better than the policy's mean are pushed.

        loss = -mean_t sum_a p_t[a] max(0, q_t[a] - sum_b p_t[b] q_t[b]),    p_t = softmax(logits_t)

    Paper: "Actor-Critic Policy Optimization in Partially Observable Multiagent Environments", Srinivasan et al. 2018
    (https://arxiv.org/abs/1810.09026).

    Args:
        logits_t: (T, *, A).
        q_t: (T, *, A) action values.
        use_stop_gradient: detach the regret. q_t is detached either way.

    Returns:
        (*), the mean over T.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(logits_t=(logits_t, "float T * A"), q_t=(q_t, "float T * A"))
    q_t = q_t.detach()
    pi_t = logits_t.softmax(-1)
    regret_t = (q_t - (pi_t * q_t).sum(-1).unsqueeze(-1)).relu()
    if use_stop_gradient:
        regret_t = regret_t.detach()
    return -(pi_t * regret_t).sum(-1).mean(0)


def rpg_loss(logits_t: Tensor, q_t: Tensor, use_stop_gradient: bool = True) -> Tensor:
    """Regret policy gradient: minimize the sum of positive regrets.

        loss = mean_t sum_a max(0, q_t[a] - sum_b p_t[b] q_t[b]),    p_t = softmax(logits_t)

    Paper: "Actor-Critic Policy Optimization in Partially Observable Multiagent Environments", Srinivasan et al. 2018
    (https://arxiv.org/abs/1810.09026).

    Args:
        logits_t: (T, *, A).
        q_t: (T, *, A) action values.
        use_stop_gradient: detach q_t.

    Returns:
        (*), the mean over T.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(logits_t=(logits_t, "float T * A"), q_t=(q_t, "float T * A"))
    if use_stop_gradient:
        q_t = q_t.detach()
    regret_t = (q_t - (logits_t.softmax(-1) * q_t).sum(-1).unsqueeze(-1)).relu()
    return regret_t.sum(-1).mean(0)


def clipped_surrogate_pg_loss(
    prob_ratios_t: Tensor, adv_t: Tensor, epsilon: float, use_stop_gradient: bool = True
) -> Tensor:
    """PPO's clipped surrogate loss.

        loss = -mean_t min(ratio_t adv_t, clip(ratio_t, 1 - epsilon, 1 + epsilon) adv_t)

    Paper: "Proximal Policy Optimization Algorithms", Schulman et al. 2017 (https://arxiv.org/abs/1707.06347).

    Args:
        prob_ratios_t: (T, *) new probability of the action over its old one.
        adv_t: (T, *) advantages.
        epsilon: clipping width.
        use_stop_gradient: detach adv_t.

    Returns:
        (*), the mean over T.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(prob_ratios_t=(prob_ratios_t, "float T *"), adv_t=(adv_t, "float T *"))
    if use_stop_gradient:
        adv_t = adv_t.detach()
    clipped_t = prob_ratios_t.clamp(1 - epsilon, 1 + epsilon)
    # On the border the clipped branch counts as clipped, as in RLax: `clamp` alone would pass its gradient on.
    inside = (prob_ratios_t > 1 - epsilon) & (prob_ratios_t < 1 + epsilon)
    clipped_t = torch.where(inside, clipped_t, clipped_t.detach())
    return -torch.minimum(prob_ratios_t * adv_t, clipped_t * adv_t).mean(0)
