"""Spread on the compiled twin by multi-agent SAC."""

import marl

scenario = marl.Scenario(
    name="spread_masac",
    about="cover three landmarks together (native, 3 agents, MASAC)",
    env="marl/spread-v0",
    agents=marl.masac(
        network=marl.MLP((128, 128), "relu"),
        learning_starts=5_000,
        discount=0.85,
        buffer=500_000,
    ),
    num_envs=16,
    steps=1_000_000,
    expect="-27, sum of three agents (random: -79)",
)
