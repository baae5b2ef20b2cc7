"""Three agents cover three landmarks without bumping into each other."""

import marl

scenario = marl.Scenario(
    name="spread",
    about="cover three landmarks together (mpe2, 3 agents, MAPPO)",
    env="mpe2.simple_spread_v3",
    agents=marl.mappo(
        rollout=25,
        minibatches=4,
        epochs=10,
        lr=marl.Linear(1e-3, 1e-4),
        discount=0.95,
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        network=marl.MLP((64, 64), "relu"),
    ),
    num_envs=32,
    steps=500_000,
    expect="-36 or better, sum of three agents (random: -79)",
    extra="mpe",
)
