"""Names of earlier versions, and what they are called now. Asked for by an old name, ``marl`` says the new one."""

from __future__ import annotations

# Where names of the root went.
_MOVED = {
    "curriculum": (
        "Among Annealed Between DomainRandomisation LearningProgress PrioritisedLevelReplay Rating Stage Stages Steps "
        "SuccessRate WinRate growing"
    ),
    "exploration": (
        "Boltzmann BoltzmannGumbel EpsilonGreedy GaussianNoise Greedy GumbelSample MaxBoltzmann OrnsteinUhlenbeck "
        "Uniform"
    ),
    "memory": "Hindsight Prioritised",
    "nets": "Atoms Quantiles",
    "schedules": "Exponential Logarithmic",
    "shaping": (
        "RND Clip CountBonus DifferenceReward EpisodicNovelty Function PotentialBased RunningNormalize Scale Seen "
        "SocialInfluence StepCost TeamSpirit"
    ),
    "topology": "Complete Dynamic Graph Grid Groups Nearest Ring Star Where Within",
    "types": "EnvContractError NonFiniteError ResourceError",
}
ROOT = {name: f"{namespace}.{name}" for namespace, names in _MOVED.items() for name in names.split()}
