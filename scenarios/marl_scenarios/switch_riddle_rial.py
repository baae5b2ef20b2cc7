"""The same riddle with a switch in the room: a message is half of an action (RIAL, Foerster et al. 2016)."""

import marl

scenario = marl.Scenario(
    name="switch_riddle_rial",
    about="three prisoners and one bit, said by actions (compiled, RIAL: recurrent IQL)",
    env="marl/switch_riddle-v0",
    env_kwargs={"switch": True},
    agents=marl.iql(
        network=marl.GRU(64),
        sequence=6,
        batch=32,
        buffer=3_000,
        learning_starts=500,
        updates_per_step=0.2,
        lr=1e-3,
        discount=1.0,
        td_lambda=0.5,
        exploration=marl.EpsilonGreedy(0.05),
        target_every=100,
        tau=1.0,
    ),
    num_envs=32,
    steps=22_000,
    expect="2.2, the sum of three agents (20/9 is the most there is); best without a message about 1.48",
)
