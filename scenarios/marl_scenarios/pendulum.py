"""Swing a pendulum up and keep it there: a continuous action."""

import marl

scenario = marl.Scenario(
    name="pendulum",
    about="swing a pendulum up and hold it (Gymnasium, 1 agent, continuous, PPO)",
    env="Pendulum-v1",
    agents=marl.PPO(
        rollout=256,
        minibatches=16,
        epochs=10,
        lr=marl.Linear(1e-3, 1e-4),
        discount=0.95,
        gae_lambda=0.9,
        normalize_values=True,
        normalize_obs=True,
    ),
    num_envs=4,
    steps=200_000,
    expect="-170 or better (random: -1200)",
)
