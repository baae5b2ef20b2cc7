"""Prisoners share one bit, by a message that they learn to send: a switch in a room (Foerster et al. 2016)."""

import marl

scenario = marl.Scenario(
    name="switch_riddle",
    about="three prisoners and one bit, learnt by gradients through messages (compiled, DIAL)",
    env="marl/switch_riddle-v0",
    agents=marl.iql(
        # Who is in the room speaks, who is there the day after listens, be it the same: so a switch works.
        channel=marl.DIAL(
            size=1, topology=marl.topology.Where(speak=0, hear=0, among=marl.topology.Complete(loops=True))
        ),
        network=marl.GRU(64),
        sequence=6,
        batch=32,
        buffer=1_600,  # the last 50 steps of each copy: messages are learnt from games that speak today's language
        learning_starts=500,
        updates_per_step=0.2,
        lr=marl.Linear(2e-3, 1e-4),
        discount=0.95,  # whoever knows tells at once: fewer messages have to keep what is known already
        td_lambda=0.9,
        double=False,
        exploration=marl.exploration.EpsilonGreedy(0.05),
        target_every=50,
        tau=1.0,
    ),
    num_envs=32,
    steps=22_000,
    expect="2.2, the sum of three agents (20/9 is the most there is); best without a message about 1.48",
)
