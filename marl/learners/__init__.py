"""Learners: one file each; siblings never import siblings."""

from marl.learners.a2c import A2C
from marl.learners.base import Learner, LearnerConfig
from marl.learners.ppo import PPO
from marl.learners.random import Random

LEARNERS: tuple[type[LearnerConfig], ...] = (A2C, PPO)

__all__ = ["A2C", "LEARNERS", "PPO", "Learner", "LearnerConfig", "Random"]
