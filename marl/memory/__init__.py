"""Memories: what is collected, and what is learnt from."""

from marl.memory.hindsight import Hindsight
from marl.memory.priorities import Prioritized
from marl.memory.replay import ReplayMemory

__all__ = ["Hindsight", "Prioritized", "ReplayMemory"]
