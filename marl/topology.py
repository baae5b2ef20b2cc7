"""Topologies: who hears whom. ``weight[i, j] > 0`` means that agent ``i`` hears agent ``j``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from marl.config import unknown
from marl.types import ConfigError, TeamSpec, pattern_of

__all__ = [
    "Complete",
    "Dynamic",
    "Graph",
    "Grid",
    "Groups",
    "Nearest",
    "Ring",
    "Star",
    "Where",
    "Within",
]

DynamicEdges = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Adjacency:
    """The communication graph of one team.

    weight: ``(N, N)``, what is always true: 0 where ``i`` never hears ``j``.
    dynamic: from raw observations ``(..., N, O)`` to what is true now: edges ``(..., N, N)``, which count for what is
    said now, and ears ``(..., N)``, who can listen now; None where nothing changes.
    """

    weight: Tensor
    dynamic: DynamicEdges | None = None

    @property
    def columns(self) -> int:
        """How many numbers a row of :meth:`now` has for each agent."""
        return 0 if self.dynamic is None else self.weight.shape[0] + 1

    def now(self, obs: Tensor) -> Tensor:
        """Current edges ``(..., N, N)`` and, in the last column, who can listen: ``(..., N, N + 1)``."""
        assert self.dynamic is not None
        edges, ears = self.dynamic(obs)
        return torch.cat((edges.to(torch.float32), ears.to(torch.float32).unsqueeze(-1)), dim=-1)


class Topology(Protocol):
    """A communication topology: any frozen dataclass with this ``build``."""

    def build(self, team: TeamSpec) -> Adjacency:
        """The graph of a team. Raises ConfigError if the topology does not fit it."""
        ...


def place_of(team: TeamSpec, agent: Any, where: str) -> int:
    """The index of an agent that a topology names. Raises ConfigError for unknown agents."""
    if agent in team.agents:
        return team.agents.index(agent)
    if isinstance(agent, int) and not isinstance(agent, bool) and 0 <= agent < team.num_agents:
        return agent
    raise ConfigError(
        unknown(f"{where} on team {team.name!r}", str(agent), team.agents, "agent")
        + "; learned messages stay within one team, since its learner alone passes their gradients on"
    )


def _everybody(agents: int) -> Tensor:
    return torch.ones(agents, agents, dtype=torch.float32) - torch.eye(agents, dtype=torch.float32)


@dataclass(frozen=True)
class Complete:
    """Every agent receives the messages of all others.

    Args:
        loops: agents receive their own messages as well.
    """

    loops: bool = False

    def build(self, team: TeamSpec) -> Adjacency:
        """Ones, on the diagonal only with ``loops``."""
        agents = team.num_agents
        return Adjacency(torch.ones(agents, agents, dtype=torch.float32) if self.loops else _everybody(agents))


@dataclass(frozen=True)
class Ring:
    """Agents in a circle receive the messages of their neighbors.

    Args:
        hops: how far they hear.
        directed: hear only those before, not those after.
    """

    hops: int = 1
    directed: bool = False

    def __post_init__(self) -> None:
        """Check the number."""
        _whole("Ring.hops", self.hops, 1)

    def build(self, team: TeamSpec) -> Adjacency:
        """Neighbors up to ``hops`` away."""
        agents = team.num_agents
        weight = torch.zeros(agents, agents, dtype=torch.float32)
        for i in range(agents):
            for hop in range(1, self.hops + 1):
                weight[i, (i - hop) % agents] = 1
                if not self.directed:
                    weight[i, (i + hop) % agents] = 1
        return Adjacency(weight * _everybody(agents))


@dataclass(frozen=True)
class Star:
    """The hub exchanges messages with all agents; the others exchange messages with the hub only.

    Args:
        hub: its name; None: the first of the team.
    """

    hub: str | None = None

    def build(self, team: TeamSpec) -> Adjacency:
        """Row and column of the hub."""
        hub = 0 if self.hub is None else place_of(team, self.hub, "Star.hub")
        weight = torch.zeros(team.num_agents, team.num_agents, dtype=torch.float32)
        weight[hub, :] = weight[:, hub] = 1
        return Adjacency(weight * _everybody(team.num_agents))


@dataclass(frozen=True)
class Grid:
    """Agents side by side in rows hear the next ones left, right, above and below.

    Args:
        columns: agents in a row; None: as many as make it most square.
    """

    columns: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.columns is not None:
            _whole("Grid.columns", self.columns, 1)

    def build(self, team: TeamSpec) -> Adjacency:
        """Four neighbors, fewer at the rim."""
        columns = self.columns or math.ceil(math.sqrt(team.num_agents))
        place = torch.arange(team.num_agents)
        xy = torch.stack((place % columns, place // columns), dim=-1)
        return Adjacency(((xy.unsqueeze(0) - xy.unsqueeze(1)).abs().sum(-1) == 1).to(torch.float32))


@dataclass(frozen=True)
class Groups:
    """Agents hear those of their own group.

    Args:
        patterns: of agent names, one a group; each agent joins its own name, else the first that it matches.
    """

    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that it is several."""
        if isinstance(self.patterns, str):
            raise ConfigError(f"Groups: expected patterns, one a group, got one text; use ({self.patterns!r},)")

    def build(self, team: TeamSpec) -> Adjacency:
        """Blocks of ones, one for each group."""
        which = []
        for agent in team.agents:
            found = pattern_of(agent, self.patterns, team.agents)
            if found is None:
                raise ConfigError(f"Groups: agent {agent!r} matches none of {list(self.patterns)}; add a pattern")
            which.append(self.patterns.index(found))
        for k, pattern in enumerate(self.patterns):
            if k not in which:
                raise ConfigError(f"Groups: pattern {pattern!r} names no agent of team {team.name!r}")
        own = torch.tensor(which)
        return Adjacency((own.unsqueeze(0) == own.unsqueeze(1)).to(torch.float32) * _everybody(team.num_agents))


@dataclass(frozen=True)
class Graph:
    """Any graph of ``networkx``: an edge from ``u`` to ``v`` lets ``v`` hear ``u``; undirected ones work both ways.

    Nodes are agent names or places ``0 .. N - 1``; the attribute ``weight`` of an edge is how much it counts. Agents
    hear themselves only by a loop of their own.

    Args:
        graph: a ``networkx`` graph, or its edges ``(u, v[, weight])``, directed.
    """

    graph: Any

    def __post_init__(self) -> None:
        """Keep nodes and directed edges, which compare and can be saved."""
        if isinstance(self.graph, Mapping) and set(self.graph) == {"nodes", "edges"}:  # as it was saved
            nodes, edges = self.graph["nodes"], self.graph["edges"]
        elif hasattr(self.graph, "to_directed"):  # networkx, which takes a while to import
            directed = self.graph.to_directed()
            nodes, edges = tuple(directed.nodes), tuple(directed.edges(data="weight", default=1.0))
        else:
            given = tuple(self.graph) if isinstance(self.graph, Iterable) else (self.graph,)
            for edge in given:
                if not isinstance(edge, tuple | list) or len(edge) not in (2, 3):
                    raise ConfigError(f"Graph: expected a networkx graph or edges (u, v[, weight]), got {edge!r}")
            edges = tuple((*edge, 1.0)[:3] for edge in given)
            nodes = tuple(dict.fromkeys(node for edge in edges for node in edge[:2]))
        for u, v, weight in edges:
            if not isinstance(weight, Real) or not 0 <= float(weight) < math.inf:
                raise ConfigError(f"Graph: edge {u!r} to {v!r}: expected a weight of at least 0, got {weight!r}")
        edges = tuple((u, v, float(weight)) for u, v, weight in edges)
        object.__setattr__(self, "graph", {"nodes": tuple(nodes), "edges": edges})

    def build(self, team: TeamSpec) -> Adjacency:
        """The edges' weights."""
        nodes = {place_of(team, node, "Graph") for node in self.graph["nodes"]}
        if len(nodes) < team.num_agents:
            missing = [agent for place, agent in enumerate(team.agents) if place not in nodes]
            raise ConfigError(
                f"Graph on team {team.name!r}: {len(nodes)} nodes for {team.num_agents} agents; "
                f"add {', '.join(missing)}"
            )
        weight = torch.zeros(team.num_agents, team.num_agents, dtype=torch.float32)
        for u, v, w in self.graph["edges"]:
            weight[place_of(team, v, "Graph"), place_of(team, u, "Graph")] = w
        return Adjacency(weight)


@dataclass(frozen=True)
class Nearest:
    """Agents hear the ``k`` nearest living agents; dead ones observe zeros.

    Args:
        k: how many.
        position: where in the (vector) observation an agent's own position stands, such as ``(2, 3)``.
        among: who may be heard at all.
    """

    k: int
    position: tuple[int, ...]
    among: Topology = field(default_factory=Complete)

    def __post_init__(self) -> None:
        """Check the numbers."""
        _whole("Nearest.k", self.k, 1)

    def build(self, team: TeamSpec) -> Adjacency:
        """The ``k`` smallest distances of each row."""
        inner, places = self.among.build(team), _entries("Nearest.position", self.position, team)
        if self.k >= team.num_agents:
            raise ConfigError(f"Nearest.k: {self.k} others in a team of {team.num_agents}; use Complete()")
        return _refined(inner, partial(self._edges, places))

    def _edges(self, places: list[int], obs: Tensor, now: Tensor) -> Tensor:
        there = (now > 0) & obs.any(-1).unsqueeze(-2)  # (..., N, N)
        distance = torch.where(there, _distances(obs[..., places]), math.inf)
        last = distance.kthvalue(self.k, dim=-1, keepdim=True).values
        return now * (distance <= last)


@dataclass(frozen=True)
class Within:
    """Agents hear those within reach.

    Args:
        radius: how far they hear, in the units of the observation.
        position: where in the (vector) observation an agent's own position stands, such as ``(2, 3)``.
        among: who may be heard at all.
    """

    radius: float
    position: tuple[int, ...]
    among: Topology = field(default_factory=Complete)

    def __post_init__(self) -> None:
        """Check the number."""
        if not isinstance(self.radius, Real) or not 0 <= self.radius < math.inf:
            raise ConfigError(f"Within.radius: expected a number of at least 0, got {self.radius!r}")

    def build(self, team: TeamSpec) -> Adjacency:
        """Distances compared."""
        inner, places = self.among.build(team), _entries("Within.position", self.position, team)
        return _refined(inner, partial(self._edges, places))

    def _edges(self, places: list[int], obs: Tensor, now: Tensor) -> Tensor:
        return now * (_distances(obs[..., places]) <= self.radius)


@dataclass(frozen=True)
class Where:
    """Agents send and receive only while an entry of their observation is above 0, such as "is in the room".

    Args:
        speak: the entry that lets an agent be heard; None: always.
        hear: the entry that lets an agent listen; None: always.
        among: who may be heard at all.
    """

    speak: int | None = None
    hear: int | None = None
    among: Topology = field(default_factory=Complete)

    def build(self, team: TeamSpec) -> Adjacency:
        """Columns and ears by the entries."""
        inner = self.among.build(team)
        for name, entry in (("speak", self.speak), ("hear", self.hear)):
            if entry is not None:
                _entries(f"Where.{name}", (entry,), team)
        return _refined(inner, self._edges, self._ears)

    def _edges(self, obs: Tensor, now: Tensor) -> Tensor:
        return now if self.speak is None else now * (obs[..., self.speak] > 0).unsqueeze(-2)

    def _ears(self, obs: Tensor, now: Tensor) -> Tensor:
        return now if self.hear is None else now * (obs[..., self.hear] > 0)


@dataclass(frozen=True)
class Dynamic:
    """Edges by a function of all agents' observations.

    Args:
        edges: from a tensor ``(B, N, O)`` of raw observations to weights ``(B, N, N)``, receivers first; deterministic.
        among: who may be heard at all.
    """

    edges: Callable[[Tensor], Tensor]
    among: Topology = field(default_factory=Complete)

    def build(self, team: TeamSpec) -> Adjacency:
        """The function's edges; their shape is checked once."""
        inner, agents = self.among.build(team), team.num_agents
        _entries("Dynamic", (), team)
        if not callable(self.edges):
            raise ConfigError(f"Dynamic.edges: expected a function of observations (B, N, O), got {self.edges!r}")
        found = self.edges(torch.zeros(2, *(agents, *team.obs.shape), dtype=torch.float32))
        if not isinstance(found, Tensor) or found.shape != (2, agents, agents):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"Dynamic.edges: expected a tensor (B, {agents}, {agents}), got {got}")
        return _refined(inner, self._now)

    def _now(self, obs: Tensor, now: Tensor) -> Tensor:
        flat = obs.reshape(-1, *obs.shape[-2:])
        return now * self.edges(flat).to(torch.float32).view(*obs.shape[:-2], *now.shape[-2:])


def _refined(
    inner: Adjacency,
    edges: Callable[[Tensor, Tensor], Tensor],
    ears: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Adjacency:
    """Another condition on top of an adjacency's own. No closures: an agent that holds one can be pickled."""
    return Adjacency(inner.weight, partial(_refine, inner, edges, ears))


def _refine(
    inner: Adjacency,
    edges: Callable[[Tensor, Tensor], Tensor],
    ears: Callable[[Tensor, Tensor], Tensor] | None,
    obs: Tensor,
) -> tuple[Tensor, Tensor]:
    if inner.dynamic is None:
        now = inner.weight.to(obs.device).expand(*obs.shape[:-1], obs.shape[-2])
        open_ears = torch.ones(obs.shape[:-1], device=obs.device, dtype=torch.float32)
    else:
        now, open_ears = inner.dynamic(obs)
    return edges(obs, now), open_ears if ears is None else ears(obs, open_ears)


def _distances(position: Tensor) -> Tensor:
    """Between all pairs, ``(..., N, N)``."""
    apart: Tensor = torch.linalg.vector_norm(position.unsqueeze(-2) - position.unsqueeze(-3), dim=-1)
    return apart


def _entries(where: str, entries: tuple[int, ...], team: TeamSpec) -> list[int]:
    if not isinstance(entries, Sequence):
        raise ConfigError(f"{where}: expected the entries of a position, such as (2, 3), got {entries!r}")
    if team.obs.is_image:
        raise ConfigError(f"{where} on team {team.name!r}: images have no entries to look at; use a fixed topology")
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, int) or not 0 <= entry < min(team.obs.widths):
            raise ConfigError(
                f"{where} on team {team.name!r}: expected entries from 0 to {min(team.obs.widths) - 1} of the "
                f"observation, got {entry!r}"
            )
    return list(entries)


def _whole(where: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{where}: expected a whole number of at least {least}, got {value!r}")
