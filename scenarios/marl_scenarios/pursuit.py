"""Eight pursuers surround thirty evaders on a grid; smaller here, so that it trains in minutes."""

import marl

scenario = marl.Scenario(
    name="pursuit",
    about="surround evaders on a grid (PettingZoo SISL, 4 agents, PPO)",
    env="sisl/pursuit-v5",
    env_kwargs={"x_size": 10, "y_size": 10, "n_pursuers": 4, "n_evaders": 8, "max_cycles": 100},
    agents=marl.ippo(
        rollout=50,
        minibatches=4,
        epochs=6,
        lr=marl.Linear(1e-3, 1e-4),
        discount=0.95,
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=16,
    steps=120_000,
    expect="-3, sum of four pursuers (random: -38)",
    extra="sisl",
)
