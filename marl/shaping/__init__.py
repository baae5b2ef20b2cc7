"""Reward shaping: what agents are paid for learning. What is measured stays the raw reward.

A list of hooks turns a team's raw rewards ``(E, N)`` into those its learner sees, one hook after the other. Histories,
episodes and evaluations know nothing of it; the shaped return is logged beside the raw one.
"""

from marl.shaping.hook import TeamTransition
from marl.shaping.influence import SocialInfluence
from marl.shaping.normalize import RunningNormalize
from marl.shaping.novelty import RND, CountBonus, EpisodicNovelty
from marl.shaping.plain import Clip, DifferenceReward, Function, Scale, StepCost, TeamSpirit
from marl.shaping.potential import PotentialBased

__all__ = [
    "RND",
    "Clip",
    "CountBonus",
    "DifferenceReward",
    "EpisodicNovelty",
    "Function",
    "PotentialBased",
    "RunningNormalize",
    "Scale",
    "SocialInfluence",
    "StepCost",
    "TeamSpirit",
    "TeamTransition",
]
