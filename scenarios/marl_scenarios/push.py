"""One agent goes to its goal; an adversary who does not know which goal pushes it away."""

import marl

settings = {
    "rollout": 25,
    "epochs": 10,
    "minibatches": 4,
    "lr": marl.Linear(1.5e-3, 3e-4),
    "discount": 0.9,
    "gae_lambda": 0.9,
    "entropy": marl.Linear(0.01, 0.0),
    "normalize_values": True,
    "network": marl.MLP((64, 64), "relu"),
}

scenario = marl.Scenario(
    name="push",
    about="reach the goal against one who pushes back (mpe2, 1 against 1, PPO)",
    env="mpe2.simple_push_v3",
    agents={"adversary_*": marl.ippo(**settings), "agent_*": marl.ippo(**settings)},
    num_envs=128,
    steps=500_000,
    expect="good agent above -28.7 (random play on both sides)",
    extra="mpe",
)
