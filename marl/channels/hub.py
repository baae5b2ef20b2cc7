"""The hub: the medium between agents that each act on their own, in one process or in many."""

from __future__ import annotations

import torch
from torch import Tensor

from marl.channels.link import Link
from marl.channels.medium import Air, Inbox, Medium, Tamper, Wires
from marl.channels.speech import Channel
from marl.types import TeamSpec


class Hub:
    """Carries the messages of one team in ``B`` copies, step by step: :meth:`begin`, exchanges, :meth:`end`.

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
        self.wiring = channel.topology.build(team)
        self.rounds = channel.rounds
        self.medium = Medium(
            team.num_agents,
            size,
            channel.rounds,
            link or channel.execution or channel.link,
            moving=self.wiring.moving is not None,
            hold=turn_based,
            tamper=tamper,
        )
        self.state = torch.zeros(copies, team.num_agents, self.medium.width, dtype=torch.float32)
        self.medium.seed(self.state, torch.Generator().manual_seed(seed))
        self._air: Air | None = None
        self._active = torch.zeros(copies, team.num_agents, dtype=torch.float32)
        self._wires = Wires(self.wiring.weight)

    def begin(self, obs: Tensor, started: Tensor, active: Tensor) -> Inbox | None:
        """A step begins: raw observations ``(B, N, *O)``, whose episode starts ``(B,)``, who acts ``(B, N)``.

        Returns what everybody hears now of earlier steps; None if agents talk in rounds within the step.
        """
        agents = self.medium.agents
        if self.wiring.moving is not None:
            look = self.wiring.look(obs)
            self._wires = Wires(look[..., :agents], look[..., agents])
        self._air, self._active = self.medium.open(self.state, started), active
        return None if self.rounds else self.medium.arriving(self._air, self._wires)

    def exchange(self, turn: int, said: Tensor, loud: Tensor) -> Inbox | None:
        """Take what everybody says, ``(B, N, M)`` and how loudly ``(B, N)``; returns what is heard in this round."""
        assert self._air is not None
        if self.rounds:
            return self.medium.exchange(self._air, turn, said, loud, self._wires, self._active)
        self.medium.leave(self._air, said, loud, self._wires, self._active)
        return None

    def end(self) -> None:
        """The step is over."""
        assert self._air is not None
        self.state, self._air = self.medium.close(self._air), None
