"""Drive a weak car out of a valley by DQN: updates come in bursts, and between them the policy does not change."""

import marl

# Settings of https://github.com/DLR-RM/rl-baselines3-zoo (DQN, MountainCar-v0): eight updates in every sixteen steps.
scenario = marl.Scenario(
    name="mountain_car",
    about="rock a car out of a valley (Gymnasium, 1 agent, DQN)",
    env="MountainCar-v0",
    agents=marl.DQN(
        network=marl.MLP((256, 256), "relu"),
        double=False,
        huber=1.0,
        lr=4e-3,
        batch=128,
        buffer=10_000,
        learning_starts=1_000,
        updates_per_step=0.5,
        update_every=16,
        discount=0.98,
        target_every=300,  # updates: 600 steps
        tau=1.0,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.07, 24_000)),
    ),
    num_envs=1,
    steps=120_000,
    expect="-102, the median of five seeds (random: -200)",
)
