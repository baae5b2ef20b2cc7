"""Swing a pendulum up and keep it there: a continuous action."""

import marl

replay = {  # of learners with a replay
    "network": marl.MLP((64, 64), "relu"),
    "lr": 1e-3,
    "batch": 128,
    "learning_starts": 1_000,
    "updates_per_step": 1.0,
    "discount": 0.98,
}
twin = {"env": "marl/pendulum-v0", "num_envs": 1, "steps": 20_000, "expect": "-170 or better (random: -1200)"}

scenario = marl.Scenario(
    name="pendulum",
    about="swing a pendulum up and hold it (Gymnasium, 1 agent, continuous)",
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
    algorithms={
        "ddpg": {"agents": marl.DDPG(**replay), **twin},
        "td3": {"agents": marl.TD3(**replay), **twin},
        "sac": {"agents": marl.SAC(**replay), **twin},
    },
)
