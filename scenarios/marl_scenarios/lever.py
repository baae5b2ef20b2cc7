"""Five of five hundred agents meet and shall pull five different levers: they agree who takes which (CommNet)."""

import marl

scenario = marl.Scenario(
    name="lever",
    about="agents that meet by chance agree on who pulls which lever (compiled, PPO with CommNet)",
    env="marl/lever-v0",
    agents=marl.mappo(
        channel=marl.CommNet(rounds=2),
        agent_id=False,  # they know each other by their identity, not by their seat
        rollout=1,
        epochs=2,
        minibatches=2,
        lr=marl.Linear(3e-3, 3e-4),
        entropy=marl.Linear(0.01, 0.0),
        discount=1.0,
        normalize_values=False,
        credit=marl.TeamReward(),
        network=marl.MLP((128,)),
        critic_network=marl.MLP((64,)),
    ),
    num_envs=1_024,
    steps=600_000,
    expect="4.8 of 5 (five agents get the share of different levers each); random play 3.36",
)
