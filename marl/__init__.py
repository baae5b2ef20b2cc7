"""Multi-agent reinforcement learning on PettingZoo and PyTorch: algorithms are combinations of independent choices."""

from __future__ import annotations

from marl.lazy import attach, homes
from marl.renamed import ROOT

__version__ = "0.2.0"

# Where each public name lives: what is typed every day. Names are imported when first used, so that worker processes
# never import torch. Type checkers read ``__init__.pyi``.
_HOMES = {
    "marl.adapters.spoken": "Spoken",
    "marl.algorithms": (
        "appo coma facmac happo ia2c iddpg impala ippo iql isac itd3 maa2c maddpg mappo masac matd3 qmix qplex vdn "
        "wqmix"
    ),
    "marl.channels": "DIAL CommNet GraphAttention IC3Net Link TarMAC",
    "marl.grid": "VDN Counterfactual Independent Joint Local QMix QPlex TeamReward VTrace WeightedQMix",
    "marl.league": "PSRO League",
    "marl.learners": "A2C DDPG DQN PPO SAC TD3 Fixed Random Scripted",
    "marl.nets": "CNN GRU MLP Custom",
    "marl.playing": "Experiment Report",
    "marl.playing.single": "Agent",
    "marl.scenario": "Scenario",
    "marl.schedules": "Linear",
    "marl.stopping": "MeanReturn",
    "marl.studies": "Choice IntUniform LogUniform Population Search Study Uniform",
    "marl.system": "MultiAgentSystem",
    "marl.types": "CheckpointError ConfigError MarlError",
}
# Modules with the names of one idea each, in their ``__all__``.
_NAMESPACES = (
    *(
        "auxiliary",
        "callbacks",
        "compiled",
        "conformance",
        "curriculum",
        "deploy",
        "exploration",
        "extend",
        "logs",
        "memory",
        "nets",
        "ops",
        "optim",
    ),
    *("playing", "report", "schedules", "shaping", "stopping", "studies", "topology", "training", "types"),
)

__getattr__, __dir__, __all__ = attach(__name__, homes(_HOMES), globals(), _NAMESPACES, ROOT)
