"""Cutting trajectories into subsequences."""

import torch
from torch import Generator, Tensor

from marl.ops.checks import check

__all__ = ["extract_subsequences", "sample_start_indices"]


def extract_subsequences(
    trajectories: Tensor, start_indices: Tensor, subsequence_len: int = 1, max_valid_start_idx: int | None = None
) -> Tensor:
    """Cut subsequences of equal length out of a batch of trajectories; they may overlap.

        y[k, b, s] = trajectories[start_indices[b, s] + k, b]

    Paper: "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265).

    Args:
        trajectories: (T, B, ...).
        start_indices: (B, S) integer.
        subsequence_len: K.
        max_valid_start_idx: largest start allowed; None for T - K. Checking the values costs a wait for the device,
            so it is done only where this is given.

    Returns:
        (K, B, S, ...). Differentiable.

    Raises:
        ValueError: a shape or dtype differs from the above, or a start exceeds max_valid_start_idx.
    """
    check(trajectories=(trajectories, "any T B *"), start_indices=(start_indices, "int B S"))
    if max_valid_start_idx is not None:
        largest = int(start_indices.max())
        if largest > max_valid_start_idx or max_valid_start_idx > trajectories.shape[0] - subsequence_len:
            limit = min(max_valid_start_idx, trajectories.shape[0] - subsequence_len)
            raise ValueError(f"start_indices: expected at most {limit}, got {max(largest, max_valid_start_idx)}")
    offset = torch.arange(subsequence_len, device=start_indices.device)[:, None, None]
    column = torch.arange(trajectories.shape[1], device=start_indices.device)[None, :, None]
    return trajectories[start_indices.long()[None] + offset, column]


def sample_start_indices(
    generator: Generator | None, batch_size: int, num_start_indices: int, max_valid_start_idx: int
) -> Tensor:
    """Draw start indices uniformly, distinct within a trajectory.

        i_1 ... i_S ~ Uniform without replacement from {0, ..., max_valid_start_idx}

    Paper: "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Schrittwieser et al. 2020
    (https://arxiv.org/abs/1911.08265).

    Args:
        generator: source of randomness, on whose device they are drawn; None for torch's own.
        batch_size: B.
        num_start_indices: S, at most max_valid_start_idx + 1.
        max_valid_start_idx: largest start, included.

    Returns:
        (B, S) int64.

    Raises:
        ValueError: there are fewer than S valid starts.
    """
    if max_valid_start_idx + 1 < num_start_indices:
        found = f"got {max_valid_start_idx} for {num_start_indices} starts"
        raise ValueError(f"max_valid_start_idx: expected at least num_start_indices - 1, {found}")
    device = "cpu" if generator is None else generator.device
    lots = torch.rand(batch_size, max_valid_start_idx + 1, generator=generator, device=device)
    return lots.topk(num_start_indices, dim=1).indices
