"""Three agents cover three landmarks without bumping into each other."""

import marl

# The gradient of a small batch is mostly noise here: 32 copies stay where everybody goes to the nearest landmark (-50).
scenario = marl.Scenario(
    name="spread",
    about="cover three landmarks together (mpe2, 3 agents, MAPPO)",
    env="mpe2.simple_spread_v3",
    agents=marl.mappo(
        rollout=25,
        minibatches=4,
        epochs=15,
        lr=marl.Linear(1.5e-3, 3e-4),
        discount=0.9,
        gae_lambda=0.9,
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=128,
    steps=1_000_000,
    expect="-29, sum of three agents (random: -79)",
    extra="mpe",
)
