"""Learners: one file each; siblings never import siblings."""

from marl.learners.a2c import A2C
from marl.learners.base import Learner, LearnerConfig
from marl.learners.ddpg import DDPG
from marl.learners.dqn import DQN
from marl.learners.ppo import PPO
from marl.learners.random import Random
from marl.learners.sac import SAC
from marl.learners.scripted import Fixed, Scripted
from marl.learners.td3 import TD3

LEARNERS: tuple[type[LearnerConfig], ...] = (A2C, DDPG, DQN, PPO, SAC, TD3)

__all__ = [
    "A2C",
    "DDPG",
    "DQN",
    "LEARNERS",
    "PPO",
    "SAC",
    "TD3",
    "Fixed",
    "Learner",
    "LearnerConfig",
    "Random",
    "Scripted",
]
