"""The mazes of ``gridworld_curriculum`` without a list of stages: practice where results change most."""

import marl

sides = marl.curriculum.Between(4, 20)

scenario = marl.Scenario(
    name="gridworld_adaptive",
    about="mazes with a distant goal, their size by learning progress (compiled, PPO)",
    env="marl/gridworld-v0",
    env_kwargs={"width": 20, "height": 20, "density": 0.05, "distance": 28, "max_cycles": 48},
    agents=marl.ippo(
        rollout=16,  # many small updates: with 128 rows a copy the policy stands still before corners of walls
        minibatches=4,
        epochs=4,
        discount=0.95,
        lr=marl.Linear(1e-3, 0.0),
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=False,
        network=marl.MLP((128, 128)),
    ),
    num_envs=32,
    steps=300_000,
    curriculum=marl.curriculum.LearningProgress(
        {"width": sides, "height": sides, "distance": marl.curriculum.Between(1, 28)},
        target={"width": 20, "height": 20, "distance": 28},
    ),
    expect="at least 0.9 of the goals found",
)
