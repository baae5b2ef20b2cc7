"""Remember a sign for twenty steps: what a memory is for, with a known optimum (Bakker 2002)."""

import marl

scenario = marl.Scenario(
    name="t_maze",
    about="remember a sign for 20 steps, then turn (compiled, 1 agent, PPO with a GRU)",
    env="marl/t_maze-v0",
    agents=marl.PPO(
        network=marl.GRU(64, encoder=marl.MLP((32,))),
        rollout=128,
        epochs=4,
        minibatches=4,
        lr=3e-3,
        discount=0.995,
        entropy=0.03,
    ),
    num_envs=32,
    steps=800_000,
    expect="1, the optimum, in four of five seeds (without memory at most 0)",
)
