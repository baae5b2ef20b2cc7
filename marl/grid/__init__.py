"""The open axes of the grid: what a critic sees, whose reward an agent learns from, how values mix, who shares."""

from marl.grid.counterfactual import Counterfactual
from marl.grid.credit import Independent, TeamReward
from marl.grid.mixers import VDN, QMix, QPlex, WeightedQMix
from marl.grid.scope import Joint, Local

__all__ = [
    "VDN",
    "Counterfactual",
    "Independent",
    "Joint",
    "Local",
    "QMix",
    "QPlex",
    "TeamReward",
    "WeightedQMix",
]
