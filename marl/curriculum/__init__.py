"""Curricula: which task each copy of an environment meets in its next episode.

A task is a number for some of an environment's parameters; ``ByOptions``, ``ByKwargs`` and ``BySetter`` are the ways in
which it reaches one that is not compiled. When a copy's episode ends, its result goes to the curriculum, which draws
the task of an episode to come. Copies reset themselves in the step that ends an episode, so the next one is already
chosen then: a result changes the episode after it. Evaluation never sees any of this; it plays the ``target``.
"""

from marl.adapters.tasks import ByKwargs, ByOptions, BySetter
from marl.curriculum.level_replay import PrioritizedLevelReplay
from marl.curriculum.progress import LearningProgress
from marl.curriculum.randomization import Annealed, DomainRandomization
from marl.curriculum.rules import Rating, Steps, SuccessRate, WinRate
from marl.curriculum.stages import Stage, Stages, growing
from marl.curriculum.tasks import Among, Between

__all__ = [
    "Among",
    "Annealed",
    "Between",
    "ByKwargs",
    "ByOptions",
    "BySetter",
    "DomainRandomization",
    "LearningProgress",
    "PrioritizedLevelReplay",
    "Rating",
    "Stage",
    "Stages",
    "Steps",
    "SuccessRate",
    "WinRate",
    "growing",
]
