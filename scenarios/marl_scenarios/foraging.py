"""Level-based foraging: food that only two can lift together, by value decomposition."""

import marl

scenario = marl.Scenario(
    name="foraging",
    about="collect food that takes two to lift (lbforaging, 2 agents, VDN)",
    env="Foraging-8x8-2p-2f-coop-v3",
    agents=marl.vdn(
        network=marl.MLP((128, 128), "relu"),
        prioritised=marl.Prioritised(0.6, marl.Linear(0.4, 1.0)),
        n_step=5,
        batch=128,
        learning_starts=10_000,
        updates_per_step=1 / 8,
        lr=marl.Linear(1e-3, 1e-4),
        tau=0.01,
        discount=0.97,
        buffer=300_000,
        normalize_obs=True,
        exploration=marl.EpsilonGreedy(marl.Linear(1.0, 0.05, 80_000)),
    ),
    num_envs=16,
    steps=300_000,
    extra="lbf",
    expect="0.98 or better, sum of two agents (random: 0, all food: 1)",
)
