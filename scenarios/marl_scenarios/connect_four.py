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
        discount=1.0,
        gae_lambda=0.95,
        entropy=marl.Linear(0.1, 0.03),
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=32,
    steps=400_000,
    league=marl.League(between="agents", snapshot_every=20_000, opponents=(marl.Random(),)),
    expect="wins most games against a random player, first or second",
    extra="classic",
)
