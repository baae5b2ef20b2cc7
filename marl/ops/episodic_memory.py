"""Nearest neighbors in a memory of embeddings."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from marl.ops.checks import check

__all__ = ["KNNQueryResult", "knn_query"]


class KNNQueryResult(NamedTuple):
    """Neighbors (Q, k, D), their indices (Q, k) and the negatives of their distances (Q, k), nearest first."""

    neighbors: Tensor
    neighbor_indices: Tensor
    neighbor_neg_distances: Tensor


def _squared_euclidean(data: Tensor, query_points: Tensor) -> Tensor:
    return (query_points.unsqueeze(1) - data.unsqueeze(0)).square().sum(-1)


def knn_query(
    data: Tensor,
    query_points: Tensor,
    num_neighbors: int,
    metric: Callable[[Tensor, Tensor], Tensor] = _squared_euclidean,
) -> KNNQueryResult:
    """The nearest stored points of each query point.

        neighbors_i = the k points x of data with the smallest metric(x, query_i)

    Paper: "Neural Episodic Control", Pritzel et al. 2017 (https://arxiv.org/abs/1703.01988).

    Args:
        data: (N, D) stored points; a point at infinity is the farthest.
        query_points: (Q, D).
        num_neighbors: k; N if that is smaller.
        metric: all distances at once: metric((N, D), (Q, D)) -> (Q, N). Squared Euclidean by default.

    Returns:
        See `KNNQueryResult`; differentiable through the distances and neighbors.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(data=(data, "float N D"), query_points=(query_points, "float Q D"))
    distances = metric(data, query_points)  # (Q, N)
    if distances.shape != (query_points.shape[0], data.shape[0]):
        expected = (query_points.shape[0], data.shape[0])
        raise ValueError(f"metric: expected a result of shape {expected}, got {tuple(distances.shape)}")
    nearest = (-distances).topk(min(num_neighbors, data.shape[0]), dim=-1)
    return KNNQueryResult(data[nearest.indices], nearest.indices, nearest.values)
