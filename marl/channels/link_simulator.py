"""The link simulator: carries messages from sender to listener, batched over copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from marl.channels.chance import draw_keys, next_keys, normal, uniform
from marl.channels.link import Link

LOSS, NOISE, VOICE = 0, 1, 2  # streams of chance

Tamper = Callable[[Tensor], Tensor]  # (B, N, M + 1) to the same: messages, their loudness last


@dataclass(frozen=True)
class Inbox:
    """Messages that ``R`` listeners receive from ``N`` senders.

    message: ``(B, R, N, M)``, or ``(B, 1, N, M)`` where all hear the same; weight: ``(B, R, N)``, 0 for what is not
    heard.
    """

    message: Tensor
    weight: Tensor

    def of(self, copy: int, listener: int) -> Inbox:
        """The inbox of one listener, ``(1, 1, N, ...)``."""
        which = 0 if self.message.shape[1] == 1 else listener
        message = self.message[copy : copy + 1, which : which + 1]
        return Inbox(message, self.weight[copy : copy + 1, listener : listener + 1])


@dataclass(frozen=True)
class ActiveEdges:
    """Edges of one step: ``edges (B, N, N)`` or ``(N, N)`` for messages sent now; ``ears (B, N)``: who can listen."""

    edges: Tensor
    ears: Tensor | None = None


@dataclass
class InFlight:
    """Messages that are on their way in ``B`` copies.

    queue ``(B, N, D, R, M + 1)``: the messages that each agent sent in the last ``D`` steps, oldest first, and
    how loudly; edges ``(B, N, D, N)``: whom each hears of them, where that changes; spent ``(B, N)``: messages of
    the running episode; key ``(B, N)``: what chance comes from. now: what was said in the rounds of this step;
    spoke ``(B, N)``: who spoke in any of them.
    """

    queue: Tensor
    edges: Tensor
    spent: Tensor
    key: Tensor
    now: list[Tensor] = field(default_factory=list)
    spoke: Tensor | None = None


class LinkSimulator:
    """Links between ``N`` agents that exchange messages of ``M`` numbers, ``rounds`` times within a step.

    With 0 rounds what is said at a step is heard in the next one. Everything that is on its way is state of its senders
    (edges: of their listeners), laid out as ``width`` numbers an agent, so that it can live in a memory's carry.
    """

    def __init__(
        self,
        agents: int,
        size: int,
        rounds: int,
        link: Link,
        *,
        dynamic: bool,
        chancy: bool = False,
        keep_last: bool = False,
        tamper: Tamper | None = None,
    ) -> None:
        """``dynamic``: edges change; ``chancy``: senders need chance too; ``keep_last``: the last message stays
        in flight while its sender waits for its turn; ``tamper``: what an experimenter does to all messages.
        """
        self.agents, self.size, self.rounds, self.link = agents, size, rounds, link
        self.keep_last, self.tamper = keep_last, tamper
        self.slots = max(rounds, 1)
        self.depth = link.delay + (rounds == 0)
        self.dynamic = dynamic and self.depth > 0
        self.keyed = chancy or link.chancy
        self.limited = link.budget is not None
        self._parts = (
            self.depth * self.slots * (size + 1),
            self.depth * agents if self.dynamic else 0,
            int(self.limited),
            int(self.keyed),
        )
        self.width = sum(self._parts)

    def open(self, state: Tensor, start: Tensor) -> InFlight:
        """Unpack a state ``(B, N, width)``; for episodes that ``start (B,)`` nothing is on its way."""
        queue, edges, spent, key = torch.split(state, list(self._parts), dim=-1)
        keep = (~start).to(state.dtype).view(-1, 1, 1)
        shape = (*state.shape[:2], self.depth)
        return InFlight(
            (queue * keep).view(*shape, self.slots, self.size + 1) if self.depth else queue,
            (edges * keep).view(*shape, self.agents) if self.dynamic else edges,
            (spent * keep).squeeze(-1) if self.limited else spent,
            key.squeeze(-1) if self.keyed else key,
        )

    def close(self, in_flight: InFlight) -> Tensor:
        """The state after a step, with the next keys."""
        leading = in_flight.queue.shape[:2]
        parts = []
        if self.depth:
            parts.append(in_flight.queue.reshape(*leading, -1))
        if self.dynamic:
            parts.append(in_flight.edges.reshape(*leading, -1))
        if self.limited:
            parts.append(in_flight.spent.unsqueeze(-1))
        if self.keyed:
            parts.append(next_keys(in_flight.key).unsqueeze(-1))
        return torch.cat(parts, dim=-1) if parts else in_flight.queue.new_zeros(*leading, 0)

    def seed(self, state: Tensor, generator: torch.Generator | None) -> None:
        """Give random keys to the agents that have none, in place."""
        if self.keyed:
            draw_keys(state[..., -1], generator)

    # --- a step -------------------------------------------------------------------------------------------------------

    def voice(self, in_flight: InFlight, turn: int) -> Tensor:
        """Standard normal noise ``(B, N, M)`` for messages that are noisy while learning."""
        return normal(in_flight.key, self.size, VOICE + 3 * turn)

    def arriving(self, in_flight: InFlight, active_edges: ActiveEdges) -> Inbox:
        """The messages of an earlier step that arrive now (0 rounds)."""
        return self._deliver(
            in_flight, in_flight.queue[:, :, 0, 0], self._edges_of_oldest(in_flight, active_edges), active_edges, 0
        )

    def leave(self, in_flight: InFlight, said: Tensor, loud: Tensor, active_edges: ActiveEdges, acting: Tensor) -> None:
        """Send messages ``(B, N, M)`` with loudness ``(B, N)``, to arrive in a later step (0 rounds)."""
        sent = self._sent(in_flight, said, loud, acting)
        if self.keep_last:
            sent = torch.where(acting.unsqueeze(-1), sent, in_flight.queue[:, :, -1, 0])
        self._push(in_flight, sent.unsqueeze(2), active_edges)

    def exchange(
        self, in_flight: InFlight, turn: int, said: Tensor, loud: Tensor, active_edges: ActiveEdges, acting: Tensor
    ) -> Inbox:
        """Round ``turn`` within a step: send messages; receive these, or with a delay those of an earlier step."""
        sent = self._sent(in_flight, said, loud, acting)
        if not self.depth:
            return self._deliver(in_flight, sent, active_edges.edges, active_edges, turn)
        inbox = self._deliver(
            in_flight,
            in_flight.queue[:, :, 0, turn],
            self._edges_of_oldest(in_flight, active_edges),
            active_edges,
            turn,
        )
        in_flight.now.append(sent)
        if turn == self.rounds - 1:
            self._push(in_flight, torch.stack(in_flight.now, dim=2), active_edges)
        return inbox

    def afford(self, in_flight: InFlight, loud: Tensor) -> Tensor:
        """Loudness ``(B, N)`` of agents with budget left, else 0; a step of several rounds costs one message."""
        return loud * (in_flight.spent <= float(self.link.budget or 0)) if self.limited else loud

    def _sent(self, in_flight: InFlight, said: Tensor, loud: Tensor, acting: Tensor) -> Tensor:
        """``(B, N, M + 1)``: packed messages, loudness last."""
        loud = loud * acting
        if self.limited:
            speaks = loud.detach() > 0
            in_flight.spent = in_flight.spent + (speaks if in_flight.spoke is None else speaks & ~in_flight.spoke)
            in_flight.spoke = speaks if in_flight.spoke is None else speaks | in_flight.spoke
            loud = self.afford(in_flight, loud)
        # What is not loud weighs nothing, so nobody hears it; it stays for the gradient of a gate that is closed.
        sent = torch.cat((self.link.pack(said) * acting.unsqueeze(-1), loud.unsqueeze(-1)), dim=-1)
        return sent if self.tamper is None else self.tamper(sent)

    def _push(self, in_flight: InFlight, sent: Tensor, active_edges: ActiveEdges) -> None:
        """The oldest step leaves the queue, this one joins it: ``sent (B, N, R, M + 1)``."""
        in_flight.queue = torch.cat((in_flight.queue[:, :, 1:], sent.unsqueeze(2)), dim=2)
        if self.dynamic:
            edges = active_edges.edges.expand(*in_flight.edges.shape[:2], self.agents)
            in_flight.edges = torch.cat((in_flight.edges[:, :, 1:], edges.unsqueeze(2)), dim=2)

    def _edges_of_oldest(self, in_flight: InFlight, active_edges: ActiveEdges) -> Tensor:
        return in_flight.edges[:, :, 0] if self.dynamic else active_edges.edges

    def _deliver(self, in_flight: InFlight, sent: Tensor, edges: Tensor, active_edges: ActiveEdges, turn: int) -> Inbox:
        """The listeners' side: ears, losses, noise."""
        message, loud = sent[..., :-1], sent[..., -1]
        weight = edges.detach() * loud.unsqueeze(1)  # (B, N, N); who can hear whom is given
        if active_edges.ears is not None:
            weight = weight * active_edges.ears.detach().unsqueeze(-1)
        if self.link.loss > 0:
            weight = weight * (uniform(in_flight.key, self.agents, LOSS + 3 * turn) >= self.link.loss)
        message = message.unsqueeze(1)  # (B, 1, N, M)
        if self.link.noise > 0:
            noise = normal(in_flight.key, self.agents * self.size, NOISE + 3 * turn)
            noise = noise.view(*in_flight.key.shape, self.agents, self.size) * self.link.noise
            message = message + noise
        return Inbox(message, weight)
