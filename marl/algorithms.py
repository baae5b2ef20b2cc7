"""Named recipes: each is a point of the grid, a line and a paper. All take the learner's own fields as keywords."""

from __future__ import annotations

from typing import Any

from marl.learners import A2C, PPO
from marl.scope import Joint, Local


def ippo(**settings: Any) -> PPO:
    """Independent PPO (de Witt et al. 2020, https://arxiv.org/abs/2011.09533): PPO with local critics."""
    return PPO(**{"critic": Local()} | settings)


def mappo(**settings: Any) -> PPO:
    """Multi-agent PPO (Yu et al. 2022, https://arxiv.org/abs/2103.01955): PPO with a centralised critic."""
    return PPO(**{"critic": Joint()} | settings)


def ia2c(**settings: Any) -> A2C:
    """Independent A2C (Papoudakis et al. 2021, https://arxiv.org/abs/2006.07869): A2C with local critics."""
    return A2C(**{"critic": Local()} | settings)


def maa2c(**settings: Any) -> A2C:
    """Multi-agent A2C (Papoudakis et al. 2021, https://arxiv.org/abs/2006.07869): A2C with a centralised critic."""
    return A2C(**{"critic": Joint()} | settings)
