"""The off-policy memory: a ring of rows, the successors kept beside it, and draws from them."""

from marl.memory.replay.choice import ReplayMemory
from marl.memory.replay.ring import Replay

__all__ = ["Replay", "ReplayMemory"]
