"""Every agent on its own: it sees its own row, hears what its links bring, says and does what it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from marl.channels import Hub, Inbox
from marl.nets.distributions import uniform
from marl.playing.single import Agent, Turn
from marl.types import Array, Spec, Step, TeamSpec


@dataclass(frozen=True)
class Heard:
    """What one agent hears of its team's ``N`` in ``E`` copies: ``message (E, N, M)``, ``weight (E, N)``."""

    message: Array
    weight: Array

    @classmethod
    def of(cls, inbox: Inbox, listener: int) -> Heard:
        """One listener's share; what it does not hear is not in it."""
        message = inbox.message[:, 0 if inbox.message.shape[1] == 1 else listener]
        weight = inbox.weight[:, listener]
        return cls((message * (weight > 0).unsqueeze(-1)).numpy(), weight.numpy())

    def copy(self, e: int) -> Inbox:
        """In one copy of the environment."""
        message, weight = torch.from_numpy(self.message[e]), torch.from_numpy(self.weight[e])
        return Inbox(message[None, None], weight[None, None])


@dataclass(frozen=True)
class View:
    """What one agent gets when a step of ``E`` copies begins: its own rows and flags, and what it was told since.

    obs ``(E, *O)``; legal ``(E, L)`` or None; started, alive ``(E,)``.
    """

    obs: Array
    legal: Array | None
    started: Array
    alive: Array
    heard: Heard | None

    @classmethod
    def of(cls, step: Step, team: int, agent: int, heard: Heard | None) -> View:
        """One agent's share of a step."""
        rows = step.teams[team]
        legal = None if rows.legal is None else rows.legal[:, agent]
        return cls(rows.obs[:, agent], legal, step.started, rows.alive[:, agent], heard)


class Player(Protocol):
    """One agent in all copies, wherever it lives. A step is: look, say (and hear) as often as its team talks, act.

    fault: why it does not play any more, and somebody else sits in for it; empty while all is well.
    """

    fault: str

    def look(self, view: View) -> None:
        """Take in the view."""
        ...

    def say(self) -> tuple[Array, Array]:
        """Messages ``(E, M)`` and how loud they are ``(E,)``; silence where it is not alive."""
        ...

    def hear(self, heard: Heard) -> None:
        """What is heard in this round within the step."""
        ...

    def act(self) -> Array:
        """Actions ``(E,)`` or ``(E, A)``; zeros where it is not alive."""
        ...

    def close(self) -> None:
        """Its services are needed no longer."""
        ...


class LocalPlayer:
    """A player in this process: an :class:`~marl.playing.single.Agent` for each copy."""

    def __init__(self, agents: Sequence[Agent], explore: bool, size: int | None = None) -> None:
        """``size``: numbers of a message of its team, if that is not the agents' to know."""
        self.agents, self.explore, self.fault = agents, explore, ""
        self.size = agents[0].size if size is None else size
        self._action = agents[0].team.action
        self._turns: dict[int, Turn] = {}

    def look(self, view: View) -> None:
        """See :class:`Player`."""
        self._actions = np.zeros((len(self.agents), *self._action.shape), self._action.dtype)
        self._turns = {}
        self._hush()
        for e, agent in enumerate(self.agents):
            if view.started[e]:
                agent.reset()
            if view.alive[e]:
                legal = None if view.legal is None else view.legal[e]
                inbox = None if view.heard is None else view.heard.copy(e)
                self._turns[e] = agent.turn(view.obs[e], legal, self.explore, inbox)
                self._go_on(e, None)

    def say(self) -> tuple[Array, Array]:
        """See :class:`Player`."""
        return self._said, self._loud

    def hear(self, heard: Heard) -> None:
        """See :class:`Player`."""
        self._hush()
        for e in list(self._turns):
            self._go_on(e, heard.copy(e))

    def act(self) -> Array:
        """See :class:`Player`."""
        for e in list(self._turns):
            self._go_on(e, None)
        return self._actions

    def close(self) -> None:
        """See :class:`Player`."""

    def _hush(self) -> None:
        self._said = np.zeros((len(self.agents), self.size), np.float32)
        self._loud = np.zeros(len(self.agents), np.float32)

    def _go_on(self, e: int, heard: Inbox | None) -> None:
        """To the next message of one copy's turn, or to its end."""
        turn = self._turns[e]
        try:
            message, loud = next(turn) if heard is None else turn.send(heard)
            self._said[e], self._loud[e] = message[0, 0].numpy(), loud[0, 0].numpy()
        except StopIteration as end:
            self._actions[e] = end.value
            del self._turns[e]


def random_player(team: TeamSpec, index: int, seeds: Sequence[int], size: int) -> LocalPlayer:
    """Who takes the seat of an agent that is gone: any legal action is as likely as another, and not a word."""
    agent = Agent(team, index, None, uniform(team.action.of(index)))
    return LocalPlayer([agent.twin(seed) for seed in seeds], True, size)


class DecentralizedActor:
    """All agents of all teams, each by itself; hubs carry what they say."""

    def __init__(self, spec: Spec, players: Sequence[Sequence[Player]], hubs: Sequence[Hub | None]) -> None:
        """``players[k][n]`` has the seat of agent ``n`` of team ``k``."""
        self.spec, self.players, self.hubs = spec, players, hubs
        self.inboxes: list[Inbox | None] = [None] * len(hubs)  # what each team heard last

    def act(self, step: Step) -> list[Array]:
        """What everybody does. All see before anyone is waited for, so that processes think at the same time."""
        for place, (players, hub) in enumerate(zip(self.players, self.hubs, strict=True)):
            inbox = None
            if hub is not None:
                rows = step.teams[place]
                started, alive = torch.from_numpy(step.started), torch.from_numpy(rows.alive)
                inbox = self.inboxes[place] = hub.begin(torch.from_numpy(rows.obs), started, alive)
            for n, player in enumerate(players):
                player.look(View.of(step, place, n, None if inbox is None else Heard.of(inbox, n)))
        for place, (players, hub) in enumerate(zip(self.players, self.hubs, strict=True)):
            if hub is not None:
                self.inboxes[place] = self._talk(players, hub) or self.inboxes[place]
        return [np.stack([player.act() for player in players], axis=1) for players in self.players]

    def _talk(self, players: Sequence[Player], hub: Hub) -> Inbox | None:
        inbox = None
        for turn in range(max(hub.rounds, 1)):
            said, loud = zip(*(player.say() for player in players), strict=True)
            inbox = hub.exchange(
                turn, torch.from_numpy(np.stack(said, axis=1)), torch.from_numpy(np.stack(loud, axis=1))
            )
            if inbox is not None:
                for n, player in enumerate(players):
                    player.hear(Heard.of(inbox, n))
        hub.end()
        return inbox

    @property
    def faults(self) -> dict[str, str]:
        """Agents that were lost on the way, and how."""
        names = (name for team in self.spec.teams for name in team.agents)
        seats = (player for players in self.players for player in players)
        return {name: player.fault for name, player in zip(names, seats, strict=True) if player.fault}

    def close(self) -> None:
        """Let everybody go."""
        for players in self.players:
            for player in players:
                player.close()
