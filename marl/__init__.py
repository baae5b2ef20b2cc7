"""Multi-agent reinforcement learning on PettingZoo and PyTorch: one grid of choices instead of a zoo of algorithms."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marl import ops
    from marl.adapters.spoken import Spoken
    from marl.agent import Agent
    from marl.algorithms import (
        coma,
        facmac,
        happo,
        ia2c,
        iddpg,
        ippo,
        iql,
        isac,
        itd3,
        maa2c,
        maddpg,
        mappo,
        masac,
        matd3,
        qmix,
        qplex,
        vdn,
        wqmix,
    )
    from marl.channels import (
        DIAL,
        CommNet,
        Complete,
        Dynamic,
        Graph,
        GraphAttention,
        Grid,
        Groups,
        IC3Net,
        Link,
        Nearest,
        Ring,
        Star,
        TarMAC,
        Where,
        Within,
    )
    from marl.credit import VDN, Counterfactual, Independent, QMix, QPlex, TeamReward, WeightedQMix
    from marl.curriculum import (
        Among,
        Annealed,
        Between,
        DomainRandomisation,
        LearningProgress,
        PrioritisedLevelReplay,
        Rating,
        Stage,
        Stages,
        Steps,
        SuccessRate,
        WinRate,
        growing,
    )
    from marl.evaluation.report import Report
    from marl.exploration import (
        Boltzmann,
        BoltzmannGumbel,
        EpsilonGreedy,
        GaussianNoise,
        Greedy,
        GumbelSample,
        MaxBoltzmann,
        OrnsteinUhlenbeck,
        Uniform,
    )
    from marl.influence import SocialInfluence
    from marl.league import PSRO, League
    from marl.learners import A2C, DDPG, DQN, PPO, SAC, TD3, Fixed, Random, Scripted
    from marl.learners.off_policy import Prioritised
    from marl.memory.hindsight import Hindsight
    from marl.nets import CNN, GRU, MLP, Custom
    from marl.nets.q_head import Atoms, Quantiles
    from marl.scenario import Scenario
    from marl.schedules import Exponential, Linear, Logarithmic
    from marl.scope import Joint, Local
    from marl.shaping import (
        RND,
        Clip,
        CountBonus,
        DifferenceReward,
        EpisodicNovelty,
        Function,
        PotentialBased,
        RunningNormalize,
        Scale,
        Seen,
        StepCost,
        TeamSpirit,
    )
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
    "marl.adapters.spoken": ("Spoken",),
    "marl.agent": ("Agent",),
    "marl.algorithms": (
        "coma",
        "facmac",
        "happo",
        "ia2c",
        "iddpg",
        "ippo",
        "iql",
        "isac",
        "itd3",
        "maa2c",
        "maddpg",
        "mappo",
        "masac",
        "matd3",
        "qmix",
        "qplex",
        "vdn",
        "wqmix",
    ),
    "marl.channels": (
        "DIAL",
        "CommNet",
        "Complete",
        "Dynamic",
        "Graph",
        "GraphAttention",
        "Grid",
        "Groups",
        "IC3Net",
        "Link",
        "Nearest",
        "Ring",
        "Star",
        "TarMAC",
        "Where",
        "Within",
    ),
    "marl.credit": (
        "VDN",
        "Counterfactual",
        "Independent",
        "QMix",
        "QPlex",
        "TeamReward",
        "WeightedQMix",
    ),
    "marl.curriculum": (
        "Among",
        "Annealed",
        "Between",
        "DomainRandomisation",
        "LearningProgress",
        "PrioritisedLevelReplay",
        "Rating",
        "Stage",
        "Stages",
        "Steps",
        "SuccessRate",
        "WinRate",
        "growing",
    ),
    "marl.learners": (
        "A2C",
        "DDPG",
        "DQN",
        "PPO",
        "SAC",
        "TD3",
        "Fixed",
        "Random",
        "Scripted",
    ),
    "marl.influence": ("SocialInfluence",),
    "marl.league": ("PSRO", "League"),
    "marl.learners.off_policy": ("Prioritised",),
    "marl.memory.hindsight": ("Hindsight",),
    "marl.exploration": (
        "Boltzmann",
        "BoltzmannGumbel",
        "EpsilonGreedy",
        "GaussianNoise",
        "Greedy",
        "GumbelSample",
        "MaxBoltzmann",
        "OrnsteinUhlenbeck",
        "Uniform",
    ),
    "marl.nets.q_head": (
        "Atoms",
        "Quantiles",
    ),
    "marl.schedules": (
        "Exponential",
        "Linear",
        "Logarithmic",
    ),
    "marl.evaluation.report": ("Report",),
    "marl.nets": ("CNN", "GRU", "MLP", "Custom"),
    "marl.scenario": ("Scenario",),
    "marl.scope": ("Joint", "Local"),
    "marl.shaping": (
        "RND",
        "Clip",
        "CountBonus",
        "DifferenceReward",
        "EpisodicNovelty",
        "Function",
        "PotentialBased",
        "RunningNormalize",
        "Scale",
        "Seen",
        "StepCost",
        "TeamSpirit",
    ),
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
    "DDPG",
    "DIAL",
    "DQN",
    "GRU",
    "MLP",
    "PPO",
    "PSRO",
    "RND",
    "SAC",
    "TD3",
    "VDN",
    "Agent",
    "Among",
    "Annealed",
    "Atoms",
    "Between",
    "Boltzmann",
    "BoltzmannGumbel",
    "CheckpointError",
    "Clip",
    "CommNet",
    "Complete",
    "ConfigError",
    "CountBonus",
    "Counterfactual",
    "Custom",
    "DifferenceReward",
    "DomainRandomisation",
    "Dynamic",
    "EnvContractError",
    "EpisodicNovelty",
    "EpsilonGreedy",
    "Exponential",
    "Fixed",
    "Function",
    "GaussianNoise",
    "Graph",
    "GraphAttention",
    "Greedy",
    "Grid",
    "Groups",
    "GumbelSample",
    "Hindsight",
    "History",
    "IC3Net",
    "Independent",
    "Joint",
    "League",
    "LearningProgress",
    "Linear",
    "Link",
    "Local",
    "Logarithmic",
    "MarlError",
    "MaxBoltzmann",
    "MeanReturn",
    "MultiAgentSystem",
    "Nearest",
    "NonFiniteError",
    "OrnsteinUhlenbeck",
    "PotentialBased",
    "Prioritised",
    "PrioritisedLevelReplay",
    "QMix",
    "QPlex",
    "Quantiles",
    "Random",
    "Rating",
    "Report",
    "ResourceError",
    "Ring",
    "RunningNormalize",
    "Scale",
    "Scenario",
    "Scripted",
    "Seen",
    "SocialInfluence",
    "Spoken",
    "Stage",
    "Stages",
    "Star",
    "StepCost",
    "Steps",
    "SuccessRate",
    "TarMAC",
    "TeamReward",
    "TeamSpirit",
    "Uniform",
    "WeightedQMix",
    "Where",
    "WinRate",
    "Within",
    "coma",
    "facmac",
    "growing",
    "happo",
    "ia2c",
    "iddpg",
    "ippo",
    "iql",
    "isac",
    "itd3",
    "maa2c",
    "maddpg",
    "mappo",
    "masac",
    "matd3",
    "ops",
    "qmix",
    "qplex",
    "vdn",
    "wqmix",
]


def __getattr__(name: str) -> object:
    """Import a public name from its home when it is first used."""
    if name == "ops":
        return importlib.import_module("marl.ops")
    if name not in _HOME_OF:
        import difflib

        near = difflib.get_close_matches(name, __all__, n=1)
        raise AttributeError(f"module 'marl' has no attribute {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names."""
    return sorted(__all__)
