"""The project's own worlds: compiled, batched, and each also a plain PettingZoo ``ParallelEnv``.

Importing this package registers every world with PettingZoo: ``pettingzoo.make("parallel", "marl/spread-v0")``.
"""

from marl_envs.spread import Spread

__all__ = ["Spread"]
