"""Spread on the compiled twin by independent Q-learners."""

import marl

scenario = marl.Scenario(
    name="spread_iql",
    about="cover three landmarks together (native, 3 agents, IQL)",
    env="marl/spread-v0",
    agents=marl.iql(
        network=marl.MLP((128, 128), "relu"),
        lr=5e-4,
        batch=256,
        learning_starts=5_000,
        updates_per_step=1 / 16,
        tau=0.01,
        discount=0.95,
        buffer=200_000,
        exploration=marl.EpsilonGreedy(marl.Linear(1.0, 0.05, 100_000)),
    ),
    num_envs=16,
    steps=600_000,
    expect="-35, sum of three agents (random: -79)",
)
