"""Memories: what is collected, and what is learnt from."""

from marl.memory.base import Decision, DrawSpec, Look, MemoryChoice, MemoryContext
from marl.memory.hindsight import Hindsight
from marl.memory.priorities import Prioritised
from marl.memory.replay import ReplayMemory
from marl.memory.rollout import Rollout
from marl.memory.sample import Sample

__all__ = [
    "Decision",
    "DrawSpec",
    "Hindsight",
    "Look",
    "MemoryChoice",
    "MemoryContext",
    "Prioritised",
    "ReplayMemory",
    "Rollout",
    "Sample",
]
