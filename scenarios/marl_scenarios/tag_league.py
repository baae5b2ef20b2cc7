"""Three slow predators chase one fast prey; both learn, half of the time from what the other side has been."""

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

scenario = marl.Scenario(
    name="tag_league",
    about="three chase one against snapshots (3 agents against 1, MAPPO against PPO, league)",
    env="marl/tag-v0",
    agents={"adversary_*": marl.mappo(**settings), "agent_*": marl.ippo(**settings)},
    num_envs=128,
    steps=500_000,
    league=marl.League(snapshot_every=50_000, matchmaking="uniform", latest=0.5),
    expect="predators and prey that hold out against each other's earlier selves",
)
