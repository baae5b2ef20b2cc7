"""Connect four by DQN, one network on both sides."""

import marl

scenario = marl.Scenario(
    name="connect_four_dqn",
    about="connect four by self-play (PettingZoo classic, DQN)",
    env="classic/connect_four-v3",
    agents=marl.DQN(
        agent_id=False,
        network=marl.MLP((256, 256), "relu"),
        lr=5e-4,
        batch=128,
        learning_starts=2_000,
        updates_per_step=0.25,
        tau=0.01,
        n_step=2,
        exploration=marl.EpsilonGreedy(marl.Linear(1.0, 0.1, 60_000)),
    ),
    num_envs=16,
    steps=200_000,
    extra="classic",
    expect="87 % of games as first and 80 % as second player against random play",
)
