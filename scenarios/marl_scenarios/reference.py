"""Two agents, each knowing only the other's goal: both speak, both move."""

import marl

scenario = marl.Scenario(
    name="reference",
    about="tell each other where to go (mpe2, 2 agents, MAPPO)",
    env="mpe2.simple_reference_v3",
    agents=marl.mappo(
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
    message_entries=("agent_0<agent_1:11-20", "agent_1<agent_0:11-20"),
    expect="better than random (-56, sum of both agents); the best without a message is -34.7",
    extra="mpe",
)
