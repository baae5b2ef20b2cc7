"""Joining what an agent perceives into one vector."""

import torch
from torch import Tensor

from marl.ops.checks import check
from marl.ops.indexing import one_hot

__all__ = ["embed_oar"]


def embed_oar(features: Tensor, action: Tensor, reward: Tensor, num_actions: int) -> Tensor:
    """Concatenate observation features, the last action one-hot and the squashed last reward.

        y = [features, one_hot(action), tanh(reward)]

    Paper: "Recurrent Experience Replay in Distributed Reinforcement Learning", Kapturowski et al. 2019
    (https://openreview.net/forum?id=r1lyTjAqYX).

    Args:
        features: (*, D).
        action: (*) integer in [0, num_actions).
        reward: (*).
        num_actions: A.

    Returns:
        (*, D + A + 1). Differentiable in features and reward.

    Raises:
        ValueError: a shape or dtype differs from the above.
    """
    check(features=(features, "float * D"), action=(action, "int *"), reward=(reward, "float *"))
    return torch.cat([features, one_hot(action, num_actions, features.dtype), reward.tanh().unsqueeze(-1)], -1)
