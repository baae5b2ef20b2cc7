"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marl.types import Array, Episode, Spec


@dataclass(frozen=True)
class TeamReport:
    """One team's returns.

    mean_return: mean over episodes of the sum over the team's agents.
    confidence_interval: 95 % percentile bootstrap of it.
    returns_per_agent: mean return of each agent.
    returns: the sum of every episode.
    """

    mean_return: float
    confidence_interval: tuple[float, float]
    returns_per_agent: dict[str, float]
    returns: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "mean_return": self.mean_return,
            "confidence_interval": list(self.confidence_interval),
            "returns_per_agent": self.returns_per_agent,
            "returns": list(self.returns),
        }


@dataclass(frozen=True)
class Report:
    """Raw (unshaped) returns over some episodes, of all agents together and of each team.

    Scales differ in the literature: ``mean_return`` is the sum over agents, ``returns_per_agent`` each one's mean.

    Args:
        episodes: how many were played.
        mean_return: mean over episodes of the sum over all agents.
        confidence_interval: 95 % percentile bootstrap of it.
        returns_per_agent: mean return of each agent.
        returns: the sum over all agents of every episode.
        episode_lengths: environment steps of every episode.
        teams: the same for each team.
        info: means over episodes of the numbers that the environment reports as an episode ends, such as ``success``.
        decentralised: whether every agent acted on its own.
    """

    episodes: int
    mean_return: float
    confidence_interval: tuple[float, float]
    returns_per_agent: dict[str, float]
    returns: tuple[float, ...]
    episode_lengths: tuple[int, ...]
    teams: dict[str, TeamReport]
    info: dict[str, float]
    decentralised: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "episodes": self.episodes,
            "mean_return": self.mean_return,
            "confidence_interval": list(self.confidence_interval),
            "returns_per_agent": self.returns_per_agent,
            "returns": list(self.returns),
            "episode_lengths": list(self.episode_lengths),
            "teams": {name: team.to_dict() for name, team in self.teams.items()},
            "info": self.info,
            "decentralised": self.decentralised,
        }

    def __str__(self) -> str:
        """A few lines for people."""
        low, high = self.confidence_interval
        interval = f"(95 % CI {low:.2f} to {high:.2f})"
        lines = [f"{self.episodes} episodes: return {self.mean_return:.2f} {interval}, sum over agents"]
        for name, team in self.teams.items():
            agents = ", ".join(f"{agent} {mean:.2f}" for agent, mean in team.returns_per_agent.items())
            prefix = f"{name} {team.mean_return:.2f}: " if len(self.teams) > 1 else ""
            lines.append(f"  {prefix}{agents}")
        lines += [f"  {name} {mean:.3f}" for name, mean in self.info.items()]
        return "\n".join(lines)


def summarise(spec: Spec, episodes: Sequence[Episode], decentralised: bool = False) -> Report:
    """Make the report of some finished episodes."""
    teams = {}
    for team in spec.teams:
        rows = [[episode.returns.get(agent, 0.0) for agent in team.agents] for episode in episodes]
        table = np.array(rows)  # (episodes, N)
        teams[team.name] = _team(team.agents, table)
    sums = np.sum([team.returns for team in teams.values()], axis=0)
    per_agent: dict[str, float] = {}
    for found in teams.values():
        per_agent |= found.returns_per_agent
    return Report(
        episodes=len(episodes),
        mean_return=float(sums.mean()),
        confidence_interval=bootstrap_interval(sums),
        returns_per_agent=per_agent,
        returns=tuple(sums.tolist()),
        episode_lengths=tuple(episode.length for episode in episodes),
        teams=teams,
        info=_means([episode.info for episode in episodes]),
        decentralised=decentralised,
    )


def _team(agents: Sequence[str], table: Array) -> TeamReport:
    sums = table.sum(axis=1)
    means = dict(zip(agents, table.mean(axis=0).tolist(), strict=True))
    return TeamReport(float(sums.mean()), bootstrap_interval(sums), means, tuple(sums.tolist()))


def _means(infos: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for info in infos for name in info if not name.startswith("task/"))
    return {name: float(np.mean([info[name] for info in infos if name in info])) for name in names}


def bootstrap_interval(values: Array, level: float = 0.95, resamples: int = 2_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979); equal data give equal bounds."""
    random = np.random.default_rng(0)
    means = values[random.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
