"""Advantages where an agent acts only on some rows, and masked statistics per parameter set."""

from typing import Any

import torch
from torch import Tensor

from marl.compiled import advantage as compiled
from marl.compiled import backend
from marl.ops.checks import check
from marl.ops.recursion import backward_recursion
from marl.reduce import ALONE, Reduce

__all__ = ["idle_generalized_advantage_estimation", "idle_vtrace", "masked_mean", "masked_normalize"]


@torch.no_grad()
def idle_generalized_advantage_estimation(
    reward: Tensor,
    value: Tensor,
    acting: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_value: Tensor,
    last_value: Tensor,
    last_acting: Tensor,
    discount: float,
    lambda_: float,
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over rows on which an agent may be idle, dead or not yet born.

    Let k count the agent's own turns (the rows where it acts) and R_k sum the rewards from turn k's row up to the row
    before its next turn, or up to the end of its trajectory. Then, with V_{k+1} the value at the next turn,

        A_k = R_k + discount V_{k+1} - V_k + discount lambda A_{k+1}

    so the discount is paid once per own turn. A terminated trajectory has V_{k+1} = 0, a truncated one V_{k+1} =
    final_value; both have A_{k+1} = 0. The rows after an end belong to the next trajectory, and rewards before a
    trajectory's first turn belong to no action. If the agent's last turn is still waiting for its outcome when the
    rows run out, that turn is not complete, and the turn before it bootstraps from its value alone. With every row
    acting this is ordinary GAE.

    Paper: "High-Dimensional Continuous Control Using Generalized Advantage Estimation", Schulman et al. 2016
    (https://arxiv.org/abs/1506.02438); turns as in PettingZoo's agent-environment cycle.

    Args:
        reward: (T, *) reward that arrived after row t's actions; counts on idle rows too.
        value: (T, *) value of the observation acted on; read only where acting.
        acting: (T, *) bool, the agent chose an action on row t.
        terminated: (T, *) bool, its trajectory terminated after row t (acting or not).
        truncated: (T, *) bool, its trajectory was cut after row t; termination wins where both are set.
        final_value: (T, *) value of the true successor; read only where truncated and not terminated.
        last_value: (*) value of the observation to act on at row T; read only where last_acting.
        last_acting: (*) bool, the agent may act at row T.
        discount: per own turn.
        lambda_: weight of the longer estimates, in [0, 1].

    Returns:
        advantage (T, *), zero where not complete, and complete (T, *) bool: acted, and the outcome is known. Both
        detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(
        reward=(reward, "float rows *"),
        value=(value, "float rows *"),
        acting=(acting, "bool rows *"),
        terminated=(terminated, "bool rows *"),
        truncated=(truncated, "bool rows *"),
        final_value=(final_value, "float rows *"),
        last_value=(last_value, "float *"),
        last_acting=(last_acting, "bool *"),
    )
    length = reward.shape[0]
    if length == 0:
        return torch.zeros_like(reward), acting.clone()
    if compiled.fits(reward):
        rows, last = (reward, value, acting, terminated, truncated, final_value), (last_value, last_acting)
        found = compiled.estimate(rows, last, discount, lambda_)
        if backend.checking:
            precise = [x.double() if x.is_floating_point() else x for x in (*rows, *last)]
            arguments: list[Any] = [*precise, discount, lambda_]
            wanted = idle_generalized_advantage_estimation(*arguments)
            backend.require_equal("advantages", (found[0], wanted[0]), (found[1], wanted[1]))
        return found
    ended = terminated | truncated
    zero = reward.new_zeros(())
    column = (length,) + (1,) * last_value.dim()
    row = torch.arange(1, length + 1, device=reward.device).view(column)
    latest_turn = (row * acting).amax(0)  # (*), 0 for none
    latest_end = (row * ended).amax(0)  # (*)
    waiting = ~last_acting & (latest_turn > latest_end)
    complete = acting & ((row != latest_turn) | ~waiting)

    # Let G_t be what row t passes back to the turn it belongs to, and X_t what the rows before t receive:
    #   G_t = reward_t + (X_{t+1}, or discount * final_value at an end)
    #   X_t = G_t on an idle row; discount * ((1 - lambda) value_t + lambda G_t) on a turn; discount * value_t on a
    # waiting one. X is thus one linear recursion X_t = known_t + carried_t X_{t+1}: a single fused operation per row.
    immediate = torch.where(truncated & ~terminated, final_value, zero).mul_(discount).add_(reward)  # (T, *)
    # Constants in the rewards' own dtype: `torch.where` on two Python numbers would round them to float32.
    one, tail, full, own = (zero + x for x in (1.0, discount * lambda_, discount, discount * (1 - lambda_)))
    weight = torch.where(acting, torch.where(complete, tail, zero), one)
    own_value = torch.where(acting, value, zero)
    known = torch.where(complete, own, full).mul(own_value)
    known.addcmul_(weight, immediate)
    carried = torch.where(ended, zero, weight)
    after_last = torch.where(last_acting, last_value * discount, zero)  # (*)
    passed = backward_recursion(known, carried, after_last)  # (T, *)
    following = torch.cat([passed[1:], after_last[None]])
    outcome = torch.where(ended, immediate, following.add_(immediate))  # (T, *)
    return torch.where(complete, outcome.sub_(own_value), zero), complete


@torch.no_grad()
def idle_vtrace(
    reward: Tensor,
    value: Tensor,
    acting: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_value: Tensor,
    last_value: Tensor,
    last_acting: Tensor,
    rho: Tensor,
    discount: float,
    lambda_: float,
    clip_rho_threshold: float = 1.0,
    clip_c_threshold: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """V-trace over rows on which an agent may be idle, dead or not yet born.

    With k counting the agent's own turns, and R_k, V_{k+1}, ends and waiting turns as in
    `idle_generalized_advantage_estimation`,

        delta_k = R_k + discount V_{k+1} - V_k
        error_k = rho'_k delta_k + discount lambda c_k error_{k+1},    rho' = min(clip_rho, rho),  c = min(clip_c, rho)
        advantage_k = delta_k + discount lambda error_{k+1}

    and error_{k+1} = 0 after an end. error_k + V_k is the value's target, advantage_k + V_k the action's value: a
    policy's loss weighs the advantage by a ratio of its own. Where rho is 1, both are the generalized advantage
    estimate; with every row acting they are the errors and q_estimate - v_tm1 of `vtrace_td_error_and_advantage`.

    Paper: "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", Espeholt et
    al. 2018 (https://arxiv.org/abs/1802.01561).

    Args:
        reward: (T, *) reward that arrived after row t's actions; counts on idle rows too.
        value: (T, *) value of the observation acted on; read only where acting.
        acting: (T, *) bool, the agent chose an action on row t.
        terminated: (T, *) bool, its trajectory terminated after row t (acting or not).
        truncated: (T, *) bool, its trajectory was cut after row t; termination wins where both are set.
        final_value: (T, *) value of the true successor; read only where truncated and not terminated.
        last_value: (*) value of the observation to act on at row T; read only where last_acting.
        last_acting: (*) bool, the agent may act at row T.
        rho: (T, *) importance ratios pi/mu of the actions taken; read only where acting.
        discount: per own turn.
        lambda_: weight of the longer estimates, in [0, 1].
        clip_rho_threshold: largest ratio on delta; it decides which policy's value is the fixed point.
        clip_c_threshold: largest ratio on later errors.

    Returns:
        errors and advantage (T, *), zero where not complete, and complete (T, *) bool: acted, and the outcome is known.
        All detached.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(reward=(reward, "float rows *"), rho=(rho, "float rows *"))
    delta, complete = idle_generalized_advantage_estimation(
        reward, value, acting, terminated, truncated, final_value, last_value, last_acting, discount, 0.0
    )
    zero = reward.new_zeros(())
    # As above: constants in the rewards' own dtype.
    one, passed_on, largest, longest = (
        zero + x for x in (1.0, discount * lambda_, clip_rho_threshold, clip_c_threshold)
    )
    own = torch.where(complete, torch.minimum(rho, largest) * delta, zero)
    # An idle row passes the error of the next turn on; a turn that waits for its outcome has none, and ends the chain.
    decay = torch.where(acting, torch.where(complete, torch.minimum(rho, longest) * passed_on, zero), one)
    decay = torch.where(terminated | truncated, zero, decay)
    errors = backward_recursion(own, decay, torch.zeros_like(last_value))  # (T, *); on idle rows the next turn's
    following = torch.cat([errors[1:], torch.zeros_like(last_value)[None]])
    following = torch.where(terminated | truncated, zero, following)
    advantage = torch.where(complete, torch.addcmul(delta, following, passed_on), zero)
    return torch.where(complete, errors, zero), advantage, complete


def masked_mean(x: Tensor, mask: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Mean of the entries where the mask is set; 0 where no entry is.

        mean = sum_i mask_i x_i / max(1, sum_i mask_i)

    Entries outside the mask are never read, so NaN there does no harm, and their gradient is 0.

    Args:
        x: (*) floating point.
        mask: (*) bool.
        dim: axis or axes to reduce; all by default.

    Returns:
        The mean with the reduced axes removed. Differentiable in x.

    Raises:
        ValueError: x and mask differ in shape, or have the wrong dtype.
    """
    check(x=(x, "float *"), mask=(mask, "bool *"))
    axes = tuple(range(x.dim())) if dim is None else dim
    total = torch.where(mask, x, x.new_zeros(())).sum(axes)
    return total / mask.sum(axes).clamp(min=1).to(x.dtype)


def masked_normalize(
    x: Tensor, mask: Tensor, owner: Tensor, num_sets: int, epsilon: float = 1e-8, reduce: Reduce = ALONE
) -> Tensor:
    """Normalize to zero mean and unit standard deviation within each parameter set, over the valid entries only.

    For every set p, over all valid entries i of all agents that own p,

        y_i = (x_i - mean_p) / (std_p + epsilon),    std_p^2 = mean_i (x_i - mean_p)^2

    The standard deviation is the population one (divided by the count, not by the count minus one). A set with fewer
    than two valid entries, or whose valid entries are all equal, gives zeros; so do entries outside the mask,
    whatever they hold.

    Args:
        x: (*, N) floating point, one column per agent.
        mask: (*, N) bool.
        owner: (N,) integer, the parameter set of each agent, in [0, num_sets).
        num_sets: number of parameter sets P.
        epsilon: added to the standard deviation.
        reduce: adds up moments over learners that normalize together, each its own entries.

    Returns:
        (*, N), differentiable in x, unless moments are added up over learners.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(x=(x, "float * N"), mask=(mask, "bool * N"), owner=(owner, "int N"))
    agents = x.shape[-1]
    flat_mask = mask.reshape(-1, agents)
    flat = torch.where(flat_mask, x.reshape(-1, agents), x.new_zeros(()))  # (M, N)
    if flat.shape[0] == 0:
        return torch.zeros_like(x)
    if reduce.alone and compiled.fits(x):
        found = compiled.normalize(x, mask, owner, num_sets, epsilon)
        if backend.checking:
            wanted = masked_normalize(x.double(), mask, owner, num_sets, epsilon)
            backend.require_equal("normalized advantages", (found, wanted))
        return found

    def per_set(column: Tensor) -> Tensor:
        return column.new_zeros(num_sets).index_add(0, owner, column)  # (N,) -> (P,)

    count = per_set(flat_mask.sum(0)).to(x.dtype)
    total = per_set(flat.sum(0))
    reduce.sum(count, total)
    share = count.clamp(min=1)
    mean = total / share
    # A rounded mean leaves equal entries with a tiny variance, so equality is asked of the entries themselves.
    with torch.no_grad():
        highest = torch.where(flat_mask, flat, -torch.inf).amax(0)
        lowest = torch.where(flat_mask, flat, torch.inf).amin(0)
        top = highest.new_full((num_sets,), -torch.inf).scatter_reduce(0, owner, highest, "amax")
        bottom = lowest.new_full((num_sets,), torch.inf).scatter_reduce(0, owner, lowest, "amin")
        if not reduce.alone:
            bottom = -bottom
            reduce.max(top, bottom)
            bottom = -bottom
        spread = top > bottom  # (P,)
        # Squares of large numbers overflow. A power of two changes no digit.
        unit = torch.where(top - bottom > 1e15, 2.0**-100, 1.0).to(x.dtype)  # (P,)
    centered = torch.where(flat_mask, (flat - mean[owner]) * unit[owner], x.new_zeros(()))
    squares = per_set(centered.square().sum(0))
    reduce.sum(squares)
    variance = squares / share
    deviation = torch.where(spread, variance, torch.ones_like(variance)).sqrt()
    scale = torch.where(spread, 1 / (deviation + epsilon * unit), torch.zeros_like(deviation))
    return (centered * scale[owner]).reshape(x.shape)
