"""Swing a two-link arm above the bar; each step costs one."""

import marl

scenario = marl.Scenario(
    name="acrobot",
    about="swing a two-link arm above the bar (Gymnasium, 1 agent)",
    env="Acrobot-v1",
    agents=marl.PPO(
        rollout=256,
        minibatches=32,
        epochs=4,
        lr=marl.Linear(1e-3, 0.0),
        gae_lambda=0.94,
        normalize_values=False,
        normalize_obs=True,
    ),
    num_envs=16,
    steps=100_000,
    expect="-85 or better (random: -500)",
    algorithms={
        "dqn": {
            "env": "marl/acrobot-v0",
            "agents": marl.DQN(
                network=marl.MLP((128, 128), "relu"),
                lr=marl.Linear(1e-3, 1e-4),
                batch=128,
                updates_per_step=0.25,
                n_step=3,
                tau=0.01,
                exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.05, 12_000)),
            ),
            "num_envs": 8,
            "steps": 100_000,
            "expect": "-78 (random: -500)",
        },
    },
)
