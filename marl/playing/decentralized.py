"""Decentralized acting: every agent decides from its own observation and inbox alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from marl.channels import Hub, Inbox
from marl.nets.distributions import uniform
from marl.playing.single import Agent
from marl.types import Array, Spec, Step, TeamSpec
from marl_runtime.seat import AgentInput, LocalPlayer, ReceivedMessages


def received(inbox: Inbox, listener: int) -> ReceivedMessages:
    """One listener's messages; messages that it does not receive are zero."""
    message = inbox.message[:, 0 if inbox.message.shape[1] == 1 else listener]
    weight = inbox.weight[:, listener]
    return ReceivedMessages((message * (weight > 0).unsqueeze(-1)).numpy(), weight.numpy())


def input_of(step: Step, team: int, agent: int, heard: ReceivedMessages | None) -> AgentInput:
    """One agent's part of a step."""
    rows = step.teams[team]
    action_mask = None if rows.action_mask is None else rows.action_mask[:, agent]
    return AgentInput(rows.obs[:, agent], action_mask, step.started, rows.acting[:, agent], heard)


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
        self.loudness: list[Array | None] = [None] * len(hubs)  # of what each team said last, (E, N)

    def act(self, step: Step) -> list[Array]:
        """Actions of all agents. All inputs are sent before the first answer is read: processes run in parallel."""
        for place, (players, hub) in enumerate(zip(self.players, self.hubs, strict=True)):
            inbox = None
            if hub is not None:
                rows = step.teams[place]
                started, acting = torch.from_numpy(step.started), torch.from_numpy(rows.acting)
                inbox = self.inboxes[place] = hub.begin(torch.from_numpy(rows.obs), started, acting)
            for n, player in enumerate(players):
                player.observe(input_of(step, place, n, None if inbox is None else received(inbox, n)))
        for place, (players, hub) in enumerate(zip(self.players, self.hubs, strict=True)):
            if hub is not None:
                self.inboxes[place] = self._talk(place, players, hub) or self.inboxes[place]
        return [np.stack([player.act() for player in players], axis=1) for players in self.players]

    def _talk(self, place: int, players: Sequence[Player], hub: Hub) -> Inbox | None:
        inbox = None
        for turn in range(max(hub.rounds, 1)):
            said, loud = zip(*(player.say() for player in players), strict=True)
            self.loudness[place] = np.stack(loud, axis=1)
            inbox = hub.exchange(turn, torch.from_numpy(np.stack(said, axis=1)), torch.from_numpy(self.loudness[place]))
            if inbox is not None:
                for n, player in enumerate(players):
                    player.hear(received(inbox, n))
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
