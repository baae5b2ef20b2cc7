"""Level-based foraging: food that only two can lift together, by value decomposition."""

import marl

scenario = marl.Scenario(
    name="foraging",
    about="collect food that takes two to lift (lbforaging, 2 agents, VDN)",
    env="Foraging-8x8-2p-2f-coop-v3",
    agents=marl.vdn(
        network=marl.MLP((128, 128), "relu"),
        n_step=3,
        batch=256,
        learning_starts=10_000,
        updates_per_step=1 / 16,
        lr=marl.Linear(5e-4, 5e-5),
        tau=0.01,
        discount=0.98,
        buffer=300_000,
        exploration=marl.EpsilonGreedy(marl.Linear(1.0, 0.05, 150_000)),
    ),
    num_envs=16,
    steps=600_000,
    extra="lbf",
    expect="0.98 or better, sum of two agents (random: 0, all food: 1)",
)
