"""Drive a weak car out of a valley by SAC: noise that pushes one way for a while finds the flag."""

import marl

scenario = marl.Scenario(
    name="mountain_car_continuous_sac",
    about="rock a car out of a valley (native, 1 agent, continuous, SAC)",
    env="marl/mountain_car_continuous-v0",
    agents=marl.SAC(
        network=marl.MLP((64, 64), "relu"),
        lr=1e-3,
        batch=128,
        learning_starts=1_000,
        random_start=False,
        updates_per_step=1 / 6,
        tau=0.01,
        discount=0.99,
        n_step=3,
        first_temperature=0.1,
        normalize_obs=True,
        exploration=marl.exploration.OrnsteinUhlenbeck(scale=marl.Linear(0.5, 0.0, 16_000)),
    ),
    num_envs=4,
    steps=32_000,
    expect="94 (standing still: 0)",
)
