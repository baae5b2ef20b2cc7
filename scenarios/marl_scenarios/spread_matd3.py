"""Spread on the compiled twin by twin delayed MADDPG."""

import marl

scenario = marl.Scenario(
    name="spread_matd3",
    about="cover three landmarks together (native, 3 agents, MATD3)",
    env="marl/spread-v0",
    agents=marl.matd3(
        network=marl.MLP((128, 128), "relu"),
        lr=1e-3,
        batch=1_024,
        learning_starts=5_000,
        updates_per_step=1 / 50,
        tau=0.01,
        discount=0.95,
        buffer=500_000,
        max_grad_norm=0.5,
    ),
    num_envs=16,
    steps=1_000_000,
    expect="-32, sum of three agents (random: -79)",
)
