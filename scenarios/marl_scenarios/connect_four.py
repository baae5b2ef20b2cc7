"""Four in a row against itself, what it has been, and a random player; one policy plays both sides."""

import marl

scenario = marl.Scenario(
    name="connect_four",
    about="four in a row by self-play (PettingZoo classic, AEC, action masks, PPO, league)",
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
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=32,
    steps=800_000,
    league=marl.League(between="agents", snapshot_every=40_000, latest=0.25, opponents=(marl.Random(),)),
    expect="against a random player: wins 95 % of its games as first and 90 % as second",
    extra="classic",
)
