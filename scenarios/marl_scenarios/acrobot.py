"""Swing a two-link arm above the bar; each step costs one."""

import marl

scenario = marl.Scenario(
    name="acrobot",
    about="swing a two-link arm above the bar (Gymnasium, 1 agent, PPO)",
    env="Acrobot-v1",
    agents=marl.PPO(
        rollout=256,
        minibatches=32,
        epochs=4,
        lr=marl.Linear(1e-3, 0.0),
        gae_lambda=0.94,
        normalize_obs=True,
    ),
    num_envs=16,
    steps=100_000,
    expect="-85 or better (random: -500)",
)
