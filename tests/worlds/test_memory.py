"""Worlds that need a memory: their exact numbers, and what is hidden of others."""

from __future__ import annotations

import marl_envs
import numpy as np
import pytest
from marl_envs.t_maze import BUMP
from marl_envs.world import World

from marl.types import ConfigError


def walk(env: marl_envs.TMaze, side_of_sign: bool, bumps: int = 0) -> tuple[float, list[float]]:
    """The return of walking to the junction and turning, and the sign as it was seen on the way."""
    obs, _ = env.reset(seed=3)
    seen = [float(obs["agent_0"][0])]
    told = 1 if seen[0] < 0 else 2
    total = 0.0
    moves = [1] * bumps + [0] * env.length + [told if side_of_sign else 3 - told]
    for move in moves:
        obs, reward, terminated, truncated, _ = env.step({"agent_0": move})
        seen.append(float(obs["agent_0"][0]))
        total += reward["agent_0"]
    assert terminated["agent_0"]
    assert not truncated["agent_0"]
    return total, seen


@pytest.mark.parametrize("length", [1, 5, 20])
def test_turning_where_the_sign_said_is_worth_1_and_the_other_way_minus_1(length: int) -> None:
    env = marl_envs.TMaze(length)
    total, seen = walk(env, True)
    assert total == 1.0
    assert abs(seen[0]) == 1.0
    assert seen[1:] == [0.0] * (length + 1)  # the sign is seen at the start alone
    assert walk(env, False)[0] == -1.0


def test_a_bump_costs_and_moves_nobody_and_the_sign_stays_in_sight_at_the_start() -> None:
    total, seen = walk(marl_envs.TMaze(4), True, bumps=3)
    assert total == pytest.approx(1 - 3 * BUMP)
    assert seen[1:4] == [seen[0]] * 3


def test_only_the_junction_is_seen_at_the_junction() -> None:
    env = marl_envs.TMaze(3)
    obs, _ = env.reset(seed=0)
    assert obs["agent_0"][1:].tolist() == [1.0, 0.0]
    for wanted in ([0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]):  # the last move forward is a bump
        obs, reward, *_ = env.step({"agent_0": 0})
        assert obs["agent_0"].tolist() == [0.0, *wanted]
    assert reward["agent_0"] == pytest.approx(-BUMP)


def test_signs_are_even_and_a_task_shortens_the_corridor() -> None:
    batch = marl_envs.TMaze(20).batch_env(4_000)
    signs = batch.reset(0).teams[0].obs[:, 0, 0]
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / np.sqrt(4_000)
    batch.set_tasks({"length": 1})
    batch.reset(1)
    step = batch.step([np.zeros((4_000, 1), dtype=np.int64)])
    assert (step.teams[0].obs[:, 0, 2] == 1.0).all()
    with pytest.raises(ConfigError, match="length"):
        marl_envs.TMaze(0)


@pytest.mark.parametrize(
    ("make", "kwargs", "hidden"),
    [
        (marl_envs.CartPole, {}, [1, 3]),
        (marl_envs.Spread, {}, [0, 1]),
        (marl_envs.Spread, {"num_agent_neighbors": 1, "N": 4}, [0, 1]),
        (marl_envs.GrowingSpread, {"N": 3}, [0, 1]),
    ],
)
def test_without_velocities_everything_else_is_the_same(make: type[World], kwargs: dict, hidden: list[int]) -> None:
    whole, masked = make(**kwargs).batch_env(3), make(**kwargs, velocities=False).batch_env(3)
    rng = np.random.default_rng(0)
    one, other = whole.reset(7), masked.reset(7)
    for _ in range(40):
        assert np.array_equal(np.delete(one.teams[0].obs, hidden, axis=-1), other.teams[0].obs)
        assert np.array_equal(one.teams[0].reward, other.teams[0].reward)
        shape = one.teams[0].acting.shape
        actions = [rng.integers(0, whole.spec.teams[0].action.sizes[0], shape)]
        one, other = whole.step(actions), masked.step(actions)
    space = make(**kwargs, velocities=False).observation_space("agent_0")
    assert space.shape == (make(**kwargs).observation_space("agent_0").shape[0] - 2,)
