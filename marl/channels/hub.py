"""The hub: it carries messages between agents that act on their own, in one process or in many."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.channels.link import Link
from marl.channels.link_simulator import ActiveEdges, Inbox, InFlight, LinkSimulator, Tamper
from marl.channels.speech import Channel
from marl.types import TeamSpec


class Hub:
    """Carries the messages of one team in ``B`` copies, step by step: :meth:`begin`, :meth:`exchange`, :meth:`end`.

    It is all that agents share: it knows who can hear whom, and neither policies nor what messages mean.
    """

    def __init__(
        self,
        channel: Channel,
        team: TeamSpec,
        size: int,
        copies: int,
        *,
        link: Link | None = None,
        turn_based: bool = False,
        seed: int = 0,
        tamper: Tamper | None = None,
    ) -> None:
        """``size``: numbers of a message; ``link``: None takes the channel's for execution."""
        self.adjacency = channel.topology.build(team)
        self.rounds = channel.rounds
        self.link_simulator = LinkSimulator(
            team.num_agents,
            size,
            channel.rounds,
            link or channel.execution or channel.link,
            dynamic=self.adjacency.dynamic is not None,
            keep_last=turn_based,
            tamper=tamper,
        )
        self.state = torch.zeros(copies, team.num_agents, self.link_simulator.width, dtype=torch.float32)
        self.link_simulator.seed(self.state, torch.Generator().manual_seed(seed))
        self._in_flight: InFlight | None = None
        self._acting = torch.zeros(copies, team.num_agents, dtype=torch.float32)
        self._active_edges = ActiveEdges(self.adjacency.weight)

    def begin(self, obs: Tensor, started: Tensor, acting: Tensor) -> Inbox | None:
        """A step begins: raw observations ``(B, N, *O)``, whose episode starts ``(B,)``, who acts ``(B, N)``.

        Returns what everybody hears now of earlier steps; None if agents talk in rounds within the step.
        """
        agents = self.link_simulator.agents
        if self.adjacency.dynamic is not None:
            rows = self.adjacency.now(obs)
            self._active_edges = ActiveEdges(rows[..., :agents], rows[..., agents])
        self._in_flight, self._acting = self.link_simulator.open(self.state, started), acting
        return None if self.rounds else self.link_simulator.arriving(self._in_flight, self._active_edges)

    def exchange(self, turn: int, said: Tensor, loud: Tensor) -> Inbox | None:
        """Take all messages ``(B, N, M)`` and their loudness ``(B, N)``; returns what is received in this round."""
        assert self._in_flight is not None
        if self.rounds:
            return self.link_simulator.exchange(self._in_flight, turn, said, loud, self._active_edges, self._acting)
        self.link_simulator.leave(self._in_flight, said, loud, self._active_edges, self._acting)
        return None

    def end(self) -> None:
        """End the step."""
        assert self._in_flight is not None
        self.state, self._in_flight = self.link_simulator.close(self._in_flight), None
