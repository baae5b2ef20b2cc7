"""Multi-agent reinforcement learning on PettingZoo and PyTorch: one grid of choices instead of a zoo of algorithms."""

from __future__ import annotations

import importlib

__version__ = "0.2.0"

# Where each public name lives. Names are imported when first used, so that worker processes never import torch.
# Type checkers read ``__init__.pyi``.
_HOMES = {
    "marl.adapters.spoken": "Spoken",
    "marl.playing.single": "Agent",
    "marl.algorithms": (
        "coma facmac happo ia2c iddpg ippo iql isac itd3 maa2c maddpg mappo masac matd3 qmix qplex vdn wqmix"
    ),
    "marl.channels": (
        "DIAL CommNet Complete Dynamic Graph GraphAttention Grid Groups IC3Net Link Nearest Ring Star TarMAC Where "
        "Within"
    ),
    "marl.curriculum": (
        "Among Annealed Between DomainRandomisation LearningProgress PrioritisedLevelReplay Rating Stage Stages "
        "Steps SuccessRate WinRate growing"
    ),
    "marl.playing.report": "Report",
    "marl.exploration": (
        "Boltzmann BoltzmannGumbel EpsilonGreedy GaussianNoise Greedy GumbelSample MaxBoltzmann OrnsteinUhlenbeck "
        "Uniform"
    ),
    "marl.grid": "VDN Counterfactual Independent Joint Local QMix QPlex TeamReward WeightedQMix",
    "marl.league": "PSRO League",
    "marl.learners": "A2C DDPG DQN PPO SAC TD3 Fixed Random Scripted",
    "marl.memory": "Hindsight Prioritised",
    "marl.nets": "CNN GRU MLP Custom",
    "marl.nets.q_head": "Atoms Quantiles",
    "marl.scenario": "Scenario",
    "marl.schedules": "Exponential Linear Logarithmic",
    "marl.shaping": (
        "RND Clip CountBonus DifferenceReward EpisodicNovelty Function PotentialBased RunningNormalize Scale Seen "
        "SocialInfluence StepCost TeamSpirit"
    ),
    "marl.stopping": "MeanReturn",
    "marl.system": "MultiAgentSystem",
    "marl.training.history": "History",
    "marl.types": "CheckpointError ConfigError EnvContractError MarlError NonFiniteError ResourceError",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME_OF, "ops", "optim"])


def __getattr__(name: str) -> object:
    """Import a public name from its home when it is first used."""
    if name in ("compiled", "extend", "ops", "optim"):
        return importlib.import_module(f"marl.{name}")
    if name not in _HOME_OF:
        near = importlib.import_module("marl.config").nearest(name, __all__)
        raise AttributeError(f"module 'marl' has no attribute {name!r}{f'; did you mean {near!r}?' if near else ''}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names."""
    return __all__
