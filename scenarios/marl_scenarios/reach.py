"""Reach goals that pay only where they are reached, by hindsight."""

import marl

scenario = marl.Scenario(
    name="reach",
    about="reach a goal in space (native, 1 agent, sparse reward, DDPG with hindsight)",
    env="marl/reach-v0",
    agents=marl.DDPG(
        hindsight=marl.memory.Hindsight("marl_envs.reach:compute_reward"),
        network=marl.MLP((64, 64), "relu"),
        lr=1e-3,
        batch=256,
        learning_starts=1_000,
        updates_per_step=0.25,
        tau=0.02,
        discount=0.95,
        exploration=marl.exploration.GaussianNoise(0.2),
    ),
    num_envs=4,
    steps=30_000,
    expect="-12, at the goal in all episodes (random: -50)",
)
