"""Level-based foraging: food that two must lift together, learnt on grids of several sizes by value decomposition."""

import marl

scenario = marl.Scenario(
    name="foraging",
    about="collect food that takes two to lift (native, 2 agents, VDN)",
    env="marl/foraging-v0",
    agents=marl.vdn(
        network=marl.MLP((128, 128), "relu"),
        n_step=3,
        batch=256,
        learning_starts=10_000,
        updates_per_step=1 / 16,
        lr=marl.Linear(5e-4, 0.0),
        tau=0.01,
        discount=0.92,
        buffer=200_000,
        normalize_obs=True,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.05, 500_000)),
    ),
    num_envs=32,
    steps=2_000_000,
    shaping=[marl.shaping.Scale(20.0)],  # new networks say one where a lift is worth a sixth: that must not drown it
    # Chance alone lifts something in one episode of 18 on a grid of 5 x 5, in one of 145 on 8 x 8.
    curriculum=marl.curriculum.DomainRandomization({"size": marl.curriculum.Among((5, 6, 7, 8))}, target={"size": 8}),
    expect="0.99, sum of two agents (random: 0, all food: 1)",
)
