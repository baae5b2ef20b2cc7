"""Catch a falling ball: one reward at the end, by DQN."""

import marl

scenario = marl.Scenario(
    name="catch",
    about="catch a falling ball (native, 1 agent, DQN)",
    env="marl/catch-v0",
    agents=marl.DQN(
        network=marl.MLP((64,), "relu"),
        lr=2e-3,
        batch=32,
        learning_starts=200,
        updates_per_step=1.0,
        tau=1.0,
        target_every=50,
        buffer=10_000,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.02, 1_500)),
    ),
    num_envs=1,
    steps=4_500,
    expect="1, the optimum (random: -0.6)",
)
