"""Value learning for whole return distributions: categorical (fixed atoms) and quantile."""

import torch
from torch import Tensor

from marl.ops.checks import check
from marl.ops.losses import huber_loss

__all__ = [
    "categorical_double_q_learning",
    "categorical_l2_project",
    "categorical_q_learning",
    "categorical_td_learning",
    "quantile_expected_sarsa",
    "quantile_q_learning",
    "quantile_regression_loss",
]


def categorical_l2_project(z_p: Tensor, probs: Tensor, z_q: Tensor) -> Tensor:
    """Project a categorical distribution onto another support, with the least squared distance between the two CDFs.

    Each source atom shares its mass linearly between the two target atoms around it; mass outside goes to the nearest
    end:

        q_i = sum_j probs_j hat_i(z_p_j),    hat_i: 1 at z_q_i, falling linearly to 0 at z_q_{i-1} and z_q_{i+1}

    Paper: "A Distributional Perspective on Reinforcement Learning", Bellemare et al. 2017
    (https://arxiv.org/abs/1707.06887).

    Args:
        z_p: (*, P) or (P,) source atoms.
        probs: (*, P) their probabilities.
        z_q: (*, Q) or (Q,) target atoms, increasing.

    Returns:
        (*, Q). Differentiable in z_p and probs.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(probs=(probs, "float * P"), z_p=(z_p, "float ?* P"), z_q=(z_q, "float ?* Q"))
    if z_q.shape[-1] == 1:
        return probs.sum(-1, keepdim=True)
    z = torch.minimum(torch.maximum(z_p, z_q[..., :1]), z_q[..., -1:]).unsqueeze(-1)  # (*, P, 1)
    atoms = z_q.unsqueeze(-2)  # (*, 1, Q)
    gap = atoms[..., 1:] - atoms[..., :-1]  # (*, 1, Q-1)
    progress = ((z - atoms[..., :-1]) / gap).clamp(0, 1)  # (*, P, Q-1): 0 left of the gap, 1 right of it
    # hat_i is what has entered gap i-1 less what has moved on through gap i.
    entered = torch.cat([torch.ones_like(progress[..., :1]), progress], -1)
    left = torch.cat([progress, torch.zeros_like(progress[..., :1])], -1)
    return torch.einsum("...p,...pq->...q", probs, (entered - left).expand(*probs.shape, z_q.shape[-1]))


def _cross_entropy(target: Tensor, logits: Tensor, stop: bool) -> Tensor:
    return -((target.detach() if stop else target) * logits.log_softmax(-1)).sum(-1)


def _bellman_atoms(r_t: Tensor, discount_t: Tensor, atoms_t: Tensor) -> Tensor:
    return torch.addcmul(r_t.unsqueeze(-1), discount_t.unsqueeze(-1), atoms_t)  # (*, K)


def _row(values: Tensor, action: Tensor) -> Tensor:
    index = action.long()[..., None, None].expand(*action.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)  # (*, A, K) -> (*, K)


def categorical_td_learning(
    v_atoms_tm1: Tensor,
    v_logits_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    v_atoms_t: Tensor,
    v_logits_t: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Cross-entropy between a categorical state-value distribution and its projected one-step target.

        loss = -sum_k m_k log softmax(v_logits_tm1)_k,    m = project(r_t + discount_t v_atoms_t, softmax(v_logits_t))

    Paper: "A Distributional Perspective on Reinforcement Learning", Bellemare et al. 2017
    (https://arxiv.org/abs/1707.06887).

    Args:
        v_atoms_tm1: (*, K) or (K,) atoms at the source state.
        v_logits_tm1: (*, K) logits there.
        r_t: (*) reward.
        discount_t: (*).
        v_atoms_t: (*, L) or (L,) atoms at the destination state.
        v_logits_t: (*, L) logits there.
        stop_target_gradients: detach the target m.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        v_logits_tm1=(v_logits_tm1, "float * K"),
        v_atoms_tm1=(v_atoms_tm1, "float ?* K"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        v_logits_t=(v_logits_t, "float * L"),
        v_atoms_t=(v_atoms_t, "float ?* L"),
    )
    target_z = _bellman_atoms(r_t, discount_t, v_atoms_t)
    target = categorical_l2_project(target_z, v_logits_t.softmax(-1), v_atoms_tm1)
    return _cross_entropy(target, v_logits_tm1, stop_target_gradients)


def categorical_q_learning(
    q_atoms_tm1: Tensor,
    q_logits_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_atoms_t: Tensor,
    q_logits_t: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Cross-entropy between a categorical action-value distribution and its projected Q-learning target (C51).

        loss = -sum_k m_k log softmax(q_logits_tm1[a_tm1])_k,    m = project(r_t + discount_t q_atoms_t, p_t[a*])
        p_t = softmax(q_logits_t),    a* = argmax_a sum_k p_t[a, k] q_atoms_t[k]

    Paper: "A Distributional Perspective on Reinforcement Learning", Bellemare et al. 2017
    (https://arxiv.org/abs/1707.06887).

    Args:
        q_atoms_tm1: (*, K) or (K,) atoms at the source state.
        q_logits_tm1: (*, A, K) logits there.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        q_atoms_t: (*, L) or (L,) atoms at the destination state.
        q_logits_t: (*, A, L) logits there.
        stop_target_gradients: detach the target m.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(q_logits_t=(q_logits_t, "float * A L"), q_atoms_t=(q_atoms_t, "float ?* L"))
    q_t_selector = (q_logits_t.softmax(-1) * q_atoms_t.unsqueeze(-2)).sum(-1)  # (*, A)
    return categorical_double_q_learning(
        q_atoms_tm1, q_logits_tm1, a_tm1, r_t, discount_t, q_atoms_t, q_logits_t, q_t_selector, stop_target_gradients
    )


def categorical_double_q_learning(
    q_atoms_tm1: Tensor,
    q_logits_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_atoms_t: Tensor,
    q_logits_t: Tensor,
    q_t_selector: Tensor,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Categorical Q-learning whose next action is chosen by separate action values.

        as `categorical_q_learning`, with a* = argmax_a q_t_selector[a]

    Papers: "A Distributional Perspective on Reinforcement Learning", Bellemare et al. 2017
    (https://arxiv.org/abs/1707.06887); "Double Q-learning", van Hasselt 2010.

    Args:
        q_atoms_tm1: (*, K) or (K,) atoms at the source state.
        q_logits_tm1: (*, A, K) logits there.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        q_atoms_t: (*, L) or (L,) atoms at the destination state.
        q_logits_t: (*, A, L) logits there.
        q_t_selector: (*, A) action values that choose; no gradient reaches them.
        stop_target_gradients: detach the target m.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        q_logits_tm1=(q_logits_tm1, "float * A K"),
        q_atoms_tm1=(q_atoms_tm1, "float ?* K"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        q_logits_t=(q_logits_t, "float * A L"),
        q_atoms_t=(q_atoms_t, "float ?* L"),
        q_t_selector=(q_t_selector, "float * A"),
    )
    target_z = _bellman_atoms(r_t, discount_t, q_atoms_t)
    p_target_z = _row(q_logits_t, q_t_selector.argmax(-1)).softmax(-1)  # (*, L)
    target = categorical_l2_project(target_z, p_target_z, q_atoms_tm1)
    return _cross_entropy(target, _row(q_logits_tm1, a_tm1), stop_target_gradients)


def quantile_regression_loss(
    dist_src: Tensor,
    tau_src: Tensor,
    dist_target: Tensor,
    huber_param: float = 0.0,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Quantile regression between two distributions given by their quantiles.

        loss = sum_i mean_j |tau_i - 1[d_ij < 0]| L(d_ij),    d_ij = target_j - src_i

    where L is the absolute value, or the Huber loss divided by nothing if huber_param > 0.

    Paper: "Distributional Reinforcement Learning with Quantile Regression", Dabney et al. 2018
    (https://arxiv.org/abs/1710.10044).

    Args:
        dist_src: (*, M) source quantiles.
        tau_src: (*, M) or (M,) their probability levels.
        dist_target: (*, N) samples or quantiles of the target.
        huber_param: where the Huber loss turns linear; 0 for the absolute value.
        stop_target_gradients: here for RLax's signature; as there, gradients reach the target either way
            (`quantile_q_learning` and `quantile_expected_sarsa` detach theirs).

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(dist_src=(dist_src, "float * M"), tau_src=(tau_src, "float ?* M"), dist_target=(dist_target, "float * N"))
    delta = dist_target.unsqueeze(-2) - dist_src.unsqueeze(-1)  # (*, M, N)
    weight = (tau_src.unsqueeze(-1) - (delta < 0).to(delta.dtype)).abs()
    loss = huber_loss(delta, huber_param) if huber_param > 0 else delta.abs()
    return (weight * loss).mean(-1).sum(-1)


def _quantile_of_action(dist_q: Tensor, action: Tensor) -> Tensor:
    index = action.long()[..., None, None].expand(*dist_q.shape[:-1], 1)
    return dist_q.gather(-1, index).squeeze(-1)  # (*, M, A) -> (*, M)


def quantile_q_learning(
    dist_q_tm1: Tensor,
    tau_q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    dist_q_t_selector: Tensor,
    dist_q_t: Tensor,
    huber_param: float = 0.0,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Q-learning on quantiles: regress onto the target distribution of the action with the best mean.

        loss = quantile_regression(dist_q_tm1[:, a_tm1], r_t + discount_t dist_q_t[:, a*]),  a* = argmax_a mean_i
        selector[i, a]

    Paper: "Distributional Reinforcement Learning with Quantile Regression", Dabney et al. 2018
    (https://arxiv.org/abs/1710.10044).

    Args:
        dist_q_tm1: (*, M, A) quantiles at the source state.
        tau_q_tm1: (*, M) or (M,) their probability levels.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        dist_q_t_selector: (*, L, A) quantiles at the destination that choose; no gradient reaches them.
        dist_q_t: (*, N, A) quantiles at the destination, for the target.
        huber_param: see `quantile_regression_loss`.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        dist_q_tm1=(dist_q_tm1, "float * M A"),
        tau_q_tm1=(tau_q_tm1, "float ?* M"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        dist_q_t_selector=(dist_q_t_selector, "float * L A"),
        dist_q_t=(dist_q_t, "float * N A"),
    )
    a_t = dist_q_t_selector.mean(-2).argmax(-1)  # (*)
    target = _bellman_atoms(r_t, discount_t, _quantile_of_action(dist_q_t, a_t))
    if stop_target_gradients:
        target = target.detach()
    source = _quantile_of_action(dist_q_tm1, a_tm1)
    return quantile_regression_loss(source, tau_q_tm1, target, huber_param, stop_target_gradients)


def quantile_expected_sarsa(
    dist_q_tm1: Tensor,
    tau_q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    dist_q_t: Tensor,
    probs_a_t: Tensor,
    huber_param: float = 0.0,
    stop_target_gradients: bool = True,
) -> Tensor:
    """Expected SARSA on quantiles: regress onto the mixture, by the policy, of the target distributions of all actions.

        loss = sum_a probs_a_t[a] quantile_regression(dist_q_tm1[:, a_tm1], r_t + discount_t dist_q_t[:, a])

    Paper: "Distributional Reinforcement Learning with Quantile Regression", Dabney et al. 2018
    (https://arxiv.org/abs/1710.10044).

    Args:
        dist_q_tm1: (*, M, A) quantiles at the source state.
        tau_q_tm1: (*, M) or (M,) their probability levels.
        a_tm1: (*) integer, action taken there.
        r_t: (*) reward.
        discount_t: (*).
        dist_q_t: (*, N, A) quantiles at the destination, for the target.
        probs_a_t: (*, A) the policy's probabilities there.
        huber_param: see `quantile_regression_loss`.
        stop_target_gradients: detach the target.

    Returns:
        (*).

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        dist_q_tm1=(dist_q_tm1, "float * M A"),
        tau_q_tm1=(tau_q_tm1, "float ?* M"),
        a_tm1=(a_tm1, "int *"),
        r_t=(r_t, "float *"),
        discount_t=(discount_t, "float *"),
        dist_q_t=(dist_q_t, "float * N A"),
        probs_a_t=(probs_a_t, "float * A"),
    )
    actions = dist_q_t.shape[-1]
    target = _bellman_atoms(r_t.unsqueeze(-1), discount_t.unsqueeze(-1), dist_q_t.transpose(-1, -2))  # (*, A, N)
    if stop_target_gradients:
        target, probs_a_t = target.detach(), probs_a_t.detach()
    source = _quantile_of_action(dist_q_tm1, a_tm1).unsqueeze(-2)  # (*, 1, M)
    source = source.expand(*r_t.shape, actions, source.shape[-1])
    levels = tau_q_tm1.unsqueeze(-2).expand_as(source)
    loss = quantile_regression_loss(source, levels, target, huber_param, stop_target_gradients)  # (*, A)
    return (probs_a_t * loss).sum(-1)
