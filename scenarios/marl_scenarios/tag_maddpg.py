"""Three slow predators by MADDPG chase one fast prey by DDPG of its own, on the compiled twin."""

import marl

settings = {
    "network": marl.MLP((128, 128), "relu"),
    "batch": 512,
    "learning_starts": 5_000,
    "buffer": 200_000,
}

scenario = marl.Scenario(
    name="tag_maddpg",
    about="three chase one (native, 3 agents against 1, MADDPG against IDDPG)",
    env="marl/tag-v0",
    agents={
        "adversary_*": marl.maddpg(critic=marl.Joint(of="all"), **settings),
        "agent_*": marl.iddpg(**settings),
    },
    num_envs=16,
    steps=200_000,
    expect="the predators as sum +74 against prey that learns too (random play on both sides: +12)",
)
