"""Balance a pole on a cart, with the simplest learner."""

import marl

scenario = marl.Scenario(
    name="cartpole_a2c",
    about="balance a pole on a cart (Gymnasium, 1 agent, A2C)",
    env="CartPole-v1",
    agents=marl.A2C(rollout=5, lr=marl.Linear(7e-4, 0.0)),
    num_envs=8,
    steps=500_000,
    expect="500 of at most 500 (random: 22)",
)
