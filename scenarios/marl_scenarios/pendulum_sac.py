"""Swing a pendulum up and keep it there, off-policy by SAC."""

import marl

scenario = marl.Scenario(
    name="pendulum_sac",
    about="swing a pendulum up and hold it (native, 1 agent, continuous, SAC)",
    env="marl/pendulum-v0",
    agents=marl.SAC(
        network=marl.MLP((64, 64), "relu"),
        lr=1e-3,
        batch=128,
        learning_starts=1_000,
        updates_per_step=1.0,
        discount=0.98,
    ),
    num_envs=1,
    steps=20_000,
    expect="-170 or better (random: -1200)",
)
