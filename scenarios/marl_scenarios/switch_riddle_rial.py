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
        updates_per_step=1 / 20,
        lr=marl.Linear(2e-3, 1e-4),
        discount=0.95,  # whoever knows tells at once: fewer messages have to keep what is known already
        td_lambda=0.9,
        double=False,
        exploration=marl.exploration.EpsilonGreedy(marl.Linear(0.2, 0.02, 300_000)),
        target_every=50,
        tau=1.0,
    ),
    num_envs=32,
    steps=400_000,
    # The switch, as one sees it in the room, is what somebody before has said.
    message_entries=tuple(f"{one}<{other}:1" for one in prisoners for other in prisoners if one != other),
    expect="2.15 to 2.2, the sum of three agents (20/9 is the most there is); best without a message about 1.48",
)
