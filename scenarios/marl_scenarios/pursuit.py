"""Eight pursuers surround thirty evaders on a grid; smaller here, so that it trains in minutes."""

import marl

scenario = marl.Scenario(
    name="pursuit",
    about="surround evaders on a grid (PettingZoo SISL, 4 agents, PPO)",
    env="sisl/pursuit-v5",
    env_kwargs={"x_size": 10, "y_size": 10, "n_pursuers": 4, "n_evaders": 8, "max_cycles": 100},
    agents=marl.ippo(
        rollout=100,
        minibatches=8,
        epochs=6,
        lr=marl.Linear(5e-4, 1e-4),
        entropy=0.01,
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=8,
    steps=100_000,
    expect="the sum over pursuers rises above random play",
    extra="sisl",
)
