"""Cars that cannot see each other cross a junction: they tell each other where they are (TarMAC)."""

import marl

scenario = marl.Scenario(
    name="traffic_junction",
    about="blind cars cross a junction by talking (compiled, MAPPO with TarMAC)",
    env="marl/traffic_junction-v0",
    env_kwargs={"level": "easy", "vision": 0},
    agents=marl.mappo(
        # Only slots with a car in them speak and listen; two rounds, as in the paper.
        channel=marl.TarMAC(rounds=2, topology=marl.topology.Where(speak=0, hear=0)),
        agent_id=False,
        rollout=20,
        minibatches=4,
        epochs=4,
        lr=marl.Linear(1e-3, 1e-4),
        entropy=marl.Linear(0.05, 0.0),
        normalize_values=True,
        network=marl.MLP((64, 64)),
    ),
    num_envs=64,
    steps=500_000,
    curriculum=marl.curriculum.Annealed({"add_rate": marl.Linear(0.1, 0.3, 250_000)}, target={"add_rate": 0.3}),
    expect="97 % of the episodes without a collision; the same without a channel about 28 %",
)
