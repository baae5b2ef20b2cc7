"""Rock, paper, scissors: best responses alone go round in circles, mixing them over a payoff table ends it."""

import marl

WINS = ((0, -1, 1), (1, 0, -1), (-1, 1, 0))
settings = {
    "rollout": 8,
    "epochs": 4,
    "minibatches": 4,
    "lr": 3e-3,
    "entropy": 0.01,
    "normalize_values": False,
    "network": marl.MLP((32,)),
}

scenario = marl.Scenario(
    name="rock_paper_scissors",
    about="rock, paper, scissors (matrix game, PSRO with a Nash meta-solver, PPO as best response)",
    env="marl/matrix_game-v0",
    env_kwargs={"payoff": (WINS, tuple(zip(*WINS, strict=True)))},
    agents={"agent_0": marl.ippo(**settings), "agent_1": marl.ippo(**settings)},
    num_envs=16,
    steps=8_000,
    league=marl.PSRO(response_steps=1_000, games=16),
    expect="a mixture of rock, paper and scissors that nobody can exploit (below 0.01)",
    extra="league",
)
