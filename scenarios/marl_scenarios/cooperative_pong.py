"""Two paddles keep a ball in play; both see the pixels of the whole screen, wrapped by SuperSuit."""

from typing import Any

import marl


def pong(**kwargs: Any) -> Any:
    """The environment with small gray images, three at a time: what moves is seen."""
    import pettingzoo
    import supersuit

    env = pettingzoo.make("parallel", "butterfly/cooperative_pong-v6", **kwargs)
    env = supersuit.color_reduction_v0(env, mode="R")
    env = supersuit.resize_v1(env, x_size=60, y_size=35)
    return supersuit.frame_stack_v1(env, 3)


scenario = marl.Scenario(
    name="cooperative_pong",
    about="keep the ball in play (PettingZoo Butterfly, 2 agents, pixels, CNN, PPO)",
    env=pong,
    env_kwargs={
        # A screen half as wide and high, and half the speeds: drawing it takes a third of the time.
        "render_ratio": 4,
        "ball_speed": 4.5,
        "left_paddle_speed": 6,
        "right_paddle_speed": 6,
        # PettingZoo 1.27 draws nothing without it, and pixels are all that agents see.
        "render_mode": "rgb_array",
    },
    agents=marl.ippo(
        sharing="none",  # left and right are different tasks
        rollout=64,
        minibatches=8,
        epochs=4,
        lr=marl.Linear(1e-3, 1e-4),
        discount=0.98,
        entropy=marl.Linear(0.01, 0.0),
        normalize_values=True,
        network=marl.CNN(channels=(8, 16), kernels=(6, 4), strides=(3, 2), hidden=64),
    ),
    num_envs=16,
    steps=80_000,
    expect="-2 after 80,000 steps, which are not enough (random: -10)",
    extra="butterfly",
)
