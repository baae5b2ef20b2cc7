"""Spread on the compiled twin by twin delayed MADDPG."""

import marl

scenario = marl.Scenario(
    name="spread_matd3",
    about="cover three landmarks together (native, 3 agents, MATD3)",
    env="marl/spread-v0",
    agents=marl.matd3(
        network=marl.MLP((128, 128), "relu"),
        learning_starts=5_000,
        discount=0.85,
        buffer=500_000,
    ),
    num_envs=16,
    steps=600_000,
    expect="-29, sum of three agents (random: -79)",
)
