"""Robots of a warehouse bring requested shelves to the goal: rewards are rare, so a potential leads to them."""

import functools
from typing import Any

import numpy as np

import marl

GOALS = 4.5  # the two goals are the middle
LAST_ROW = 10.0  # of the last row
# Entries of an observation: whether the agent carries a shelf, and whether that is wanted.
CARRYING = 2
REQUESTED = 42


def progress(obs: Any) -> Any:
    """How far a delivery has come: a requested shelf on the back, and the way to the goal.

    A shelf that nobody wants is below nothing, so that putting it back is rewarded.
    """
    x, y = obs[..., 0], obs[..., 1]
    way = np.abs(x - GOALS) + LAST_ROW - y
    carried = np.where(obs[..., REQUESTED] > 0, 0.5 - 0.02 * way, -0.25)
    return np.where(obs[..., CARRYING] > 0, carried, 0.0)


def warehouse(render_mode: str | None = None, **kwargs: Any) -> Any:
    """The environment; its ``render`` shows a window whatever the mode, unless it is told otherwise."""
    import gymnasium
    import rware  # noqa: F401  # registers it

    env = gymnasium.make("rware-tiny-2ag-easy-v2", disable_env_checker=True, render_mode=render_mode, **kwargs)
    if render_mode == "rgb_array":
        inner: Any = env.unwrapped
        inner.render = functools.partial(inner.render, mode=render_mode)
    return env


scenario = marl.Scenario(
    name="rware",
    about="bring requested shelves to the goal (RWARE tiny, easy, 2 agents, PPO with a potential)",
    env=warehouse,
    env_kwargs={"max_steps": None},  # which would be an end; the limit below cuts episodes off instead
    max_steps=500,
    agents=marl.ippo(
        rollout=125,
        minibatches=4,
        epochs=4,
        lr=marl.Linear(1e-3, 2e-4),
        discount=0.98,
        entropy=marl.Linear(0.02, 0.005),
        normalize_obs=True,
        normalize_values=True,
        network=marl.MLP((128, 128), "relu"),
    ),
    num_envs=16,
    steps=1_000_000,
    shaping=[marl.shaping.PotentialBased(progress)],
    expect="15 shelves delivered in 500 steps, sum of two robots (random: 0)",
    extra="rware",
)
