"""Predators that see only their own cell look for prey, and call the others when they have found it (IC3Net)."""

import marl

scenario = marl.Scenario(
    name="predator_prey",
    about="blind predators call each other to the prey (compiled, MAPPO with IC3Net)",
    env="marl/predator_prey-v0",
    env_kwargs={"level": "easy"},
    agents=marl.mappo(
        channel=marl.IC3Net(rounds=1),
        network=marl.GRU(64),
        rollout=20,
        minibatches=4,
        epochs=4,
        lr=marl.Linear(1e-3, 1e-4),
        entropy=marl.Linear(0.02, 0.0),
        normalize_values=True,
    ),
    num_envs=64,
    steps=600_000,
    expect="all on the prey after about 9.3 steps (of 20; IC3Net 8.9, without a channel 16.5)",
)
