"""What the mixtures of a PSRO run play, exactly."""

from __future__ import annotations

import numpy as np
import torch
from marl_envs import kuhn
from marl_envs.matrix_game import ROCK_PAPER_SCISSORS

import marl
from marl.league.members import Member
from marl.memory.base import PolicyInput

WINS = ROCK_PAPER_SCISSORS[0]


def inputs_of(obs: np.ndarray) -> PolicyInput:
    """What a team of one sees, a row each."""
    rows = len(obs)
    seen = torch.from_numpy(obs).unsqueeze(1)
    yes = torch.ones(rows, 1, dtype=torch.bool)
    return PolicyInput(seen, torch.zeros(rows, 1, 0), torch.zeros(rows, dtype=torch.bool), yes, None)


def chances_of(member: Member, obs: np.ndarray) -> np.ndarray:
    """A member's action probabilities ``(K, A)``; pure if it is greedy."""
    parameters, _ = member.parameters(inputs_of(obs))
    if member.greedy:
        return torch.nn.functional.one_hot(parameters[:, 0].argmax(-1), parameters.shape[-1]).numpy()
    return parameters[:, 0].softmax(-1).numpy()


def kuhn_mixtures(system: marl.MultiAgentSystem) -> list[kuhn.Policy]:
    """Both players' mixtures as behavior in every information set."""
    mixed: list[kuhn.Policy] = []
    for player, team in enumerate(kuhn.PLAYERS):
        strategy = system.league_state.strategy(team)
        policies = [kuhn.tabulate(player, lambda obs, m=member: chances_of(m, obs)[:, 1]) for _, member in strategy]
        mixed.append(kuhn.mix(player, [chance for chance, _ in strategy], policies))
    return mixed


def throws(system: marl.MultiAgentSystem, team: str) -> np.ndarray:
    """How often a team's mixture plays rock, paper and scissors."""
    first = np.array([[1, 0, 0, 0, 0, 0, 0]], dtype=np.float32)  # nothing has been played yet
    return sum(chance * chances_of(member, first)[0] for chance, member in system.league_state.strategy(team))


def throws_exploitability(system: marl.MultiAgentSystem) -> float:
    """What the better of two best answers wins a game against the mixtures."""
    return max(float((WINS @ throws(system, team)).max()) for team in ("agent_0", "agent_1"))
