"""Swing a two-link robot up by DQN."""

import marl

scenario = marl.Scenario(
    name="acrobot_dqn",
    about="swing a two-link robot above a line (native, 1 agent, DQN)",
    env="marl/acrobot-v0",
    agents=marl.DQN(
        network=marl.MLP((128, 128), "relu"),
        lr=marl.Linear(1e-3, 1e-4),
        batch=128,
        updates_per_step=0.25,
        n_step=3,
        tau=0.01,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.05, 12_000)),
    ),
    num_envs=8,
    steps=100_000,
    expect="-78 (random: -500)",
)
