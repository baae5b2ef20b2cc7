"""Two armies of MAgent2 meet on a small map; both learn, each with one policy for its soldiers."""

import marl

settings = {
    "rollout": 64,
    "minibatches": 4,
    "epochs": 3,
    "lr": marl.Linear(1e-3, 1e-4),
    "discount": 0.95,
    "entropy": marl.Linear(0.02, 0.0),
    "normalize_values": True,
    "agent_id": False,
    "network": marl.MLP((64, 64), "relu"),
}

scenario = marl.Scenario(
    name="battle",
    about="six soldiers fight six (MAgent2, 12 agents that die, PPO)",
    env="magent2.environments.battle_v4",
    env_kwargs={"map_size": 16, "max_cycles": 200},
    agents={"red_*": marl.ippo(**settings), "blue_*": marl.ippo(**settings)},
    num_envs=16,
    steps=100_000,
    # A blow costs 0.1 and most hit nobody: both armies then learn to keep the peace before they have found each other.
    curriculum=marl.curriculum.Annealed({"attack_penalty": marl.Linear(0.0, -0.1, 40_000)}),
    tasks=marl.curriculum.ByKwargs(),
    expect="the red army as sum +10 against random blue soldiers (random on both sides: -49)",
    extra="magent",
)
