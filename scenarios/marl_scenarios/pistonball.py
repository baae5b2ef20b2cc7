"""Pistons push a ball to the left wall; each sees the pixels around itself, wrapped by SuperSuit."""

from typing import Any

import marl


def pistons(**kwargs: Any) -> Any:
    """The environment with small gray images, three at a time: what moves is seen."""
    import pettingzoo
    import supersuit

    env = pettingzoo.make("parallel", "butterfly/pistonball-v6", **kwargs)
    env = supersuit.color_reduction_v0(env, mode="B")
    env = supersuit.resize_v1(env, x_size=21, y_size=42)
    return supersuit.frame_stack_v1(env, 3)


scenario = marl.Scenario(
    name="pistonball",
    about="push a ball to the left (PettingZoo Butterfly, 10 agents, pixels, CNN, PPO)",
    env=pistons,
    # PettingZoo 1.27 draws nothing without render_mode, and pixels are all that agents see.
    env_kwargs={"n_pistons": 10, "continuous": False, "render_mode": "rgb_array"},
    agents=marl.ippo(
        rollout=64,
        minibatches=8,
        epochs=4,
        lr=marl.Linear(1e-3, 1e-4),
        discount=0.97,
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        agent_id=False,
        network=marl.CNN(channels=(8, 16), kernels=(6, 3), strides=(3, 2), hidden=64),
    ),
    num_envs=8,
    steps=25_000,
    expect="570, sum of ten pistons (random: 160)",
    extra="butterfly",
)
