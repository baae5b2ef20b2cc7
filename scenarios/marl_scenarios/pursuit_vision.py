"""Four pursuers who see one cell far catch prey that takes three of them: learnt with far sight that shrinks."""

import marl

scenario = marl.Scenario(
    name="pursuit_vision",
    about="three of four pursuers have to meet at an evader, sight shrinks by stages (compiled, PPO)",
    env="marl/pursuit-v0",
    env_kwargs={"size": 8, "view": 4, "catchers": 3, "num_pursuers": 4, "num_evaders": 2, "max_cycles": 60},
    agents=marl.ippo(
        rollout=16,
        minibatches=4,
        epochs=4,
        discount=0.95,
        lr=marl.Linear(1e-3, 1e-4),
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=64,
    steps=300_000,
    # Sight is for finding prey, and three at once hardly ever happen upon it: so first they learn what to do with it.
    curriculum=marl.curriculum.Stages(
        [
            marl.curriculum.Stage({"view": 4}, marl.curriculum.Steps(at_least=80_000)),
            marl.curriculum.Stage({"view": 2}, marl.curriculum.Steps(at_least=80_000)),
            marl.curriculum.Stage({"view": 1}),
        ]
    ),
    expect="a sum of returns about 4 with a sight of one cell, of 8 at most (about 1.3 without the stages)",
)
