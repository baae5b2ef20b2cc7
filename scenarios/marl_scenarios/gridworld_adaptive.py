"""The mazes of ``gridworld_curriculum`` without a list of stages: practise where results change most."""

import marl

sides = marl.Between(4, 20)

scenario = marl.Scenario(
    name="gridworld_adaptive",
    about="mazes with a distant goal, their size by learning progress (compiled, PPO)",
    env="marl/gridworld-v0",
    env_kwargs={"width": 20, "height": 20, "density": 0.05, "distance": 20, "max_cycles": 48},
    agents=marl.ippo(
        minibatches=8,
        lr=marl.Linear(1e-3, 0.0),
        entropy=marl.Linear(0.003, 0.0),
        network=marl.MLP((128, 128)),
    ),
    num_envs=64,
    steps=500_000,
    curriculum=marl.LearningProgress(
        {"width": sides, "height": sides, "distance": marl.Between(1, 20)},
        target={"width": 20, "height": 20, "distance": 20},
    ),
    expect="at least 0.9 of the goals found",
)
