"""Bundles on seats: exported agents play where a system's would, in this process or in processes without torch."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl.channels import Channel, CommNet, Link, Tamper
from marl.playing.actor import Actor
from marl.playing.evaluate import Links, Players
from marl.playing.processes import ProcessPlayer
from marl.spec_json import space_from_json
from marl.topology import Graph
from marl.types import CheckpointError, ConfigError, Spec
from marl_runtime import Agent, BundleError, Team, load
from marl_runtime.seat import Heard, LocalPlayer, TakesTurns, Turn
from marl_runtime.wire import Field, Layout


def open_bundle(path: str | Path, engine: str = "numpy") -> Team:
    """The team of a bundle. Raises CheckpointError if it is damaged or makes no sense."""
    try:
        return load(path, engine)
    except BundleError as error:
        raise CheckpointError(str(error)) from None


class Leaving:
    """An exported agent that leaves this process: another one loads the bundle."""

    server = Agent.server

    def __init__(self, agent: Agent, path: Path, engine: str, side_seed: int) -> None:
        """``side_seed``: of draws from mixtures in the first copy."""
        self.agent, self.size = agent, agent.size
        self._told = {"folder": str(path), "agent": agent.name, "engine": engine, "side_seed": side_seed}

    @property
    def action(self) -> Field:
        """Shape and type of its encoded action."""
        return self.agent.action

    def layout(self, copies: int) -> Layout:
        """The frames in which its process is told what it may know."""
        return self.agent.layout(copies)

    def save(self, path: Path) -> str:
        """What its process is told to load."""
        return json.dumps(self._told)

    def twin(self, seed: int | None = None) -> TakesTurns:
        """A copy in this process."""
        return self.agent.twin(seed)

    def reset(self) -> None:
        """Forget the episode so far."""
        self.agent.reset()

    def turn(self, row: Any, action_mask: Any, explore: bool = False, heard: Heard | None = None) -> Turn:
        """One step in this process."""
        return self.agent.turn(row, action_mask, explore, heard)


@dataclasses.dataclass(frozen=True)
class BundlePlayers(Players):
    """Exported agents in place of a system's: all that acts on its own is theirs.

    Args:
        team: the bundle.
        engine: what computes their policies.
        trained: whether the learners are those that were exported, so that they play as one batch beside.
    """

    team: Team
    engine: str
    trained: bool

    @classmethod
    def of(cls, players: Players, team: Team, engine: str, trained: bool) -> BundlePlayers:
        """The players of a system, with a bundle's agents where each acts on its own. Raises CheckpointError."""
        check_fits(team, players.spec)
        own = {field.name: getattr(players, field.name) for field in dataclasses.fields(players)}
        if not trained:
            own["channels"] = [channel_of(team, one.name) for one in players.spec.teams]
        return cls(**own, team=team, engine=engine, trained=trained)

    @property
    def sizes(self) -> list[int]:
        """Numbers of a message of each team; 0 where nobody talks."""
        return [self.team[team.agents[0]].size for team in self.spec.teams]

    def alone(self, name: str) -> Agent:
        """What takes an agent's turns."""
        return self.team[name]

    def twins(self, agent: Agent, seeds: Sequence[int], side_seed: int) -> Sequence[TakesTurns]:
        """An agent for each copy."""
        agent.side_seeds = itertools.count(side_seed)
        return [agent.twin(one) for one in seeds]

    def process(
        self, agent: Agent, seat: str, seeds: Sequence[int], greedy: bool, side_seed: int, stranger: LocalPlayer
    ) -> ProcessPlayer:
        """An agent in a process of its own, which never imports torch."""
        leaving = Leaving(agent, self.team.path, self.engine, side_seed)
        return ProcessPlayer(seat, leaving, seeds, not greedy, stranger)

    def together(self, copies: int, seed: int, greedy: bool, links: Links, tampers: Sequence[Tamper | None]) -> Actor:
        """The trained team in one batch; without it the exported agents, side by side in this process."""
        if self.trained:
            return super().together(copies, seed, greedy, links, tampers)
        return self.apart(copies, seed, greedy, links)


def channel_of(team: Team, name: str) -> Channel | None:
    """What carries a team's messages, as its manifest has it. Raises ConfigError if only the trainer knows."""
    said = team.manifest["channels"][name]
    if said is None:
        return None
    if said["dynamic"]:
        raise ConfigError(
            f"team {name!r}: who hears whom depends on what all of them observe, which no bundle knows; "
            "play it beside its run: marl verify DIR RUN"
        )
    weight = np.array(said["adjacency"])
    agents = range(len(weight))
    edges = [(u, v, float(weight[v, u])) for u in agents for v in agents]
    return CommNet(rounds=said["rounds"], topology=Graph(edges), link=Link(**said["link"]))


def check_fits(team: Team, spec: Spec) -> None:
    """Raise CheckpointError unless a bundle holds every agent of an environment, with its spaces."""
    missing = [name for name in spec.agents if name not in team]
    if missing:
        raise CheckpointError(f"bundle {team.path}: it lacks {', '.join(missing)}, so it cannot play as a team")
    for one in spec.teams:
        for name, observation, action in zip(one.agents, one.observation_spaces, one.action_spaces, strict=True):
            codec = team[name].codec
            theirs = space_from_json(codec.observation_space), space_from_json(codec.action_space)
            if theirs != (observation, action) or team[name].team != one.agents or codec.shape != one.obs.shape:
                raise CheckpointError(f"bundle {team.path}: agent {name!r} was made for other spaces or another team")
