"""Balance a pole on a cart by DQN."""

import marl

scenario = marl.Scenario(
    name="cartpole_dqn",
    about="balance a pole (native, 1 agent, DQN)",
    env="marl/cartpole-v0",
    agents=marl.DQN(
        network=marl.MLP((128, 128), "relu"),
        lr=marl.Linear(1e-3, 1e-5),
        batch=128,
        updates_per_step=0.5,
        tau=0.01,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.04, 16_000)),
    ),
    num_envs=8,
    steps=100_000,
    expect="500, the maximum (random: 22)",
)
