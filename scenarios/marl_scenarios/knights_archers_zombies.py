"""Archers and knights hold off zombies; whoever is touched dies while the others play on."""

import marl

scenario = marl.Scenario(
    name="knights_archers_zombies",
    about="hold off zombies while comrades fall (PettingZoo Butterfly, 4 agents that die, PPO)",
    env="butterfly/knights_archers_zombies-v11",
    agents=marl.ippo(
        rollout=128,
        minibatches=8,
        epochs=4,
        lr=marl.Linear(5e-4, 1e-4),
        entropy=0.01,
        normalize_obs=True,
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=8,
    steps=200_000,
    expect="the sum over the team rises above random play",
    extra="butterfly",
)
