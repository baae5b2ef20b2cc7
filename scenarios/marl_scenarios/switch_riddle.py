"""Prisoners share one bit, by a message that they learn to send: a switch in a room (Foerster et al. 2016)."""

import marl

scenario = marl.Scenario(
    name="switch_riddle",
    about="three prisoners and one bit, learnt by gradients through messages (compiled, DIAL)",
    env="marl/switch_riddle-v0",
    agents=marl.iql(
        # Who is in the room speaks, who is there the day after listens.
        channel=marl.DIAL(size=1, topology=marl.Where(speak=0, hear=0)),
        network=marl.GRU(64),
        sequence=6,
        batch=32,
        buffer=1_600,  # the last 50 steps of each copy: messages are learnt from games that speak today's language
        learning_starts=500,
        updates_per_step=1 / 160,  # a draw for each 32 episodes, as many as it holds
        lr=marl.Linear(1e-3, 1e-4),
        discount=1.0,
        td_lambda=0.8,
        exploration=marl.EpsilonGreedy(0.05),
        target_every=100,
        tau=1.0,
    ),
    num_envs=32,
    steps=800_000,
    expect="2.0 to 2.2, the sum of three agents (20/9 is the most there is); best without a message about 1.48",
)
