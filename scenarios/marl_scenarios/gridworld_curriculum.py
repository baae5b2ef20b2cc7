"""Find the way through 20 x 20 mazes, paid only at a goal at least 28 steps away: learnt from 4 x 4 mazes up."""

import marl


def mazes(side: int, distance: int) -> dict[str, int]:
    """The task of square mazes."""
    return {"width": side, "height": side, "distance": distance}


learnt = marl.curriculum.SuccessRate(at_least=0.9, over=200)

scenario = marl.Scenario(
    name="gridworld_curriculum",
    about="mazes with a distant goal, by growing stages (compiled, PPO)",
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
    steps=200_000,
    curriculum=marl.curriculum.Stages(
        [
            marl.curriculum.Stage(mazes(4, 1), learnt),
            marl.curriculum.Stage(mazes(7, 4), learnt),
            marl.curriculum.Stage(mazes(10, 8), learnt),
            marl.curriculum.Stage(mazes(14, 12), learnt),
            marl.curriculum.Stage(mazes(20, 28)),
        ]
    ),
    expect="about 0.95 of the goals found; less than 0.1 without the curriculum",
)
