"""Action noise and intrinsic rewards."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from marl.ops.checks import check
from marl.ops.episodic_memory import knn_query

__all__ = [
    "IntrinsicRewardState",
    "add_dirichlet_noise",
    "add_gaussian_noise",
    "add_ornstein_uhlenbeck_noise",
    "episodic_memory_intrinsic_rewards",
]


def add_gaussian_noise(generator: Generator | None, action: Tensor, stddev: float) -> Tensor:
    """Add independent normal noise to an action.

        a' = a + stddev n,    n ~ N(0, 1)

    Paper: "Addressing Function Approximation Error in Actor-Critic Methods", Fujimoto et al. 2018
    (https://arxiv.org/abs/1802.09477).

    Args:
        generator: source of randomness; None for torch's own.
        action: (*).
        stddev: standard deviation of the noise.

    Returns:
        (*). Differentiable in action.

    Raises:
        ValueError: action is not floating point.
    """
    check(action=(action, "float *"))
    return action + stddev * torch.empty_like(action).normal_(generator=generator)


def add_ornstein_uhlenbeck_noise(
    generator: Generator | None, action: Tensor, noise_tm1: Tensor, damping: float, stddev: float
) -> Tensor:
    """Add noise that drifts back to zero, so that successive steps push the same way.

        a' = a + (1 - damping) noise_tm1 + stddev n,    n ~ N(0, 1)

    The noise to pass on to the next step is a' - a.

    Paper: "On the Theory of the Brownian Motion", Uhlenbeck & Ornstein 1930 (https://doi.org/10.1103/PhysRev.36.823).

    Args:
        generator: source of randomness; None for torch's own.
        action: (*).
        noise_tm1: (*) noise of the step before.
        damping: share of the noise lost per step.
        stddev: standard deviation of the fresh noise.

    Returns:
        (*). Differentiable in action and noise_tm1.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(action=(action, "float *"), noise_tm1=(noise_tm1, "float *"))
    fresh = stddev * torch.empty_like(action).normal_(generator=generator)
    return action + (1 - damping) * noise_tm1 + fresh


def add_dirichlet_noise(
    generator: Generator | None, prior: Tensor, dirichlet_alpha: float, dirichlet_fraction: float
) -> Tensor:
    """Mix action probabilities with a draw from a symmetric Dirichlet distribution.

        p' = (1 - fraction) p + fraction d,    d ~ Dirichlet(alpha, ..., alpha)

    Paper: "Mastering the game of Go without human knowledge", Silver et al. 2017 (https://doi.org/10.1038/nature24270).

    Args:
        generator: source of randomness; None for torch's own.
        prior: (*, A) probabilities.
        dirichlet_alpha: concentration, above 0.
        dirichlet_fraction: share of the noise, in [0, 1].

    Returns:
        (*, A). Differentiable in prior.

    Raises:
        ValueError: prior is not floating point, or dirichlet_alpha is not above 0.
    """
    check(prior=(prior, "float * A"))
    if dirichlet_alpha <= 0:
        raise ValueError(f"dirichlet_alpha: expected a number above 0, got {dirichlet_alpha}")
    # In log space, Gamma(alpha) = Gamma(alpha + 1) U^(1/alpha): a small alpha does not underflow to 0 / 0.
    gamma = torch._standard_gamma(torch.full_like(prior, dirichlet_alpha + 1), generator=generator)
    boost = torch.empty_like(prior).exponential_(generator=generator) / dirichlet_alpha  # -log(U) / alpha
    noise = (gamma.log() - boost).softmax(-1)
    return (1 - dirichlet_fraction) * prior + dirichlet_fraction * noise.detach()


class IntrinsicRewardState(NamedTuple):
    """The episodic memory (M, D) as a ring, where it is written next, and the running sum and count of distances."""

    memory: Tensor
    next_memory_index: int = 0
    distance_sum: Tensor | float = 0.0
    distance_count: int = 0


def episodic_memory_intrinsic_rewards(
    embeddings: Tensor,
    num_neighbors: int,
    reward_scale: float,
    intrinsic_reward_state: IntrinsicRewardState | None = None,
    constant: float = 1e-3,
    epsilon: float = 1e-4,
    cluster_distance: float = 8e-3,
    max_similarity: float = 8.0,
    max_memory_size: int = 30000,
) -> tuple[Tensor, IntrinsicRewardState]:
    """Reward states that are unlike those seen earlier in the episode.

        r_i = reward_scale / s_i, or 0 if s_i > max_similarity
        s_i = sqrt(sum_k epsilon / (x_ik + epsilon)) + constant
        x_ik = max(d_ik / (mean d - constant) - cluster_distance, 0)

    with d_ik the squared distances to the nearest neighbors in memory, and their mean taken over the whole episode.
    The embeddings are then written to the memory. Before the first write the memory holds num_neighbors zero vectors.

    Paper: "Never Give Up: Learning Directed Exploration Strategies", Badia et al. 2020
    (https://arxiv.org/abs/2002.06038).

    Args:
        embeddings: (B, D) new states.
        num_neighbors: k.
        reward_scale: beta.
        intrinsic_reward_state: from the call before; None at an episode's start.
        constant: keeps the similarity and the mean distance off 0.
        epsilon: of the kernel.
        cluster_distance: relative distances below it count as 0.
        max_similarity: above it there is no reward.
        max_memory_size: M, for a new memory.

    Returns:
        Rewards (B,) and the new state. Detached.

    Raises:
        ValueError: a shape or dtype differs from the above, or the memory is smaller than num_neighbors or B.
    """
    check(embeddings=(embeddings, "float B D"))
    with torch.no_grad():
        state = intrinsic_reward_state
        if state is None:
            memory = embeddings.new_full((max_memory_size, embeddings.shape[1]), torch.inf)
            memory[:num_neighbors] = 0
            state = IntrinsicRewardState(memory)
        memory = state.memory
        check(embeddings=(embeddings, "float B D"), memory=(memory, "float M D"))
        size, count = memory.shape[0], embeddings.shape[0]
        if size < max(num_neighbors, count):
            raise ValueError(f"memory: expected room for {max(num_neighbors, count)} embeddings, got {size}")
        negative_distances = knn_query(memory, embeddings, num_neighbors).neighbor_neg_distances  # (B, k)
        distance_sum = state.distance_sum + negative_distances.sum()
        distance_count = state.distance_count + negative_distances.numel()
        mean = distance_sum / distance_count
        # Negative distances over their negative mean, to which RLax adds its positive constant: equal numbers need it.
        relative = negative_distances / (mean + constant)
        rate = (relative - cluster_distance).clamp(min=0)
        similarity = (epsilon / (rate + epsilon)).sum(-1).sqrt() + constant
        reward = torch.where(similarity > max_similarity, 0.0, reward_scale / similarity)
        memory = memory.clone()
        memory[(state.next_memory_index + torch.arange(count, device=memory.device)) % size] = embeddings
    return reward, IntrinsicRewardState(memory, state.next_memory_index + count, distance_sum, distance_count)
