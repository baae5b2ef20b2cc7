"""Two agents, each knowing only the other's goal, tell each other by messages that they learn, on the compiled twin."""

import marl

scenario = marl.Scenario(
    name="reference_tarmac",
    about="tell each other where to go by learnt messages (native, 2 agents, MAPPO with TarMAC)",
    env="marl/reference-v0",
    agents=marl.mappo(
        channel=marl.TarMAC(rounds=1),
        rollout=25,
        minibatches=4,
        epochs=10,
        lr=marl.Linear(1.5e-3, 3e-4),
        discount=0.9,
        gae_lambda=0.9,
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        network=marl.MLP((64, 64), "relu"),
    ),
    num_envs=128,
    steps=1_000_000,
    expect="about -25, sum of both agents (random: -56; the best without a message is -34.7)",
)
