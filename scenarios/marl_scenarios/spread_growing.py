"""One policy for a growing team: three agents cover three landmarks at first, then up to six cover six."""

import marl

scenario = marl.Scenario(
    name="spread_growing",
    about="cover as many landmarks as there are agents, a team that grows from 3 to 6 (compiled, PPO)",
    env="marl/growing_spread-v0",
    # Everybody sees the same number of neighbors, however many there are.
    env_kwargs={"N": 6, "num_agent_neighbors": 2, "num_landmark_neighbors": 3},
    # Without ids: one policy for whoever joins.
    agents=marl.ippo(
        agent_id=False,
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
    steps=400_000,
    curriculum=marl.curriculum.growing(
        "agents", 3, 6, marl.curriculum.SuccessRate(at_least=0.6, over=500), target={"agents": 6}
    ),
    expect="-104 with six agents, sum over the team",
)
