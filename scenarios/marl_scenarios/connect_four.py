"""Four in a row against itself, what it has been, and a random player; one policy plays both sides."""

import marl

scenario = marl.Scenario(
    name="connect_four",
    about="four in a row by self-play (PettingZoo classic, AEC, action masks, league)",
    env="classic/connect_four-v3",
    agents=marl.ippo(
        sharing="all",
        agent_id=False,
        rollout=128,
        minibatches=4,
        epochs=6,
        lr=marl.Linear(1e-3, 1e-4),
        discount=0.97,
        gae_lambda=0.95,
        entropy=marl.Linear(0.1, 0.03),
        normalize_values=False,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=32,
    steps=800_000,
    league=marl.League(between="agents", snapshot_every=40_000, latest=0.25, opponents=(marl.Random(),)),
    expect="against a random player: wins 95 % of its games as first and 90 % as second",
    extra="classic",
    algorithms={
        "dqn": {
            "agents": marl.DQN(
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
            "num_envs": 16,
            "steps": 400_000,
            # Half of the games against a random player: three of four are against the pool, two thirds of that random.
            "league": marl.League(
                between="agents", snapshot_every=20_000, window=5, latest=0.25, opponents=(marl.Random(),) * 10
            ),
            "expect": "94 % of games as first and 88 % as second player against random play",
        },
    },
)
