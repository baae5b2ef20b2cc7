"""Balance a pole on a cart: one agent is the one-agent case."""

import marl

# Settings of https://github.com/DLR-RM/rl-baselines3-zoo (PPO, CartPole-v1).
scenario = marl.Scenario(
    name="cartpole",
    about="balance a pole on a cart (Gymnasium, 1 agent)",
    env="CartPole-v1",
    agents=marl.PPO(
        rollout=32,
        minibatches=1,
        epochs=20,
        lr=marl.Linear(1e-3, 0.0),
        clip=marl.Linear(0.2, 1e-3),
        discount=0.98,
        gae_lambda=0.8,
        normalize_values=False,
    ),
    num_envs=8,
    steps=100_000,
    expect="500 of at most 500 (random: 22)",
    algorithms={
        "a2c": {
            "agents": marl.A2C(rollout=5, lr=marl.Linear(7e-4, 0.0)),
            "steps": 500_000,
            "expect": "500 of at most 500 (random: 22)",
        },
        "dqn": {
            "env": "marl/cartpole-v0",
            "agents": marl.DQN(
                network=marl.MLP((128, 128), "relu"),
                lr=marl.Linear(1e-3, 1e-5),
                batch=128,
                updates_per_step=0.5,
                tau=0.01,
                exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.04, 16_000)),
            ),
            "steps": 100_000,
            "expect": "500, the maximum (random: 22)",
        },
    },
)
