"""Leagues of rock, paper, scissors."""

from __future__ import annotations

import numpy as np

import marl

WINS = ((0, -1, 1), (1, 0, -1), (-1, 1, 0))
RPS = {"payoff": (WINS, tuple(zip(*WINS, strict=True)))}
PPO = marl.ippo(rollout=8, minibatches=2, network=marl.MLP((16,)))
THROWS = (marl.Fixed(0), marl.Fixed(1), marl.Fixed(2))


def rps(league, learner=PPO, **options):
    """Rock, paper, scissors, five rounds a game, a team each."""
    agents = learner if isinstance(learner, dict) else {"agent_0": learner, "agent_1": learner}
    env_kwargs = RPS | {"rounds": 5}
    options = {"num_envs": 4, "seed": 1} | options
    return marl.MultiAgentSystem(agents, "marl/matrix_game-v0", env_kwargs=env_kwargs, league=league, **options)


def mixed(first=(0.25, 0.75, 0.0), second=(0.0, 0.0, 1.0), **options):
    """Rock and paper against scissors, whatever the responses have come to."""
    system = rps(marl.PSRO(response_steps=1_000, games=4, opponents=THROWS), **options)
    system.train(steps=8)
    system.league_state.mixture = {place: np.append(chances, 0.0) for place, chances in enumerate((first, second))}
    return system
