"""Level-based foraging: food that two must lift together, by value decomposition and a potential that leads there."""

import numpy as np

import marl


def nearness(obs: np.ndarray) -> np.ndarray:
    """Minus how far both agents together are from the food that is nearest to both; ``(E, N, 12)`` to ``(E, N)``.

    Observations list two pieces of food and two agents, each by row, column and level; a level of 0 is eaten.
    """
    food, agents = np.split(obs.reshape(*obs.shape[:-1], 4, 3), 2, axis=-2)  # (E, N, 2, 3) each
    steps = np.abs(food[..., :, None, :2] - agents[..., None, :, :2]).sum((-1, -2))  # (E, N, food): of both agents
    left = food[..., 2] > 0
    nearest = np.where(left, steps, np.inf).min(-1)
    return np.where(left.any(-1), -0.03 * nearest, 0.0)


scenario = marl.Scenario(
    name="foraging",
    about="collect food that takes two to lift (lbforaging, 2 agents, VDN)",
    env="Foraging-8x8-2p-2f-coop-v3",
    agents=marl.vdn(
        network=marl.MLP((128, 128), "relu"),
        n_step=3,
        batch=128,
        learning_starts=5_000,
        updates_per_step=1 / 8,
        lr=marl.Linear(1e-3, 1e-4),
        tau=0.01,
        discount=0.97,
        buffer=200_000,
        normalize_obs=True,
        exploration=marl.EpsilonGreedy(marl.Linear(1.0, 0.05, 50_000)),
    ),
    num_envs=16,
    steps=200_000,
    shaping=[marl.PotentialBased(nearness)],  # chance alone lifts something in one episode of a hundred
    extra="lbf",
    expect="not learnt yet, 0.98 is wanted, sum of two agents (random: 0, all food: 1)",
)
