"""Connect four by DQN, one network on both sides, against itself, what it has been, and a random player."""

import marl

scenario = marl.Scenario(
    name="connect_four_dqn",
    about="connect four by self-play (PettingZoo classic, DQN, league)",
    env="classic/connect_four-v3",
    agents=marl.DQN(
        agent_id=False,
        network=marl.MLP((256, 256), "relu"),
        lr=marl.Linear(1e-3, 5e-5),
        batch=128,
        learning_starts=2_000,
        updates_per_step=1 / 6,
        tau=0.01,
        n_step=3,
        discount=0.97,
        exploration=marl.EpsilonGreedy(marl.Linear(1.0, 0.05, 60_000)),
    ),
    num_envs=16,
    steps=300_000,
    league=marl.League(between="agents", snapshot_every=20_000, latest=0.25, opponents=(marl.Random(),) * 4),
    extra="classic",
    expect="90 % of games as first and 86 % as second player against random play",
)
