"""Spread on the compiled twin by QMIX."""

import marl

scenario = marl.Scenario(
    name="spread_qmix",
    about="cover three landmarks together (native, 3 agents, QMIX)",
    env="marl/spread-v0",
    agents=marl.qmix(
        network=marl.MLP((128, 128), "relu"),
        lr=marl.Linear(1e-3, 5e-5),
        learning_starts=5_000,
        discount=0.8,
        buffer=200_000,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.02, 200_000)),
    ),
    num_envs=16,
    steps=800_000,
    expect="-27, sum of three agents (random: -79)",
)
