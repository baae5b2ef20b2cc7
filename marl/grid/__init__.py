"""The open axes of the grid: what a critic sees, whose reward an agent learns from, how values mix, who shares."""

from marl.grid.correction import VTrace
from marl.grid.counterfactual import Counterfactual
from marl.grid.credit import Independent, TeamReward
from marl.grid.duplex import QPlex
from marl.grid.mixers import VDN, QMix
from marl.grid.scope import Joint, Local
from marl.grid.weighted import WeightedQMix

__all__ = [
    "VDN",
    "Counterfactual",
    "Independent",
    "Joint",
    "Local",
    "QMix",
    "QPlex",
    "TeamReward",
    "VTrace",
    "WeightedQMix",
]
