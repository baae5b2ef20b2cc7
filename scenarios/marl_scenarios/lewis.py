"""Lewis signaling: a sender and a receiver make up a language for eight states, each from its own reward."""

import marl

scenario = marl.Scenario(
    name="lewis",
    about="a language for eight states (compiled, 2 agents, IA2C)",
    env="marl/lewis-v0",
    env_kwargs={"states": 8, "signals": 16},
    agents=marl.ia2c(
        sharing="none",
        rollout=2,
        lr=marl.Linear(3e-2, 3e-3),
        entropy=marl.Linear(0.2, 0.0),
        discount=1.0,
        network=marl.MLP((64,)),
    ),
    num_envs=20,
    steps=20_000,
    expect="2, the optimum, sum of both agents (guessing: 0.25); with 8 signals half of all runs end below",
)
