"""Games between frozen policies, played side by side, and the payoff tables that come of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from marl.curriculum import Target, Task
from marl.league.members import Company, Side, Strategy
from marl.types import Array, BatchEnv

COPIES = 64  # games side by side


def play_matches(
    env: BatchEnv,
    sides: Sequence[Side],
    strategies: Sequence[Strategy],
    games: int,
    seed: int,
    device: torch.device | str = "cpu",
    task: Task | None = None,
) -> Array:
    """Raw returns ``(games, S)`` of every side; ``strategies[s]`` plays side ``s`` in all of them, on ``task``.

    Each copy plays a fixed share of the games, so short ones are not preferred.
    """
    share = np.full(env.num_envs, games // env.num_envs)
    share[: games % env.num_envs] += 1
    streams = np.random.SeedSequence(seed).generate_state(2, np.uint32).tolist()
    company = Company(env.spec, env.num_envs, sides, strategies, streams[1], device)
    target = Target(task, env, streams[0]) if task else None
    step = env.reset(streams[0], None if target is None else target.first())
    if target is not None:
        target.renew(range(env.num_envs))
    rows = []
    while share.any():
        step = env.step(company.act(step))
        if target is not None:
            target.renew([episode.copy for episode in step.finished])
        for episode in step.finished:
            if share[episode.copy]:
                share[episode.copy] -= 1
                rows.append(side_returns(sides, episode.returns))
    return np.array(rows)


def side_returns(sides: Sequence[Side], returns: Mapping[str, float]) -> list[float]:
    """The mean return of each side's agents."""
    return [sum(returns.get(agent, 0.0) for agent in side.agents) / len(side.agents) for side in sides]


def scores(returns: Array) -> Array:
    """Of the first of two sides in every game ``(games,)``: 1 for the higher return, 0.5 for equal ones, else 0."""
    out: Array = (np.sign(returns[:, 0] - returns[:, 1]) + 1) / 2
    return out
