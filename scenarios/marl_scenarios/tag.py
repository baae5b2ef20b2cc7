"""Three slow predators chase one fast prey; both sides learn."""

import marl

settings = {
    "rollout": 25,
    "epochs": 10,
    "lr": marl.Linear(1.5e-3, 3e-4),
    "discount": 0.9,
    "gae_lambda": 0.9,
    "entropy": marl.Linear(0.01, 0.0),
    "normalize_values": True,
    "network": marl.MLP((64, 64), "relu"),
}

scenario = marl.Scenario(
    name="tag",
    about="three chase one (mpe2, 3 agents against 1, MAPPO against PPO)",
    env="mpe2.simple_tag_v3",
    agents={"adversary_*": marl.mappo(**settings), "agent_*": marl.ippo(**settings)},
    num_envs=128,
    steps=500_000,
    expect="the three predators as sum above +12 (random play on both sides)",
    extra="mpe",
)
