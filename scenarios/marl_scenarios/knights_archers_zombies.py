"""Archers and knights hold off zombies; whoever is touched dies while the others play on."""

import marl

scenario = marl.Scenario(
    name="knights_archers_zombies",
    about="hold off zombies while comrades fall (PettingZoo Butterfly, 4 agents that die, PPO)",
    env="butterfly/knights_archers_zombies-v11",
    agents=marl.ippo(
        sharing="type",  # a policy for archers and one for knights
        rollout=64,
        minibatches=4,
        epochs=6,
        lr=marl.Linear(1e-3, 1e-4),
        entropy=marl.Linear(0.01, 0.0),
        normalize_obs=True,
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=16,
    steps=150_000,
    expect="7 zombies, sum of four (random: 2.4)",
    extra="butterfly",
)
