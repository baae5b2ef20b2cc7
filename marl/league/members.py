"""Sides, frozen policies, and who of them plays which agent of which copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from marl.league.ratings import Rating
from marl.memory.rollout import Look
from marl.nets.agent_net import AgentNet
from marl.nets.distributions import Distribution
from marl.types import Array, ConfigError, Spec, Step

OWN = -1  # a seat that a learner plays and learns from
Between = Literal["teams", "agents"]
Policy = tuple[AgentNet | None, Distribution]  # of a team


@dataclass(frozen=True)
class Side:
    """Who wins or loses together: a team (its ``place``), or one agent of the only team (its ``columns``)."""

    name: str
    place: int
    columns: tuple[int, ...]
    agents: tuple[str, ...]


def sides_of(spec: Spec, between: Between) -> tuple[Side, ...]:
    """The sides of a game. Raises ConfigError where there are not two."""
    teams = spec.teams
    if len(spec.agents) < 2:
        raise ConfigError(f"league: {spec.env} has one agent, which has nobody to play against; leave league out")
    if between == "agents":
        if len(teams) > 1:
            raise ConfigError(
                f"league: between='agents' is for agents of one team, and {spec.env} has {len(teams)}; leave it out"
            )
        return tuple(Side(name, 0, (column,), (name,)) for column, name in enumerate(teams[0].agents))
    if len(teams) < 2:
        raise ConfigError(
            f"league: {spec.env} has one team, which has nobody to play against; give each side a learner of its own, "
            "agents={PATTERN: learner, ...}, or say between='agents' if agents of this team compete"
        )
    return tuple(Side(team.name, place, tuple(range(team.num_agents)), team.agents) for place, team in enumerate(teams))


class Member:
    """A policy that learns no more, what came of playing it, and its rating.

    wins and games count what learners scored against it, older games ever less; ``pooled``: may be drawn; ``share``:
    how much of a guest it is, who may be a mixture of several.
    """

    DECAY = 0.99  # of the count of games with each new one: learners change, and old results say less

    def __init__(
        self,
        uid: int,
        place: int,
        name: str,
        policy: Policy,
        rating: Rating,
        *,
        greedy: bool = False,
        pooled: bool = True,
        lasting: bool = False,
        share: float = 1.0,
    ) -> None:
        """``policy`` is a team's; ``greedy``: takes its most likely action; ``lasting``: no window forgets it."""
        self.uid, self.place, self.name, self.rating, self.share = uid, place, name, rating, share
        net, self.distribution = policy
        self.net = None if net is None else net.eval()
        self.greedy, self.pooled, self.lasting = greedy, pooled, lasting
        self.wins = self.games = 0.0

    def again(self, uid: int, greedy: bool = False) -> Member:
        """The same policy under another number, so that its recurrent states are kept apart."""
        return Member(uid, self.place, self.name, (self.net, self.distribution), (), greedy=self.greedy or greedy)

    @property
    def carry_width(self) -> int:
        """Width of the recurrent state of one agent."""
        return 0 if self.net is None else self.net.carry_shape[1]

    @property
    def beaten(self) -> float:
        """The share of their games that learners win against it; half before anybody has played."""
        return (self.wins + 0.5) / (self.games + 1.0)

    def record(self, score: float) -> None:
        """A learner scored so much against it: 1 won, 0.5 drawn, 0 lost."""
        self.wins = self.DECAY * self.wins + score
        self.games = self.DECAY * self.games + 1.0

    @torch.inference_mode()
    def parameters(self, look: Look) -> tuple[Tensor, Tensor]:
        """Parameters of the action distribution ``(R, N, K)``, and the carry after."""
        if self.net is None:
            shape = *look.alive.shape, self.distribution.size
            return torch.zeros(shape, device=look.alive.device, dtype=torch.float32), look.carry
        out, carries = self.net(look.obs.unsqueeze(0), look.carry, look.started.unsqueeze(0), look.alive.unsqueeze(0))
        return out[0], carries[0]

    @torch.inference_mode()
    def act(self, look: Look, generator: torch.Generator, greedy: bool = False) -> tuple[Tensor, Tensor]:
        """Actions for the environment ``(R, N[, A])``, and the carry after. What reads nothing always samples."""
        parameters, carry = self.parameters(look)
        if (greedy or self.greedy) and self.net is not None:
            action = self.distribution.mode(parameters, look.legal)
        else:
            action = self.distribution.sample(parameters, look.legal, generator)
        return self.distribution.to_env(action), carry

    def state_dict(self) -> dict[str, Any]:
        """All of it but the network's structure."""
        plain = ("uid", "place", "name", "pooled", "lasting", "wins", "games")
        net = None if self.net is None or self.lasting else dict(self.net.state_dict())
        return {**{name: getattr(self, name) for name in plain}, "rating": list(self.rating), "net": net}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.wins, self.games, self.pooled = float(state["wins"]), float(state["games"]), bool(state["pooled"])
        self.rating = tuple(float(x) for x in state["rating"])
        if self.net is not None and state["net"] is not None:
            self.net.load_state_dict(state["net"])


Strategy = Sequence[tuple[float, Member]]  # the policies that a side mixes, with chances that add up to 1


class Cast:
    """Who plays which agent of which copy: ``seats[k] (E, N)`` holds a member's number, or ``OWN``."""

    def __init__(self, spec: Spec, num_envs: int, device: torch.device | str) -> None:
        """Everybody plays for himself."""
        self.spec, self.num_envs, self.device = spec, num_envs, torch.device(device)
        self.seats = [np.full((num_envs, team.num_agents), OWN, dtype=np.int64) for team in spec.teams]
        self.carries: dict[int, Tensor] = {}  # (E, N, H) of the members that have one

    def act(
        self,
        members: Mapping[int, Member],
        step: Step,
        actions: Sequence[Array],
        generator: torch.Generator,
    ) -> None:
        """Put what members do into ``actions[k] (E, N[, A])``, in place."""
        for carry in self.carries.values():
            carry[torch.from_numpy(step.started)] = 0.0
        for seats, team, out in zip(self.seats, step.teams, actions, strict=True):
            for uid in np.unique(seats).tolist():
                if uid == OWN:
                    continue
                moving = (seats == uid) & team.alive  # (E, N)
                rows = np.flatnonzero(moving.any(axis=1))
                if not len(rows):
                    continue
                member = members[uid]
                where = torch.from_numpy(rows)
                carry = self._carry(member, seats.shape[1])
                look = Look(
                    torch.from_numpy(team.obs[rows]).to(self.device),
                    carry[where].to(self.device),
                    torch.zeros(len(rows), dtype=torch.bool, device=self.device),
                    torch.from_numpy(moving[rows]).to(self.device),
                    None if team.legal is None else torch.from_numpy(team.legal[rows]).to(self.device),
                )
                action, after = member.act(look, generator)
                if member.carry_width:
                    carry[where] = after.to(carry.device)
                out[moving] = action.cpu().numpy()[moving[rows]]

    def _carry(self, member: Member, agents: int) -> Tensor:
        if not member.carry_width:
            return torch.zeros(self.num_envs, agents, 0, dtype=torch.float32)
        if member.uid not in self.carries:
            self.carries[member.uid] = torch.zeros(self.num_envs, agents, member.carry_width, dtype=torch.float32)
        return self.carries[member.uid]


class Company:
    """Frozen policies on every side; where a side mixes several, each episode is played by one drawn by its chance."""

    def __init__(
        self,
        spec: Spec,
        num_envs: int,
        sides: Sequence[Side],
        strategies: Sequence[Strategy],
        seed: int,
        device: torch.device | str,
    ) -> None:
        """``strategies[s]`` plays side ``s``."""
        self.random = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        self.generator = torch.Generator(device).manual_seed(seed)
        self.cast, self.sides = Cast(spec, num_envs, device), sides
        self.members: dict[int, Member] = {}
        self.mixtures: list[tuple[list[int], list[float]]] = []  # of each side: numbers of members, their chances
        for strategy in strategies:
            numbers = list(range(len(self.members), len(self.members) + len(strategy)))
            self.members |= {number: one.again(number) for number, (_, one) in zip(numbers, strategy, strict=True)}
            self.mixtures.append((numbers, [chance for chance, _ in strategy]))
        self.actions = [
            np.zeros((num_envs, team.num_agents, *team.action.shape), dtype=team.action.dtype) for team in spec.teams
        ]

    def act(self, step: Step) -> list[Array]:
        """What everybody does, ``(E, N[, A])`` for each team; the same arrays every time."""
        for copy in np.flatnonzero(step.started).tolist():
            for side, (numbers, chances) in zip(self.sides, self.mixtures, strict=True):
                chosen = numbers[0] if len(numbers) == 1 else int(self.random.choice(numbers, p=chances))
                self.cast.seats[side.place][copy, side.columns] = chosen
        self.cast.act(self.members, step, self.actions, self.generator)
        return self.actions
