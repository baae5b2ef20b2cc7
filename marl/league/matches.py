"""Games between frozen policies, played side by side, and the payoff tables that come of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from marl.curriculum.evaluation_tasks import EvaluationTasks
from marl.curriculum.tasks import Task
from marl.playing.episodes import play_episodes
from marl.playing.team import Side, Strategy, TeamActor
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

    Each copy plays a fixed share of the games, so short ones are not preferred. The games of the first copy come first,
    then those of the next: with the same seed, each game can be compared with the one in its place.
    """
    streams = np.random.SeedSequence(seed).generate_state(2, np.uint32).tolist()
    actor = TeamActor(env.spec, env.num_envs, sides, strategies, streams[1], device)
    target = EvaluationTasks(task, env, streams[0]) if task else None
    played = sorted(play_episodes(env, actor, games, streams[0], target), key=lambda episode: episode.copy)
    return np.array([side_returns(sides, episode.returns) for episode in played])


def side_returns(sides: Sequence[Side], returns: Mapping[str, float]) -> list[float]:
    """The mean return of each side's agents."""
    return [sum(returns.get(agent, 0.0) for agent in side.agents) / len(side.agents) for side in sides]


def scores(returns: Array) -> Array:
    """Of the first of two sides in every game ``(games,)``: 1 for the higher return, 0.5 for equal ones, else 0."""
    out: Array = (np.sign(returns[:, 0] - returns[:, 1]) + 1) / 2
    return out
