"""QMIX with RMSprop, the choice of its authors, against Adam: spread with three agents, early in training."""

import marl

STEPS = 75_000

spread = marl.Scenario(
    name="spread",
    env="marl/spread-v0",
    agents=marl.qmix(
        network=marl.MLP((128, 128), "relu"),
        lr=5e-4,
        learning_starts=5_000,
        discount=0.8,
        buffer=STEPS,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.02, STEPS // 2)),
    ),
    num_envs=16,
    steps=STEPS,
)

study = marl.Study(
    name="optimizers",
    about="QMIX with RMSprop (rate 5e-4, alpha 0.99, eps 1e-5: Rashid et al. 2018) and with Adam, at the same rate",
    tasks=[spread],
    algorithms={"qmix": "own"},
    variations={"learner.optimizer": [marl.optim.Adam(), marl.optim.RMSprop()]},
    seeds=3,
    evaluate_every=STEPS // 10,
    evaluate_episodes=64,
    episodes=200,
    references={"spread": marl.studies.Reference(random=-79.0, best=-25.0)},
)
