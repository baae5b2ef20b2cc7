"""Connect four by DQN, one network on both sides, against itself, what it has been, and a random player."""

import marl

scenario = marl.Scenario(
    name="connect_four_dqn",
    about="connect four by self-play (PettingZoo classic, DQN, league)",
    env="classic/connect_four-v3",
    agents=marl.DQN(
        agent_id=False,
        network=marl.MLP((256, 256), "relu"),
        lr=marl.Linear(1e-3, 2e-5),
        batch=128,
        learning_starts=2_000,
        updates_per_step=1 / 5,
        tau=0.01,
        n_step=3,
        discount=0.95,
        buffer=200_000,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.05, 80_000)),
    ),
    num_envs=16,
    steps=400_000,
    # Half of the games against a random player: three of four are against the pool, and two thirds of that are random.
    league=marl.League(between="agents", snapshot_every=20_000, window=5, latest=0.25, opponents=(marl.Random(),) * 10),
    extra="classic",
    expect="94 % of games as first and 88 % as second player against random play",
)
