"""Returns and errors under non-linear value transforms: estimates live in a transformed space, returns in the
original one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from marl.ops.checks import check, check_numeric
from marl.ops.indexing import batched_index
from marl.ops.returns import (
    general_off_policy_returns_from_action_values,
    lambda_returns,
    n_step_bootstrapped_returns,
)
from marl.ops.transforms import (
    hyperbolic_arcsin,
    hyperbolic_sin,
    identity,
    signed_expm1,
    signed_hyperbolic,
    signed_logp1,
    signed_parabolic,
    transform_from_2hot,
    transform_to_2hot,
)

__all__ = [
    "DISCOUNT_TRANSFORM_PAIR",
    "HYPERBOLIC_SIN_PAIR",
    "IDENTITY_PAIR",
    "SIGNED_HYPERBOLIC_PAIR",
    "SIGNED_LOGP1_PAIR",
    "TxPair",
    "compose_tx",
    "muzero_pair",
    "transformed_general_off_policy_returns_from_action_values",
    "transformed_lambda_returns",
    "transformed_n_step_q_learning",
    "transformed_n_step_returns",
    "transformed_q_lambda",
    "transformed_retrace",
    "twohot_pair",
    "unbiased_transform_pair",
]


class TxPair(NamedTuple):
    """A transform and its inverse."""

    apply: Callable[[Tensor], Tensor]
    apply_inv: Callable[[Tensor], Tensor]


def _horizon_from_discount(discount: Tensor) -> Tensor:
    check(discount=(discount, "float *"))
    return -torch.log1p(-discount)


def _discount_from_horizon(x: Tensor) -> Tensor:
    check(x=(x, "float *"))
    return -torch.expm1(-x)


IDENTITY_PAIR = TxPair(identity, identity)
"""No transform: `apply = apply_inv = identity`."""

SIGNED_HYPERBOLIC_PAIR = TxPair(signed_hyperbolic, signed_parabolic)
"""The square-root scaling of values: `apply = signed_hyperbolic`, `apply_inv = signed_parabolic`, eps = 0.001."""

SIGNED_LOGP1_PAIR = TxPair(signed_logp1, signed_expm1)
"""The logarithmic scaling of values: `apply = signed_logp1`, `apply_inv = signed_expm1`."""

HYPERBOLIC_SIN_PAIR = TxPair(hyperbolic_arcsin, hyperbolic_sin)
"""`apply = hyperbolic_arcsin`, `apply_inv = hyperbolic_sin`."""

DISCOUNT_TRANSFORM_PAIR = TxPair(_horizon_from_discount, _discount_from_horizon)
"""Discounts in [0, 1) as logarithms of their horizons: `apply(x) = -log(1 - x)`, `apply_inv(y) = 1 - exp(-y)`."""


def twohot_pair(min_value: float, max_value: float, num_bins: int) -> TxPair:
    """The two-hot code and its mean: scalars (*) to weights (*, K) and back.

        apply = transform_to_2hot,    apply_inv = transform_from_2hot

    Paper: "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265).

    Args:
        min_value: place of the first bin.
        max_value: place of the last bin.
        num_bins: K.

    Returns:
        The pair.

    Raises:
        ValueError: (in the functions) as the two transforms.
    """
    return TxPair(
        lambda x: transform_to_2hot(x, min_value, max_value, num_bins),
        lambda x: transform_from_2hot(x, min_value, max_value, num_bins),
    )


def compose_tx(*tx_list: TxPair) -> TxPair:
    """Transforms in sequence: the first given is applied first and inverted last.

        apply = f_n o ... o f_1,    apply_inv = f_1^-1 o ... o f_n^-1

    Args:
        tx_list: any number of pairs.

    Returns:
        The pair.

    Raises:
        ValueError: (in the functions) as the parts.
    """

    def apply(x: Tensor) -> Tensor:
        for tx in tx_list:
            x = tx.apply(x)
        return x

    def apply_inv(x: Tensor) -> Tensor:
        for tx in reversed(tx_list):
            x = tx.apply_inv(x)
        return x

    return TxPair(apply, apply_inv)


def muzero_pair(min_value: float, max_value: float, num_bins: int, tx: TxPair) -> TxPair:
    """Squash the scalar, then code it as two-hot.

        apply = two_hot o tx,    apply_inv = tx^-1 o mean

    Paper: "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265).

    Args:
        min_value: place of the first bin, in the squashed space.
        max_value: place of the last bin.
        num_bins: K.
        tx: the squashing, e.g. SIGNED_HYPERBOLIC_PAIR.

    Returns:
        The pair, between (*) and (*, K).

    Raises:
        ValueError: (in the functions) as the parts.
    """
    return compose_tx(tx, twohot_pair(min_value, max_value, num_bins))


def unbiased_transform_pair(min_value: float, max_value: float, num_bins: int, tx: TxPair) -> TxPair:
    """Code a scalar as two-hot over bins that are themselves spread out by the inverse squashing, so that means stay
    means.

        bins = tx^-1(linspace(min, max)),    apply: weights of the two bins around x,    apply_inv: sum_i probs_i bins_i

    Paper: "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265); the unbiased form as in "Stop Regressing", Farebrother et al. 2024
    (https://arxiv.org/abs/2403.03950).

    Args:
        min_value: place of the first bin, in the squashed space.
        max_value: place of the last bin.
        num_bins: K.
        tx: the squashing.

    Returns:
        The pair, between (*) and (*, K).

    Raises:
        ValueError: (in the functions) inputs are not floating point or have another number of bins.
    """

    def bins_like(x: Tensor) -> Tensor:
        return tx.apply_inv(torch.linspace(min_value, max_value, num_bins, dtype=x.dtype, device=x.device))

    def apply(x: Tensor) -> Tensor:
        check(x=(x, "float *"))
        bins = bins_like(x)
        x = torch.minimum(torch.maximum(x, bins[0]), bins[-1]).unsqueeze(-1)
        progress = ((x - bins[:-1]) / (bins[1:] - bins[:-1])).clamp(0, 1)  # (*, K-1)
        entered = torch.cat([torch.ones_like(x), progress], -1)
        left = torch.cat([progress, torch.zeros_like(x)], -1)
        return entered - left

    def apply_inv(probs: Tensor) -> Tensor:
        check(probs=(probs, "float * K"))
        if probs.shape[-1] != num_bins:
            raise ValueError(f"probs: expected a last axis of {num_bins} bins, got shape {tuple(probs.shape)}")
        return (probs * bins_like(probs)).sum(-1)

    return TxPair(apply, apply_inv)


def transformed_lambda_returns(
    tx_pair: TxPair,
    r_t: Tensor,
    discount_t: Tensor,
    v_t: Tensor,
    lambda_: float | Tensor = 1.0,
    stop_target_gradients: bool = False,
) -> Tensor:
    """`lambda_returns` of transformed values.

        G = tx(lambda_returns(r, discount, tx^-1(v), lambda))

    Paper: "General non-linear Bellman equations", van Hasselt et al. 2019 (https://arxiv.org/abs/1907.03687).

    Args:
        tx_pair: transform and inverse.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        v_t: (T, *) transformed values at times 1 ... T.
        lambda_: a number, or (T, *).
        stop_target_gradients: detach the returns.

    Returns:
        (T, *) transformed returns.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), v_t=(v_t, "float T *"))
    return tx_pair.apply(lambda_returns(r_t, discount_t, tx_pair.apply_inv(v_t), lambda_, stop_target_gradients))


def transformed_n_step_returns(
    tx_pair: TxPair,
    r_t: Tensor,
    discount_t: Tensor,
    v_t: Tensor,
    n: int,
    lambda_t: float | Tensor = 1.0,
    stop_target_gradients: bool = False,
) -> Tensor:
    """`n_step_bootstrapped_returns` of transformed values.

        G = tx(n_step_bootstrapped_returns(r, discount, tx^-1(v), n, lambda))

    Paper: "General non-linear Bellman equations", van Hasselt et al. 2019 (https://arxiv.org/abs/1907.03687).

    Args:
        tx_pair: transform and inverse.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        v_t: (T, *) transformed values at times 1 ... T.
        n: number of steps, at least 1.
        lambda_t: a number, or (T, *).
        stop_target_gradients: detach the returns.

    Returns:
        (T, *) transformed returns.

    Raises:
        ValueError: a shape or dtype differs from the above, or n < 1.
    """
    check(r_t=(r_t, "float T *"), discount_t=(discount_t, "float T *"), v_t=(v_t, "float T *"))
    v_t = tx_pair.apply_inv(v_t)
    return tx_pair.apply(n_step_bootstrapped_returns(r_t, discount_t, v_t, n, lambda_t, stop_target_gradients))


def transformed_general_off_policy_returns_from_action_values(
    tx_pair: TxPair,
    q_t: Tensor,
    a_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    c_t: Tensor,
    pi_t: Tensor,
    stop_target_gradients: bool = False,
) -> Tensor:
    """`general_off_policy_returns_from_action_values` of transformed action values.

        G = tx(general_off_policy_returns_from_action_values(tx^-1(q), a, r, discount, c, pi))

    Paper: "General non-linear Bellman equations", van Hasselt et al. 2019 (https://arxiv.org/abs/1907.03687).

    Args:
        tx_pair: transform and inverse.
        q_t: (T, *, A) transformed action values at times 1 ... T.
        a_t: (T, *) integer.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        c_t: (T, *) traces.
        pi_t: (T, *, A) target policy's probabilities.
        stop_target_gradients: detach the returns.

    Returns:
        (T, *) transformed returns.

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
    q_t = tx_pair.apply_inv(q_t)
    return tx_pair.apply(
        general_off_policy_returns_from_action_values(q_t, a_t, r_t, discount_t, c_t, pi_t, stop_target_gradients)
    )


def transformed_n_step_q_learning(
    q_tm1: Tensor,
    a_tm1: Tensor,
    target_q_t: Tensor,
    a_t: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    n: int,
    stop_target_gradients: bool = True,
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Tensor:
    """n-step Q-learning errors in a transformed space.

        error_t = tx(G_t^n(tx^-1(target_q_t[a_t]))) - q_tm1[a_tm1]

    Paper: "Recurrent Experience Replay in Distributed Reinforcement Learning", Kapturowski et al. 2019
    (https://openreview.net/forum?id=r1lyTjAqYX).

    Args:
        q_tm1: (T, *, A) transformed action values at times 0 ... T-1.
        a_tm1: (T, *) integer, actions at times 0 ... T-1.
        target_q_t: (T, *, A) transformed target values at times 1 ... T.
        a_t: (T, *) integer, the actions to bootstrap from, usually the greedy ones.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        n: number of steps, at least 1.
        stop_target_gradients: detach the target.
        tx_pair: transform and inverse.

    Returns:
        (T, *).

    Raises:
        ValueError: a shape or dtype differs from the above, or n < 1.
    """
    check(
        q_tm1=(q_tm1, "float T * A"),
        a_tm1=(a_tm1, "int T *"),
        target_q_t=(target_q_t, "float T * A"),
        a_t=(a_t, "int T *"),
        r_t=(r_t, "float T *"),
        discount_t=(discount_t, "float T *"),
    )
    v_t = batched_index(target_q_t, a_t)
    target_tm1 = transformed_n_step_returns(tx_pair, r_t, discount_t, v_t, n)
    return (target_tm1.detach() if stop_target_gradients else target_tm1) - batched_index(q_tm1, a_tm1)


def transformed_q_lambda(
    q_tm1: Tensor,
    a_tm1: Tensor,
    r_t: Tensor,
    discount_t: Tensor,
    q_t: Tensor,
    lambda_: float | Tensor,
    stop_target_gradients: bool = True,
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Tensor:
    """Peng's Q(lambda) errors in a transformed space.

        error_t = tx(G_t^lambda(tx^-1(max_a q_t[a]))) - q_tm1[a_tm1]

    Paper: "General non-linear Bellman equations", van Hasselt et al. 2019 (https://arxiv.org/abs/1907.03687).

    Args:
        q_tm1: (T, *, A) transformed action values at times 0 ... T-1.
        a_tm1: (T, *) integer, actions at times 0 ... T-1.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        q_t: (T, *, A) transformed action values at times 1 ... T.
        lambda_: a number, or (T, *).
        stop_target_gradients: detach the target.
        tx_pair: transform and inverse.

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
    target_tm1 = transformed_lambda_returns(tx_pair, r_t, discount_t, q_t.amax(-1), lambda_)
    return (target_tm1.detach() if stop_target_gradients else target_tm1) - batched_index(q_tm1, a_tm1)


def transformed_retrace(
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
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Tensor:
    """Retrace(lambda) errors in a transformed space.

        error_t = tx(G_t) - q_tm1[a_tm1],    G_t the Retrace return of tx^-1(q_t)

    Papers: "General non-linear Bellman equations", van Hasselt et al. 2019 (https://arxiv.org/abs/1907.03687); "Safe
    and Efficient Off-Policy Reinforcement Learning", Munos et al. 2016 (https://arxiv.org/abs/1606.02647).

    Args:
        q_tm1: (T, *, A) transformed action values at times 0 ... T-1.
        q_t: (T, *, A) transformed action values at times 1 ... T.
        a_tm1: (T, *) integer, actions at times 0 ... T-1.
        a_t: (T, *) integer, actions at times 1 ... T.
        r_t: (T, *) rewards at times 1 ... T.
        discount_t: (T, *).
        pi_t: (T, *, A) target policy's probabilities at times 1 ... T.
        mu_t: (T, *) behavior policy's probabilities of a_t.
        lambda_: a number.
        eps: added to mu_t.
        stop_target_gradients: detach the target.
        tx_pair: transform and inverse.

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
    ratio_t = batched_index(pi_t, a_t) / (mu_t + eps)
    c_t = torch.minimum(ratio_t, torch.ones_like(ratio_t)) * lambda_
    target_tm1 = transformed_general_off_policy_returns_from_action_values(
        tx_pair, q_t, a_t, r_t, discount_t, c_t, pi_t
    )
    return (target_tm1.detach() if stop_target_gradients else target_tm1) - batched_index(q_tm1, a_tm1)
