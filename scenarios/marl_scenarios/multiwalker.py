"""Three walkers carry a package together: continuous control."""

import marl

scenario = marl.Scenario(
    name="multiwalker",
    about="carry a package on six legs (PettingZoo SISL, 3 agents, continuous, PPO)",
    env="sisl/multiwalker-v9",
    agents=marl.ippo(
        rollout=256,
        minibatches=8,
        epochs=8,
        lr=marl.Linear(5e-4, 1e-4),
        normalize_obs=True,
        normalize_values=True,
    ),
    num_envs=8,
    steps=500_000,
    expect="-54 greedy, 46 sampling, as sum (seed 0; random: -314)",
    extra="sisl",
)
