"""Reinforcement-learning maths as pure functions on torch tensors."""

from marl.ops.advantage import idle_generalized_advantage_estimation, masked_mean, masked_normalize

__all__ = ["idle_generalized_advantage_estimation", "masked_mean", "masked_normalize"]
