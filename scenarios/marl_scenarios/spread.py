"""Three agents cover three landmarks without bumping into each other; algorithms with a replay train on the twin."""

import marl

values = {  # of value-based learners
    "network": marl.MLP((128, 128), "relu"),
    "lr": marl.Linear(1e-3, 5e-5),
    "learning_starts": 5_000,
    "discount": 0.8,
    "buffer": 200_000,
    "exploration": marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.02, 200_000)),
}
actors = {  # of learners with an actor and a replay
    "network": marl.MLP((128, 128), "relu"),
    "batch": 1_024,
    "updates_per_step": 1 / 50,
    "learning_starts": 5_000,
    "discount": 0.85,
    "buffer": 500_000,
}
twin = {"env": "marl/spread-v0", "extra": None, "num_envs": 16}

# The gradient of a small batch is mostly noise here: 32 copies stay where everybody goes to the nearest landmark (-50).
scenario = marl.Scenario(
    name="spread",
    about="cover three landmarks together (mpe2, 3 agents)",
    env="mpe2.simple_spread_v3",
    agents=marl.mappo(
        rollout=25,
        minibatches=4,
        epochs=15,
        lr=marl.Linear(1.5e-3, 3e-4),
        discount=0.9,
        gae_lambda=0.9,
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=128,
    steps=1_000_000,
    expect="-29, sum of three agents (random: -79)",
    extra="mpe",
    algorithms={
        "iql": {
            "agents": marl.iql(**values),
            "steps": 800_000,
            "expect": "-28, sum of three agents (random: -79)",
            **twin,
        },
        "vdn": {
            "agents": marl.vdn(**values),
            "steps": 600_000,
            "expect": "-28, sum of three agents (random: -79)",
            **twin,
        },
        "qmix": {
            "agents": marl.qmix(**values),
            "steps": 800_000,
            "expect": "-27, sum of three agents (random: -79)",
            **twin,
        },
        "maddpg": {
            "agents": marl.maddpg(**actors),
            "steps": 600_000,
            "expect": "-28, sum of three agents (random: -79)",
            **twin,
        },
        "matd3": {
            "agents": marl.matd3(**actors),
            "steps": 600_000,
            "expect": "-29, sum of three agents (random: -79)",
            **twin,
        },
        "masac": {
            "agents": marl.masac(**actors),
            "steps": 1_000_000,
            "expect": "-27, sum of three agents (random: -79)",
            **twin,
        },
    },
)
