"""Balance a pole without seeing velocities: a memory has to find them."""

import marl

scenario = marl.Scenario(
    name="cartpole_masked",
    about="balance a pole, velocities hidden (compiled, 1 agent, PPO with a GRU)",
    env="marl/cartpole-v0",
    env_kwargs={"velocities": False},
    agents=marl.PPO(
        network=marl.GRU(64, encoder=marl.MLP((64,))),
        rollout=128,
        epochs=10,
        minibatches=4,
        lr=marl.Linear(3e-3, 0.0),
        normalize_values=False,
    ),
    num_envs=8,
    steps=200_000,
    expect="450 of at most 500, mean of five seeds (random: 22)",
)
