"""The control twins equal Gymnasium's step by step over full episodes."""

from __future__ import annotations

from typing import Any

import gymnasium
import marl_envs
import numpy as np
import pytest
from marl_envs.kernel import OBSERVE

TWINS: list[tuple[str, str, dict[str, Any]]] = [
    ("CartPole", "CartPole-v1", {}),
    ("CartPole", "CartPole-v1", {"sutton_barto_reward": True}),
    ("Pendulum", "Pendulum-v1", {"g": 9.81}),
    ("Acrobot", "Acrobot-v1", {}),
    ("MountainCar", "MountainCar-v0", {}),
    ("MountainCarContinuous", "MountainCarContinuous-v0", {}),
]


def copy_state(env: Any, twin: Any) -> None:
    """Put the twin where the original is."""
    s, state = twin.core.s, np.asarray(env.unwrapped.state, dtype=np.float64)
    if hasattr(s, "x"):
        s.x[0] = state
    else:
        for array, value in zip((s[0], s[1]), state, strict=True):
            array[0] = value
    twin.core.run(OBSERVE)


def policy(name: str, obs: Any, space: Any, episode: int) -> Any:
    """Random at first, then something that reaches the end of the task."""
    if episode == 0:
        return space.sample()
    if name == "CartPole":
        return int(obs[2] + 0.3 * obs[3] + 0.05 * obs[0] > 0)
    if name == "Acrobot":
        return 0 if obs[4] > 0 else 2
    if name == "MountainCar":
        return 2 if obs[1] > 0 else 0
    return np.array([np.sign(obs[1]) * 0.99], dtype=np.float32) if name.endswith("Continuous") else space.sample()


@pytest.mark.parametrize(("name", "original", "kwargs"), TWINS, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(TWINS)])
def test_twin_equals_gymnasium(name: str, original: str, kwargs: dict[str, Any]) -> None:
    env = gymnasium.make(original, **kwargs)
    twin = getattr(marl_envs, name)(**kwargs)
    assert twin.observation_space("agent_0") == env.observation_space
    assert twin.action_space("agent_0") == env.action_space
    env.action_space.seed(1)
    for episode in range(3):
        obs, _ = env.reset(seed=episode)
        twin.reset(seed=episode)
        copy_state(env, twin)
        ended, steps = False, 0
        while not ended:
            action = policy(name, obs, env.action_space, episode)
            obs, reward, terminated, truncated, _ = env.step(action)
            mine = twin.step({"agent_0": action})
            np.testing.assert_allclose(mine[0]["agent_0"], obs, atol=1e-5)
            assert mine[1]["agent_0"] == pytest.approx(float(reward), abs=1e-5, rel=1e-6)
            assert mine[2]["agent_0"] == terminated
            assert mine[3]["agent_0"] == (truncated and not terminated)
            ended, steps = terminated or truncated, steps + 1
        assert steps > 5
        assert twin.agents == []


@pytest.mark.parametrize("name", ["CartPole", "Pendulum", "Acrobot", "MountainCar", "MountainCarContinuous"])
def test_initial_states_are_spread_as_the_original_s(name: str) -> None:
    original = next(o for n, o, _ in TWINS if n == name)
    env = gymnasium.make(original)
    theirs = np.array([env.reset(seed=seed)[0] for seed in range(400)])
    mine = getattr(marl_envs, name)().batch_env(4000).reset(0).teams[0].obs[:, 0]
    np.testing.assert_allclose(mine.mean(0), theirs.mean(0), atol=6 * theirs.std(0).max() / 20 + 1e-6)
    assert (mine.min(0) <= theirs.min(0) + 0.02).all()
    assert (mine.max(0) >= theirs.max(0) - 0.02).all()
