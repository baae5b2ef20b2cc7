"""Decentralized acting: every agent decides from its own observation and inbox alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from marl.channels import Hub, Inbox
from marl.nets.distributions import uniform
from marl.playing.single import Agent, Heard, Turn
from marl.types import Array, Spec, Step, TeamSpec


@dataclass(frozen=True)
class ReceivedMessages:
    """Messages that one agent receives from its team's ``N`` agents: ``message (E, N, M)``, ``weight (E, N)``."""

    message: Array
    weight: Array

    @classmethod
    def of(cls, inbox: Inbox, listener: int) -> ReceivedMessages:
        """One listener's messages; messages that it does not receive are zero."""
        message = inbox.message[:, 0 if inbox.message.shape[1] == 1 else listener]
        weight = inbox.weight[:, listener]
        return cls((message * (weight > 0).unsqueeze(-1)).numpy(), weight.numpy())

    def copy(self, e: int) -> Heard:
        """The messages in one copy of the environment."""
        return self.message[e], self.weight[e]


@dataclass(frozen=True)
class AgentInput:
    """One agent's input of a step of ``E`` copies: its own observation, flags, and received messages.

    obs ``(E, *O)``; action_mask ``(E, L)`` or None; started, acting ``(E,)``.
    """

    obs: Array
    action_mask: Array | None
    started: Array
    acting: Array
    heard: ReceivedMessages | None

    @classmethod
    def of(cls, step: Step, team: int, agent: int, heard: ReceivedMessages | None) -> AgentInput:
        """One agent's part of a step."""
        rows = step.teams[team]
        action_mask = None if rows.action_mask is None else rows.action_mask[:, agent]
        return cls(rows.obs[:, agent], action_mask, step.started, rows.acting[:, agent], heard)


class Player(Protocol):
    """One agent in all copies, in this process or in another.

    fault: why it does not play any more, and somebody else sits in for it; empty while all is well.
    """

    fault: str

    def observe(self, view: AgentInput) -> None:
        """Take the agent's input of this step."""
        ...

    def say(self) -> tuple[Array, Array]:
        """Messages ``(E, M)`` and loudness ``(E,)``; silence where the agent does not act."""
        ...

    def hear(self, heard: ReceivedMessages) -> None:
        """Take the messages of this round."""
        ...

    def act(self) -> Array:
        """Actions ``(E,)`` or ``(E, A)``; zeros where the agent does not act."""
        ...

    def close(self) -> None:
        """Release its process, if it has one."""
        ...


class LocalPlayer:
    """A player in this process: an :class:`~marl.playing.single.Agent` for each copy."""

    def __init__(self, agents: Sequence[Agent], explore: bool, size: int | None = None) -> None:
        """``size``: numbers of a message of its team, if that is not the agents' to know."""
        self.agents, self.explore, self.fault = agents, explore, ""
        self.size = agents[0].size if size is None else size
        self._action = agents[0].team.action
        self._turns: dict[int, Turn] = {}

    def observe(self, view: AgentInput) -> None:
        """Take the agent's input of this step."""
        self._actions = np.zeros((len(self.agents), *self._action.shape), self._action.dtype)
        self._turns = {}
        self._hush()
        for e, agent in enumerate(self.agents):
            if view.started[e]:
                agent.reset()
            if view.acting[e]:
                action_mask = None if view.action_mask is None else view.action_mask[e]
                heard = None if view.heard is None else view.heard.copy(e)
                self._turns[e] = agent.turn(view.obs[e], action_mask, self.explore, heard)
                self._go_on(e, None)

    def say(self) -> tuple[Array, Array]:
        """Messages ``(E, M)`` and loudness ``(E,)``."""
        return self._said, self._loud

    def hear(self, heard: ReceivedMessages) -> None:
        """Take the messages of this round."""
        self._hush()
        for e in list(self._turns):
            self._go_on(e, heard.copy(e))

    def act(self) -> Array:
        """Actions ``(E,)`` or ``(E, A)``."""
        for e in list(self._turns):
            self._go_on(e, None)
        return self._actions

    def close(self) -> None:
        """Nothing to release."""

    def _hush(self) -> None:
        self._said = np.zeros((len(self.agents), self.size), np.float32)
        self._loud = np.zeros(len(self.agents), np.float32)

    def _go_on(self, e: int, heard: Heard | None) -> None:
        """To the next message of one copy's turn, or to its end."""
        turn = self._turns[e]
        try:
            self._said[e], self._loud[e] = next(turn) if heard is None else turn.send(heard)
        except StopIteration as end:
            self._actions[e] = end.value
            del self._turns[e]


def random_player(team: TeamSpec, index: int, seeds: Sequence[int], size: int) -> LocalPlayer:
    """A player with uniformly random legal actions and no messages, for the seat of a missing agent."""
    agent = Agent(team, index, None, uniform(team.action.of(index)))
    return LocalPlayer([agent.twin(seed) for seed in seeds], True, size)


class DecentralizedActor:
    """All agents of all teams, each acting on its own; hubs carry their messages."""

    def __init__(self, spec: Spec, players: Sequence[Sequence[Player]], hubs: Sequence[Hub | None]) -> None:
        """``players[k][n]`` has the seat of agent ``n`` of team ``k``."""
        self.spec, self.players, self.hubs = spec, players, hubs
        self.inboxes: list[Inbox | None] = [None] * len(hubs)  # what each team heard last

    def act(self, step: Step) -> list[Array]:
        """Actions of all agents. All inputs are sent before the first answer is read: processes run in parallel."""
        for place, (players, hub) in enumerate(zip(self.players, self.hubs, strict=True)):
            inbox = None
            if hub is not None:
                rows = step.teams[place]
                started, acting = torch.from_numpy(step.started), torch.from_numpy(rows.acting)
                inbox = self.inboxes[place] = hub.begin(torch.from_numpy(rows.obs), started, acting)
            for n, player in enumerate(players):
                player.observe(AgentInput.of(step, place, n, None if inbox is None else ReceivedMessages.of(inbox, n)))
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
                    player.hear(ReceivedMessages.of(inbox, n))
        hub.end()
        return inbox

    @property
    def faults(self) -> dict[str, str]:
        """Agents whose process was lost, and how."""
        names = (name for team in self.spec.teams for name in team.agents)
        seats = (player for players in self.players for player in players)
        return {name: player.fault for name, player in zip(names, seats, strict=True) if player.fault}

    def close(self) -> None:
        """Close all players."""
        for players in self.players:
            for player in players:
                player.close()
