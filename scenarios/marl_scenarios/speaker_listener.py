"""A speaker that cannot move names the goal to a listener that cannot see it."""

import marl

scenario = marl.Scenario(
    name="speaker_listener",
    about="one agent names the goal, the other goes there (mpe2, 2 agents)",
    env="mpe2.simple_speaker_listener_v4",
    agents=marl.mappo(
        sharing="none",
        rollout=25,
        minibatches=4,
        epochs=10,
        lr=marl.Linear(1.5e-3, 3e-4),
        discount=0.9,
        gae_lambda=0.9,
        entropy=marl.Linear(0.02, 0.002),
        normalize_values=True,
        network=marl.MLP((64, 64), "relu"),
    ),
    num_envs=128,
    steps=400_000,
    message_entries=("listener_0<speaker_0:8-10",),
    expect="-15, sum of both agents (random: -79; best without a message: -30.4)",
    extra="mpe",
    algorithms={
        "maddpg": {
            "env": "marl/speaker_listener-v0",
            "extra": None,
            "agents": marl.maddpg(
                network=marl.MLP((128, 128), "relu"),
                batch=1_024,
                updates_per_step=1 / 50,
                learning_starts=5_000,
                buffer=500_000,
            ),
            "num_envs": 16,
            "steps": 500_000,
            "expect": "-15, sum of both agents (random: -79; best without a message: -30.4)",
        },
    },
)
