"""One policy for a growing team: two agents in a maze at first, then up to five; it is measured with six."""

import marl

scenario = marl.Scenario(
    name="gridworld_growing",
    about="a team that grows from 2 to 5 agents and is measured with 6 (compiled, PPO)",
    env="marl/gridworld-v0",
    env_kwargs={"width": 8, "height": 8, "density": 0.1, "num_agents": 6, "bump_cost": 0.1},
    # Without ids: the sixth agent is nobody that training ever met.
    agents=marl.ippo(
        agent_id=False,
        minibatches=8,
        epochs=4,
        lr=marl.Linear(1e-3, 0.0),
        entropy=marl.Linear(0.003, 0.0),
        normalize_values=False,
        network=marl.MLP((128, 128)),
    ),
    num_envs=32,
    steps=300_000,
    curriculum=marl.curriculum.growing(
        "agents", 2, 5, marl.curriculum.SuccessRate(at_least=0.8, over=200), target={"agents": 6}
    ),
    expect="a sum of returns above 5 with six agents, of 6 that can be had; random play -0.6",
)
