"""The same riddle with a switch in the room: a message is half of an action (RIAL, Foerster et al. 2016)."""

import marl

prisoners = ("prisoner_0", "prisoner_1", "prisoner_2")

scenario = marl.Scenario(
    name="switch_riddle_rial",
    about="three prisoners and one bit, said by actions (compiled, RIAL: recurrent IQL)",
    env="marl/switch_riddle-v0",
    env_kwargs={"switch": True},
    agents=marl.iql(
        network=marl.GRU(64),
        sequence=6,
        batch=32,
        buffer=1_600,
        learning_starts=500,
        updates_per_step=1 / 80,
        lr=marl.Linear(2e-3, 1e-4),
        discount=1.0,
        td_lambda=1.0,  # who set the switch learns what came of it only at the end
        exploration=marl.EpsilonGreedy(marl.Linear(0.1, 0.02, 600_000)),
        target_every=100,
        tau=1.0,
    ),
    num_envs=32,
    steps=800_000,
    # The switch, as one sees it in the room, is what somebody before has said.
    message_entries=tuple(f"{one}<{other}:1" for one in prisoners for other in prisoners if one != other),
    expect="about 2.1, the sum of three agents (20/9 is the most there is); best without a message about 1.48",
)
