"""A speaker that cannot move names the goal to a listener that cannot see it."""

import marl

scenario = marl.Scenario(
    name="speaker_listener",
    about="one agent names the goal, the other goes there (mpe2, 2 agents, MAPPO)",
    env="mpe2.simple_speaker_listener_v4",
    agents=marl.mappo(
        sharing="none",
        rollout=25,
        minibatches=4,
        epochs=10,
        lr=marl.Linear(1e-3, 1e-4),
        discount=0.95,
        entropy=marl.Linear(0.02, 0.0),
        normalize_values=True,
        network=marl.MLP((64, 64), "relu"),
    ),
    num_envs=32,
    steps=500_000,
    expect="-20 or better, sum of both agents (random: -79; best without a message: -30.4)",
    extra="mpe",
)
