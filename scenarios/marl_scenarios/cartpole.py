"""Balance a pole on a cart: one agent is the one-agent case."""

import marl

# Settings of https://github.com/DLR-RM/rl-baselines3-zoo (PPO, CartPole-v1).
scenario = marl.Scenario(
    name="cartpole",
    about="balance a pole on a cart (Gymnasium, 1 agent, PPO)",
    env="CartPole-v1",
    agents=marl.PPO(
        rollout=32,
        minibatches=1,
        epochs=20,
        lr=marl.Linear(1e-3, 0.0),
        clip=marl.Linear(0.2, 1e-3),
        discount=0.98,
        gae_lambda=0.8,
    ),
    num_envs=8,
    steps=100_000,
    expect="500 of at most 500 (random: 22)",
)
