"""Memories: where transitions wait to be learnt from."""

from marl.memory.rollout import Look, Rollout

__all__ = ["Look", "Rollout"]
