"""The foraging twin equals lbforaging step by step over full episodes."""

from __future__ import annotations

from typing import Any

import gymnasium
import marl_envs
import numpy as np
import pytest
from marl_envs.foraging import EAST, LOAD, NORTH, SOUTH, WEST
from marl_envs.kernel import OBSERVE

from marl.types import ConfigError

pytest.importorskip("lbforaging", reason="the original needs lbforaging: pip install 'marl-system[lbf]'")

TWINS: list[tuple[str, dict[str, Any]]] = [
    ("Foraging-8x8-2p-2f-coop-v3", {}),
    ("Foraging-5x5-2p-2f-v3", {"size": 5, "force_coop": False}),
    ("Foraging-2s-10x10-3p-3f-v3", {"num_agents": 3, "num_food": 3, "size": 10, "sight": 2, "force_coop": False}),
    ("Foraging-9x9-5p-1f-coop-v3", {"num_agents": 5, "num_food": 1, "size": 9}),
    ("Foraging-9x9-4p-2f-pen-v3", {"num_agents": 4, "size": 9, "force_coop": False, "penalty": 0.1}),
]


def original(name: str) -> Any:
    """lbforaging's environment; penalties are part of its code, but of none of its ids."""
    import lbforaging  # noqa: F401

    penalized = name.replace("-pen", "")
    return gymnasium.make(penalized, penalty=0.1 if penalized != name else 0.0, disable_env_checker=True).unwrapped


def copy_state(env: Any, twin: Any) -> None:
    """Put the twin where the original is."""
    s = twin.core.s
    for n, player in enumerate(env.players):
        s.place[0, n], s.level[0, n] = player.position, player.level
    s.food[0], s.spawned[0] = env.field, env.field.sum()
    twin.core.run(OBSERVE)


def towards_food(env: Any, rng: np.random.Generator) -> list[int]:
    """Everybody to the same food, loading beside it; now and then anything else."""
    target = np.argwhere(env.field)[0]
    actions = []
    for player in env.players:
        dy, dx = target - np.array(player.position)
        move = (SOUTH if dy > 0 else NORTH) if abs(dy) >= abs(dx) else (EAST if dx > 0 else WEST)
        move = LOAD if abs(dx) + abs(dy) == 1 else move
        actions.append(int(rng.integers(6)) if rng.random() < 0.3 else move)
    return actions


@pytest.mark.parametrize(("name", "kwargs"), TWINS, ids=[name for name, _ in TWINS])
def test_twin_equals_lbforaging(name: str, kwargs: dict[str, Any]) -> None:
    env, twin = original(name), marl_envs.Foraging(**kwargs)
    assert [twin.observation_space(agent) for agent in twin.possible_agents] == list(env.observation_space)
    assert [twin.action_space(agent) for agent in twin.possible_agents] == list(env.action_space)
    rng = np.random.default_rng(1)
    lifted = 0.0
    for episode in range(20):
        obs, _ = env.reset(seed=episode)
        twin.reset(seed=episode)
        copy_state(env, twin)
        np.testing.assert_array_equal(twin.state(), np.concatenate(obs))
        for count in range(1, 51):
            actions = towards_food(env, rng)
            obs, reward, done, _, _ = env.step(actions)
            mine = twin.step(dict(zip(twin.possible_agents, actions, strict=True)))
            np.testing.assert_array_equal(list(mine[0].values()), obs)
            np.testing.assert_allclose(list(mine[1].values()), reward, atol=1e-6)
            eaten = not env.field.any()
            assert all(end == eaten for end in mine[2].values())  # the original calls the time limit an end as well
            assert all(cut == (count == 50 and not eaten) for cut in mine[3].values())
            lifted += sum(part for part in reward if part > 0)
            if done:
                break
        assert done
        assert twin.agents == []
    assert lifted > 5


def test_a_grid_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"room beside the agents \(here >= 4\).*got .*size=3"):
        marl_envs.Foraging(size=3)


def test_episodes_begin_as_the_original_does() -> None:
    """Levels, places and room around the food have the same distribution."""
    env, batch = original("Foraging-8x8-2p-2f-coop-v3"), marl_envs.Foraging().batch_env(4_000)
    ours = batch.reset(seed=0).teams[0].obs[:, 0]
    theirs = np.stack([env.reset(seed=episode)[0][0] for episode in range(1_000)])
    error = theirs.std(0) * (1 / 1_000 + 1 / 4_000) ** 0.5
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error).all()
    assert (
        np.abs((ours**2).mean(0) - (theirs**2).mean(0)) < 5 * (theirs**2).std(0) * (1 / 1_000 + 1 / 4_000) ** 0.5
    ).all()
    np.testing.assert_array_equal(ours.min(0), theirs.min(0))
    np.testing.assert_array_equal(ours.max(0), theirs.max(0))
