"""The medium: carries messages from sender to listener, batched over copies, as topology and link want it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from marl.channels.chance import advance, draw_keys, normal, uniform
from marl.channels.link import Link

LOSS, NOISE, VOICE = 0, 1, 2  # streams of chance

Tamper = Callable[[Tensor], Tensor]  # (B, N, M + 1) to the same: messages, their loudness last


@dataclass(frozen=True)
class Inbox:
    """What ``R`` listeners get of ``N`` senders.

    message: ``(B, R, N, M)``, or ``(B, 1, N, M)`` where all hear the same; weight: ``(B, R, N)``, 0 for what is not
    heard.
    """

    message: Tensor
    weight: Tensor

    def of(self, copy: int, listener: int) -> Inbox:
        """What one of them gets, ``(1, 1, N, ...)``."""
        which = 0 if self.message.shape[1] == 1 else listener
        message = self.message[copy : copy + 1, which : which + 1]
        return Inbox(message, self.weight[copy : copy + 1, listener : listener + 1])


@dataclass(frozen=True)
class Wires:
    """Who hears whom at one step: edges ``(B, N, N)`` or ``(N, N)`` for what is said now, ears ``(B, N)`` or None."""

    edges: Tensor
    ears: Tensor | None = None


@dataclass
class Air:
    """What is on its way in ``B`` copies.

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


class Medium:
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
        moving: bool,
        chancy: bool = False,
        hold: bool = False,
        tamper: Tamper | None = None,
    ) -> None:
        """``moving``: wires change; ``chancy``: senders need chance too; ``hold``: what was said last stays in the air
        while its sender waits for its turn; ``tamper``: what an experimenter does to all that is sent.
        """
        self.agents, self.size, self.rounds, self.link = agents, size, rounds, link
        self.hold, self.tamper = hold, tamper
        self.slots = max(rounds, 1)
        self.depth = link.delay + (rounds == 0)
        self.moving = moving and self.depth > 0
        self.keyed = chancy or link.chancy
        self.limited = link.budget is not None
        self._parts = (
            self.depth * self.slots * (size + 1),
            self.depth * agents if self.moving else 0,
            int(self.limited),
            int(self.keyed),
        )
        self.width = sum(self._parts)

    def open(self, state: Tensor, start: Tensor) -> Air:
        """State ``(B, N, width)`` as what it means; episodes that ``start (B,)`` find the air empty."""
        queue, edges, spent, key = torch.split(state, list(self._parts), dim=-1)
        keep = (~start).to(state.dtype).view(-1, 1, 1)
        shape = (*state.shape[:2], self.depth)
        return Air(
            (queue * keep).view(*shape, self.slots, self.size + 1) if self.depth else queue,
            (edges * keep).view(*shape, self.agents) if self.moving else edges,
            (spent * keep).squeeze(-1) if self.limited else spent,
            key.squeeze(-1) if self.keyed else key,
        )

    def close(self, air: Air) -> Tensor:
        """The state after a step, with the next keys."""
        leading = air.queue.shape[:2]
        parts = []
        if self.depth:
            parts.append(air.queue.reshape(*leading, -1))
        if self.moving:
            parts.append(air.edges.reshape(*leading, -1))
        if self.limited:
            parts.append(air.spent.unsqueeze(-1))
        if self.keyed:
            parts.append(advance(air.key).unsqueeze(-1))
        return torch.cat(parts, dim=-1) if parts else air.queue.new_zeros(*leading, 0)

    def seed(self, state: Tensor, generator: torch.Generator | None) -> None:
        """Give keys to those that have none, in place."""
        if self.keyed:
            draw_keys(state[..., -1], generator)

    # --- a step -------------------------------------------------------------------------------------------------------

    def voice(self, air: Air, turn: int) -> Tensor:
        """Standard normal noise ``(B, N, M)`` for what senders do to their messages by chance."""
        return normal(air.key, self.size, VOICE + 3 * turn)

    def arriving(self, air: Air, wires: Wires) -> Inbox:
        """What was said in an earlier step and is heard now (0 rounds)."""
        return self._deliver(air, air.queue[:, :, 0, 0], self._edges_of_oldest(air, wires), wires, 0)

    def leave(self, air: Air, said: Tensor, loud: Tensor, wires: Wires, active: Tensor) -> None:
        """Put what is said now, ``(B, N, M)`` and how loudly ``(B, N)``, on its way (0 rounds)."""
        sent = self._sent(air, said, loud, active)
        if self.hold:
            sent = torch.where(active.unsqueeze(-1), sent, air.queue[:, :, -1, 0])
        self._push(air, sent.unsqueeze(2), wires)

    def exchange(self, air: Air, turn: int, said: Tensor, loud: Tensor, wires: Wires, active: Tensor) -> Inbox:
        """Round ``turn`` within a step: what is said is heard at once, or, with a delay, what was said then."""
        sent = self._sent(air, said, loud, active)
        if not self.depth:
            return self._deliver(air, sent, wires.edges, wires, turn)
        inbox = self._deliver(air, air.queue[:, :, 0, turn], self._edges_of_oldest(air, wires), wires, turn)
        air.now.append(sent)
        if turn == self.rounds - 1:
            self._push(air, torch.stack(air.now, dim=2), wires)
        return inbox

    def afford(self, air: Air, loud: Tensor) -> Tensor:
        """How loud ``(B, N)`` those are who have messages left; a step of several rounds costs one."""
        return loud * (air.spent <= float(self.link.budget or 0)) if self.limited else loud

    def _sent(self, air: Air, said: Tensor, loud: Tensor, active: Tensor) -> Tensor:
        """``(B, N, M + 1)``: packed messages, loudness last."""
        loud = loud * active
        if self.limited:
            speaks = loud.detach() > 0
            air.spent = air.spent + (speaks if air.spoke is None else speaks & ~air.spoke)
            air.spoke = speaks if air.spoke is None else speaks | air.spoke
            loud = self.afford(air, loud)
        # What is not loud weighs nothing, so nobody hears it; it stays for the gradient of a gate that is closed.
        sent = torch.cat((self.link.pack(said) * active.unsqueeze(-1), loud.unsqueeze(-1)), dim=-1)
        return sent if self.tamper is None else self.tamper(sent)

    def _push(self, air: Air, sent: Tensor, wires: Wires) -> None:
        """The oldest step leaves the queue, this one joins it: ``sent (B, N, R, M + 1)``."""
        air.queue = torch.cat((air.queue[:, :, 1:], sent.unsqueeze(2)), dim=2)
        if self.moving:
            edges = wires.edges.expand(*air.edges.shape[:2], self.agents)
            air.edges = torch.cat((air.edges[:, :, 1:], edges.unsqueeze(2)), dim=2)

    def _edges_of_oldest(self, air: Air, wires: Wires) -> Tensor:
        return air.edges[:, :, 0] if self.moving else wires.edges

    def _deliver(self, air: Air, sent: Tensor, edges: Tensor, wires: Wires, turn: int) -> Inbox:
        """The listeners' side: ears, losses, noise."""
        message, loud = sent[..., :-1], sent[..., -1]
        weight = edges * loud.unsqueeze(1)  # (B, N, N)
        if wires.ears is not None:
            weight = weight * wires.ears.unsqueeze(-1)
        if self.link.loss > 0:
            weight = weight * (uniform(air.key, self.agents, LOSS + 3 * turn) >= self.link.loss)
        message = message.unsqueeze(1)  # (B, 1, N, M)
        if self.link.noise > 0:
            noise = normal(air.key, self.agents * self.size, NOISE + 3 * turn)
            noise = noise.view(*air.key.shape, self.agents, self.size) * self.link.noise
            message = message + noise
        return Inbox(message, weight)
