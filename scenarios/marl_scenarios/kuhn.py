"""Kuhn poker by PSRO: PPO learns best responses to a mixture of all policies so far."""

import marl

settings = {
    "rollout": 16,
    "epochs": 4,
    "minibatches": 4,
    "lr": 3e-3,
    "discount": 1.0,
    "entropy": 0.01,
    "normalize_values": False,
    "network": marl.MLP((32, 32), "relu"),
}

scenario = marl.Scenario(
    name="kuhn",
    about="poker with three cards (AEC, PSRO with a Nash meta-solver, PPO as best response)",
    env="marl/kuhn-v0",
    agents={"player_0": marl.ippo(**settings), "player_1": marl.ippo(**settings)},
    num_envs=64,
    steps=160_000,
    league=marl.PSRO(response_steps=20_000, games=8_000),
    expect="a NashConv of the mixtures below 0.1 (uniform play: 11/12), a value near -1/18",
    extra="league",
)
