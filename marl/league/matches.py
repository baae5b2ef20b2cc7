"""Games between frozen policies, played side by side, and the payoff tables that come of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from marl.league.members import Cast, Member, Side
from marl.types import Array, BatchEnv

COPIES = 64  # games side by side


def play_matches(
    env: BatchEnv,
    sides: Sequence[Side],
    members: Sequence[Member],
    games: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Array:
    """Raw returns ``(games, S)`` of every side; ``members[s]`` plays side ``s`` in all of them.

    Each copy plays a fixed share of the games, so short ones are not preferred.
    """
    share = np.full(env.num_envs, games // env.num_envs)
    share[: games % env.num_envs] += 1
    cast = Cast(env.spec, env.num_envs, device)
    for number, side in enumerate(sides):
        cast.seats[side.place][:, side.columns] = number
    # One policy may sit on several sides: its recurrent states are kept apart by the number of the side.
    seated = {
        number: Member(number, member.place, member.name, (member.net, member.distribution), (), greedy=member.greedy)
        for number, member in enumerate(members)
    }
    streams = np.random.SeedSequence(seed).generate_state(2, np.uint32).tolist()
    generator = torch.Generator(device).manual_seed(streams[1])
    step = env.reset(streams[0])
    actions = [
        np.zeros((env.num_envs, team.num_agents, *team.action.shape), dtype=team.action.dtype)
        for team in env.spec.teams
    ]
    rows = []
    while share.any():
        cast.act(seated, step, actions, generator)
        step = env.step(actions)
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
