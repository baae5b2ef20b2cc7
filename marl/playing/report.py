"""The results of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from marl.notebook import html_table
from marl.playing.intervals import Difference, bootstrap_interval, interval_text
from marl.renamed import old_attributes
from marl.types import Array, Episode, Spec

Record = tuple[list[Array], list[Array]]  # one step: the actions of each team, and who of it acted


@dataclass(frozen=True)
class TeamReport:
    """One team's returns.

    mean_return: mean over episodes of the sum over the team's agents.
    confidence_interval: 95 % percentile bootstrap of it, over episodes.
    returns_per_agent: mean return of each agent.
    returns: the sum of every episode.
    """

    mean_return: float
    confidence_interval: tuple[float, float]
    returns_per_agent: dict[str, float]
    returns: tuple[float, ...]

    def __repr__(self) -> str:
        """The return."""
        return f"<TeamReport: {len(self.returns):,} episodes, return {self.mean_return:.2f} ({_over_episodes(self)})>"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "mean_return": self.mean_return,
            "confidence_interval": list(self.confidence_interval),
            "returns_per_agent": self.returns_per_agent,
            "returns": list(self.returns),
        }


@dataclass(frozen=True)
class Metric:
    """A number of the user's choice over some episodes.

    mean: over episodes.
    confidence_interval: 95 % percentile bootstrap of it, over episodes.
    values: of every episode.
    """

    mean: float
    confidence_interval: tuple[float, float]
    values: tuple[float, ...]

    def __repr__(self) -> str:
        """The mean."""
        return f"<Metric: {len(self.values):,} episodes, mean {self.mean:.3f} ({_over_episodes(self, 3)})>"

    @classmethod
    def of(cls, values: Sequence[float]) -> Metric:
        """From the numbers of all episodes."""
        return cls(float(np.mean(values)), bootstrap_interval(np.array(values)), tuple(values))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"mean": self.mean, "confidence_interval": list(self.confidence_interval), "values": list(self.values)}


@dataclass(frozen=True)
class Agreement:
    """Whether two actors choose the same actions on the same observations.

    compared: actions of agents that acted.
    different: how many were not equal (boxes: apart by more than ``TOLERANCE``, or by that share of a number beyond 1;
        a batch of another size rounds differently).
    first: who differed first, and in which step; None where nobody did.
    """

    TOLERANCE: ClassVar[float] = 1e-4

    compared: int
    different: int
    first: str | None = None

    @classmethod
    def of(cls, spec: Spec, ours: Sequence[Record], theirs: Sequence[Record]) -> Agreement:
        """Compare the actions of acting agents, step by step."""
        compared, different, first = 0, 0, None
        for number, ((mine, acting), (other, their_acting)) in enumerate(zip(ours, theirs, strict=False)):
            for team, a, b, one, two in zip(spec.teams, mine, other, acting, their_acting, strict=True):
                if team.action.kind == "box":
                    apart = (np.abs(a - b) > cls.TOLERANCE * np.maximum(1.0, np.abs(a))).any(-1)
                else:
                    apart = a != b if a.ndim == 2 else (a != b).any(-1)
                apart = (apart & one & two) | (one != two)
                compared += int((one | two).sum())
                different += int(apart.sum())
                if first is None and apart.any():
                    n = int(np.argwhere(apart)[0, 1])
                    first = f"{team.agents[n]} in step {number}"
        return cls(compared, different, first)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"compared": self.compared, "different": self.different, "first": self.first}

    def __str__(self) -> str:
        """One line of text."""
        if not self.different:
            return f"all {self.compared:,} actions are equal on the same observations"
        return (
            f"{self.different:,} of {self.compared:,} actions differ on the same observations, "
            f"first that of {self.first}"
        )


@old_attributes(decentralised="decentralized", done="changes")
@dataclass(frozen=True)
class Report:
    """Raw (unshaped) returns over some episodes, of all agents together and of each team.

    Scales differ in the literature: ``mean_return`` is the sum over agents, ``returns_per_agent`` each one's mean. All
    intervals are over the episodes of this evaluation: they say nothing of other training seeds. ``to_dict()`` and
    ``marl evaluate --json`` have these names as keys.

    Args:
        episodes: how many were played.
        mean_return: mean over episodes of the sum over all agents.
        confidence_interval: 95 % percentile bootstrap of it, over episodes.
        returns_per_agent: mean return of each agent.
        returns: the sum over all agents of every episode: those of the first copy, then those of the next. Evaluations
            with the same seed have the same order, so that their returns can be compared episode by episode.
        episode_lengths: environment steps of every episode.
        teams: the same for each team.
        info: means over episodes of the numbers that the environment reports as an episode ends, such as ``success``.
        metrics: what ``evaluate(metrics=...)`` asked for, by name.
        decentralized: whether every agent acted on its own.
        changes: what was done to the team and its messages, in words.
        faults: agents whose process was lost, and how; from then on they took random legal actions. And what
            went wrong in the environment's copies, by kind (``crash``, ``drop``, ``cast``, ``clip``, ...).
        lost_episodes: how many episodes were thrown away after such faults; others were played in their place.
        batched: the same episodes played in one batch, where agents had processes of their own. It is a play apart:
            where the environment is chaotic, rounding alone makes its returns others.
        agreement: whether agents in processes did what the batch would have done on the very same observations.
    """

    episodes: int
    mean_return: float
    confidence_interval: tuple[float, float]
    returns_per_agent: dict[str, float]
    returns: tuple[float, ...]
    episode_lengths: tuple[int, ...]
    teams: dict[str, TeamReport]
    info: dict[str, float]
    decentralized: bool = False
    changes: tuple[str, ...] = ()
    faults: dict[str, str] = field(default_factory=dict)
    lost_episodes: int = 0
    batched: Report | None = None
    agreement: Agreement | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)

    def minus(self, other: Report) -> Difference:
        """How much larger the returns are than those of another evaluation with the same seed, episode by episode.

        Raises:
            ConfigError: if it has not as many episodes.
        """
        return Difference.paired(self.returns, other.returns)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Faults and lost episodes, a line each."""
        lines = []
        for name, how in self.faults.items():
            if name in self.returns_per_agent:
                lines.append(f"agent {name!r}: {how}; from then on it took random actions, and the others played on")
            else:
                lines.append(f"environment: {name.replace('_', ' ')}: {how}")
        if self.lost_episodes:
            lines.append(f"environment: {self.lost_episodes:,} episodes were lost, and others played in their place")
        return tuple(lines)

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
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "decentralized": self.decentralized,
            "changes": list(self.changes),
            "faults": self.faults,
            "lost_episodes": self.lost_episodes,
            "batched": None if self.batched is None else self.batched.to_dict(),
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
        }

    def __repr__(self) -> str:
        """Episodes and return; ``print`` says more."""
        return f"<Report: {self.episodes:,} episodes, return {self.mean_return:.2f} ({_over_episodes(self)})>"

    def _repr_html_(self) -> str:
        """Returns of all, of teams and agents, and metrics, with their intervals where there are such."""
        rows: list[tuple[str, float, str]] = [("return, sum over agents", self.mean_return, _interval(self))]
        if len(self.teams) > 1:
            rows += [(f"team {name}", team.mean_return, _interval(team)) for name, team in self.teams.items()]
        rows += [(agent, mean, "") for agent, mean in self.returns_per_agent.items()]
        rows += [(name, mean, "") for name, mean in self.info.items()]
        rows += [(name, metric.mean, _interval(metric)) for name, metric in self.metrics.items()]
        rest = "; ".join([*self.changes, *self.troubles, *([str(self.agreement)] if self.agreement else [])])
        title = f"{self.episodes:,} episodes{', decentralized' if self.decentralized else ''}"
        return html_table(title + (f"; {rest}" if rest else ""), rows, ("", "mean", "95 % CI over episodes"))

    def __str__(self) -> str:
        """A few lines of text."""
        interval = f"({_over_episodes(self)})"
        lines = [f"{self.episodes} episodes: return {self.mean_return:.2f} {interval}, sum over agents"]
        if self.batched is not None:
            lines.append(f"  decentralized:           {self.mean_return:.2f} {interval}")
            lines.append(f"  batched, played apart:   {self.batched.mean_return:.2f} ({_over_episodes(self.batched)})")
            lines.append(f"  difference:              {self.minus(self.batched)}")
        lines += [f"  {self.agreement}"] if self.agreement is not None else []
        lines += [f"  {line}" for line in self.troubles]
        lines += [f"  {change}" for change in self.changes]
        for name, team in self.teams.items():
            agents = ", ".join(f"{agent} {mean:.2f}" for agent, mean in team.returns_per_agent.items())
            prefix = f"{name} {team.mean_return:.2f}: " if len(self.teams) > 1 else ""
            lines.append(f"  {prefix}{agents}")
        lines += [f"  {name} {mean:.3f}" for name, mean in self.info.items()]
        for name, metric in self.metrics.items():
            lines.append(f"  {name} {metric.mean:.3f} ({_over_episodes(metric, 3)})")
        return "\n".join(lines)


def _interval(found: Report | TeamReport | Metric, digits: int = 2) -> str:
    return interval_text(*found.confidence_interval, digits)


def _over_episodes(found: Report | TeamReport | Metric, digits: int = 2) -> str:
    return f"95 % CI over episodes {_interval(found, digits)}"


def summarize(
    spec: Spec, episodes: Sequence[Episode], decentralized: bool = False, changes: tuple[str, ...] = ()
) -> Report:
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
        decentralized=decentralized,
        changes=changes,
    )


def _team(agents: Sequence[str], table: Array) -> TeamReport:
    sums = table.sum(axis=1)
    means = dict(zip(agents, table.mean(axis=0).tolist(), strict=True))
    return TeamReport(float(sums.mean()), bootstrap_interval(sums), means, tuple(sums.tolist()))


def _means(infos: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for info in infos for name in info if not name.startswith("task/"))
    return {name: float(np.mean([info[name] for info in infos if name in info])) for name in names}
