"""Two agents hide from an adversary which of two landmarks is theirs."""

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
    name="adversary",
    about="reach the goal without giving it away (mpe2, 2 agents against 1, MAPPO against PPO)",
    env="mpe2.simple_adversary_v3",
    agents={"adversary_*": marl.ippo(**settings), "agent_*": marl.mappo(**settings)},
    num_envs=128,
    steps=500_000,
    expect="good agents above +14.5 as sum, adversary above -28 (random play on both sides)",
    extra="mpe",
)
