"""A speaker that cannot move names the goal to a listener that cannot see it, by MADDPG on the compiled twin."""

import marl

scenario = marl.Scenario(
    name="speaker_listener_maddpg",
    about="one agent names the goal, the other goes there (native, 2 agents, MADDPG)",
    env="marl/speaker_listener-v0",
    agents=marl.maddpg(
        network=marl.MLP((128, 128), "relu"),
        learning_starts=5_000,
        buffer=500_000,
    ),
    num_envs=16,
    steps=500_000,
    message_entries=("listener_0<speaker_0:8-10",),
    expect="-15, sum of both agents (random: -79; best without a message: -30.4)",
)
