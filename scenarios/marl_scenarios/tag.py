"""Three slow predators chase one fast prey; both sides learn."""

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

replay = {  # of learners with a replay
    "network": marl.MLP((128, 128), "relu"),
    "batch": 512,
    "updates_per_step": 1 / 50,
    "learning_starts": 5_000,
    "buffer": 200_000,
}

scenario = marl.Scenario(
    name="tag",
    about="three chase one (mpe2, 3 agents against 1)",
    env="mpe2.simple_tag_v3",
    agents={"adversary_*": marl.mappo(**settings), "agent_*": marl.ippo(**settings)},
    num_envs=128,
    steps=500_000,
    expect="the three predators as sum above +12 (random play on both sides)",
    extra="mpe",
    algorithms={
        "maddpg": {
            "env": "marl/tag-v0",
            "extra": None,
            # The predators' critic sees the prey too; the prey has a DDPG of its own.
            "agents": {
                "adversary_*": marl.maddpg(critic=marl.Joint(of="all"), **replay),
                "agent_*": marl.iddpg(**replay),
            },
            "num_envs": 16,
            "steps": 200_000,
            "expect": "the predators as sum +74 against prey that learns too (random play on both sides: +12)",
        },
    },
)
