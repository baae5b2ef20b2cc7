"""Multi-agent reinforcement learning on PettingZoo and PyTorch: one grid of choices instead of a zoo of algorithms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marl import ops
    from marl.agent import Agent
    from marl.algorithms import ia2c, ippo, maa2c, mappo
    from marl.credit import Independent, TeamReward
    from marl.evaluation.report import Report
    from marl.learners import A2C, PPO, Random
    from marl.nets import CNN, GRU, MLP, Custom
    from marl.scenario import Scenario
    from marl.schedules import Linear
    from marl.scope import Joint, Local
    from marl.stopping import MeanReturn
    from marl.system import History, MultiAgentSystem
    from marl.types import (
        CheckpointError,
        ConfigError,
        EnvContractError,
        MarlError,
        NonFiniteError,
        ResourceError,
    )

__version__ = "0.1.0"

# Where each public name lives. Names are imported when first used, so that worker processes never import torch.
_HOMES = {
    "marl.agent": ("Agent",),
    "marl.algorithms": ("ia2c", "ippo", "maa2c", "mappo"),
    "marl.credit": ("Independent", "TeamReward"),
    "marl.evaluation.report": ("Report",),
    "marl.learners": ("A2C", "PPO", "Random"),
    "marl.nets": ("CNN", "GRU", "MLP", "Custom"),
    "marl.scenario": ("Scenario",),
    "marl.schedules": ("Linear",),
    "marl.scope": ("Joint", "Local"),
    "marl.stopping": ("MeanReturn",),
    "marl.system": ("History", "MultiAgentSystem"),
    "marl.types": (
        "CheckpointError",
        "ConfigError",
        "EnvContractError",
        "MarlError",
        "NonFiniteError",
        "ResourceError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "A2C",
    "CNN",
    "GRU",
    "MLP",
    "PPO",
    "Agent",
    "CheckpointError",
    "ConfigError",
    "Custom",
    "EnvContractError",
    "History",
    "Independent",
    "Joint",
    "Linear",
    "Local",
    "MarlError",
    "MeanReturn",
    "MultiAgentSystem",
    "NonFiniteError",
    "Random",
    "Report",
    "ResourceError",
    "Scenario",
    "TeamReward",
    "ia2c",
    "ippo",
    "maa2c",
    "mappo",
    "ops",
]


def __getattr__(name: str) -> object:
    """Import a public name from its home when it is first used."""
    if name == "ops":
        return importlib.import_module("marl.ops")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'marl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names."""
    return sorted(__all__)
