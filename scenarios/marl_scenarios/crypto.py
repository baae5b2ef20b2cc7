"""Alice sends Bob one bit under a shared key while Eve listens."""

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
    name="crypto",
    about="send a message that an eavesdropper cannot read (mpe2, 2 agents against 1, MAPPO against PPO)",
    env="mpe2.simple_crypto_v3",
    agents={"eve_*": marl.ippo(**settings), "*": marl.mappo(sharing="none", **settings)},
    num_envs=128,
    steps=500_000,
    message_entries=("bob_0<alice_0:4-7", "eve_0<alice_0:0-3"),
    expect="Alice and Bob as sum above -0.2 (random play on both sides)",
    extra="mpe",
)
