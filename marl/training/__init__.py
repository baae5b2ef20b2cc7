"""The training loop, its state, and the parts by which features join it."""

from marl.training.history import History, Watcher
from marl.training.part import Choice, Part, Transition

__all__ = ["Choice", "History", "Part", "Transition", "Watcher"]
