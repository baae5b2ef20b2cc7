"""The off-policy memory: a ring of rows, the successors kept beside it, and the draws that learners get."""

from marl.memory.replay.ring import Replay
from marl.memory.replay.sample import Sample

__all__ = ["Replay", "Sample"]
