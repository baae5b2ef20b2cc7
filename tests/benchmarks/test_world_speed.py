"""How fast native worlds step, beside mpe2's bare loop. Shows its table with ``-s``; margins are wide, machines are
shared."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import marl_envs
import numpy as np
import pytest


def rate(run: Callable[[], int], seconds: float = 0.3, repeats: int = 5) -> float:
    """Best env steps per second of processor time (waiting does not count); ``run`` returns its steps."""
    best = 0.0
    for _ in range(repeats):
        steps, begin = 0, time.process_time()
        while (spent := time.process_time() - begin) < seconds:
            steps += run()
        best = max(best, steps / spent)
    return best


def batch_rate(world: Any, num_envs: int, **timing: Any) -> float:
    """Env steps per second of the batched form, autoreset included."""
    batch, rng = world.batch_env(num_envs), np.random.default_rng(0)
    batch.reset(0)
    (team,) = batch.spec.teams
    shape = (num_envs, team.num_agents, *team.action.shape)
    if team.action.kind == "box":
        joint = [[rng.uniform(0, 1, shape).astype(np.float32)] for _ in range(32)]
    else:
        joint = [[rng.integers(0, np.array(team.action.widths), shape)] for _ in range(32)]

    def run() -> int:
        for actions in joint:
            batch.step(actions)
        return len(joint) * num_envs

    return rate(run, **timing)


def face_rate(env: Any) -> float:
    """Env steps per second through the PettingZoo interface."""
    env.reset(seed=0)
    actions = {agent: env.action_space(agent).sample() for agent in env.possible_agents}

    def run() -> int:
        for _ in range(50):
            if not env.agents:
                env.reset()
            env.step(actions)
        return 50

    return rate(run)


def test_spread_at_all_sizes() -> None:
    rates = {size: batch_rate(marl_envs.Spread(), size) for size in (1, 16, 256, 4096)}
    face = face_rate(marl_envs.Spread())
    print("\n| spread | env-steps/s |\n|---|---|")
    for size, value in rates.items():
        print(f"| batch of {size:,} | {value:,.0f} |")
    print(f"| PettingZoo face | {face:,.0f} |")
    assert rates[1] > 100_000
    assert rates[256] > 2_000_000
    if importlib.util.find_spec("mpe2") is not None:
        from mpe2 import simple_spread_v3

        original = face_rate(simple_spread_v3.parallel_env())
        print(f"| mpe2 | {original:,.0f} |\n| face / mpe2 | {face / original:.1f} |")
        assert face > 5 * original


@pytest.mark.slow
def test_every_world_at_256_copies() -> None:
    print("\n| world | env-steps/s at 1 | at 256 |\n|---|---|---|")
    for name, make in marl_envs.WORLDS.items():
        one, many = (batch_rate(make(), size, repeats=3) for size in (1, 256))
        print(f"| {name} | {one:,.0f} | {many:,.0f} |")
        assert many > one
