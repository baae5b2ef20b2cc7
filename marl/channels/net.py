"""A network with a channel: body, messages, output layer, for every agent of a team at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from marl.channels.link import Link
from marl.channels.link_simulator import ActiveEdges, Inbox, InFlight, LinkSimulator, Tamper
from marl.channels.speech import Channel
from marl.compiled.backend import FastTalkingNetwork, TalkingLayers, plainly, recorded
from marl.nets.agent_net import AgentNet, fits
from marl.nets.networks import Network
from marl.nets.owner import Owner
from marl.nets.recurrent import RecurrentBody
from marl.nets.stacked import StackedLinear
from marl.topology import Adjacency
from marl.types import ConfigError, Spec, TeamSpec

Talked = TypeVar("Talked")
SentMessages = tuple[Tensor, Tensor]  # messages (B, N, M) and how loud they are (B, N)


def policy_net(
    channel: Channel | None,
    spec: Spec,
    team: TeamSpec,
    network: Network,
    owner: Owner,
    out: int,
    generators: Sequence[torch.Generator],
    **settings: Any,
) -> AgentNet:
    """The network of a team's policies or action values, with or without a channel.

    Raises:
        ConfigError: where talking has no meaning, or the topology does not fit the team.
    """
    if channel is None:
        return AgentNet(network, owner, team.obs.shape, out, generators, **settings)
    if team.num_agents == 1:
        raise ConfigError(
            f"channel={type(channel).__name__} on team {team.name!r}: its only agent has nobody to talk to; learned "
            "messages stay within one team, so put agents that shall talk under one learner"
        )
    if spec.turn_based and channel.rounds:
        raise ConfigError(
            f"channel={type(channel).__name__}(rounds={channel.rounds}) on team {team.name!r}: agents take turns, so "
            "within a step one speaks and nobody listens; use rounds=0"
        )
    adjacency, keep_last = channel.topology.build(team), spec.turn_based
    return ChannelNet(
        channel, adjacency, network, owner, team.obs.shape, out, generators, keep_last=keep_last, **settings
    )


class ChannelNet(AgentNet):
    """An :class:`AgentNet` whose agents exchange messages between body and output layer.

    Its carry holds, for each agent, the body's state, what it looks for, and all of its messages that are on their
    way; so memories, checkpoints and evaluation need not know of messages. ``read`` steps through time wherever one row
    needs another's messages. An agent that is not ``acting`` says nothing.
    """

    def __init__(
        self,
        channel: Channel,
        adjacency: Adjacency,
        network: Network,
        owner: Owner,
        shape: tuple[int, ...],
        out: int,
        generators: Sequence[torch.Generator],
        *,
        keep_last: bool = False,
        **settings: Any,
    ) -> None:
        """``keep_last``: agents take turns, so the last message stays in flight; settings as of :class:`AgentNet`."""
        speech = channel.build(owner, network.width, generators)
        super().__init__(
            network, owner, shape, out, generators, extra_inputs=0 if channel.rounds else speech.summary, **settings
        )
        self.channel, self.speech, self.adjacency, self.keep_last = channel, speech, adjacency, keep_last
        self.register_buffer("weight", adjacency.weight.clone(), persistent=False)
        self.weight: Tensor
        self.executing = False
        self.last: SentMessages | None = None  # what was said in the newest step, where nothing learns from it
        self.use(channel.link)

    @property
    def attention(self) -> Tensor | None:
        """The share of its attention that each listener gave to each speaker in the newest step of acting.

        ``(copies, listeners, speakers)``, of graph attention ``(copies, listeners, heads, speakers)``; of several
        rounds the last one's. Rows are zeros where nobody was heard. None for channels without attention.
        """
        return self.speech.attention

    def use(self, link: Link, executing: bool = False, tamper: Tamper | None = None) -> None:
        """Send messages over this link from now on; ``executing``: without the noise of learning."""
        self.link, self.executing = link, executing
        self.link_simulator = LinkSimulator(
            self.weight.shape[0],
            self.speech.size,
            self.channel.rounds,
            link,
            dynamic=self.adjacency.dynamic is not None,
            chancy=self.speech.noisy and not executing,
            keep_last=self.keep_last,
            tamper=tamper,
        )
        self._chosen = None  # what is computed has changed
        self.own_width = self.body.carry_width + (0 if self.channel.rounds else self.speech.private)
        self.carry_shape = (self.owner.num_agents, self.own_width + self.link_simulator.width)

    def seed(self, carry: Tensor, generator: torch.Generator | None) -> None:
        """Give copies that have none a random key for their noise, in place."""
        self.link_simulator.seed(carry, generator)

    def forget(self, carry: Tensor) -> Tensor:
        """A carry with no memory of earlier steps, but with the same random key."""
        blank = super().forget(carry)
        if self.link_simulator.keyed:
            blank[..., -1] = carry[..., -1]
        return blank

    def encode(self, x: Tensor) -> Tensor:
        """Encoded observations, with the agents' current edges in the last columns if the topology is dynamic."""
        seen = super().encode(x)
        return seen if self.adjacency.dynamic is None else torch.cat((seen, self.adjacency.now(x)), dim=-1)

    def read_all(
        self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, extra_inputs: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """Outputs and carries from encoded observations; actors have no ``extra_inputs``."""
        assert not extra_inputs
        chosen = None if recorded() else self._decision()
        if chosen is not None and chosen.talking is not None and fits(x):
            return self._talked(chosen.talking, x, carry, start, acting)
        length, batch, agents = acting.shape
        if not self.carry_shape[1]:  # no row needs another: all of them at once
            rows = x.reshape(1, length * batch, *x.shape[2:])
            start, acting = start.reshape(1, -1), acting.reshape(1, length * batch, agents)
            y, after = self._step(rows, carry.new_zeros(length * batch, agents, 0), start[0], acting[0])
            return y.view(length, batch, agents, -1), after.view(length, batch, agents, 0)
        if not self.link_simulator.width:  # messages do not outlive their step: only the body goes through time
            return self._through_time(x, carry, start, acting)
        return self.step_by_step(x, carry, start, acting)

    def step_by_step(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """The same, one step after the other."""
        outputs, carries = [], []
        for t in range(x.shape[0]):
            y, carry = self._step(x[t : t + 1], carry, start[t], acting[t])
            outputs.append(y)
            carries.append(carry)
        return torch.stack(outputs), torch.stack(carries)

    def _talked(
        self, talking: FastTalkingNetwork, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same in one compiled call."""
        y, carries = talking(x, carry, start, acting)
        if not torch.is_grad_enabled():
            first, size = self.own_width, self.speech.size
            self.last = carries[-1, ..., first : first + size], carries[-1, ..., first + size]
            if self.speech.private:
                self.speech.noted(torch.from_numpy(talking.share))
        return y, carries

    def that_talks(self) -> TalkingLayers | None:
        """What compiled code needs to know: messages across steps over a perfect link, of kinds that it knows."""
        simulator, body, mouths = self.link_simulator, self.body, self.speech.mouths()
        if type(self) is not ChannelNet or not isinstance(body, RecurrentBody) or len(self.shape) != 1:
            return None
        if mouths is None or self.channel.rounds or self.link != Link() or simulator.tamper is not None:
            return None
        around = body.around_unit(self.head, self.ids)
        layers = [layer for layer in mouths if layer is not None]
        if around is None or any(type(layer) is not StackedLinear for layer in layers):
            return None
        own = [*around.parameters, *(part for layer in layers for part in (layer.weight, layer.bias))]
        names = {parameter: name for name, parameter in self.named_parameters(prefix="net")}
        steps = _StepByStep(self)

        def plain(
            x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, parameters: Sequence[Tensor]
        ) -> tuple[Tensor, Tensor]:
            given = {names[part]: other for part, other in zip(own, parameters, strict=True)}
            with plainly():
                found: tuple[Tensor, Tensor] = functional_call(steps, given, (x, carry, start, acting))
            return found

        return TalkingLayers(
            around._replace(plain=plain),
            [layer.weight for layer in layers],
            [layer.bias for layer in layers],
            says=mouths.say is not None,
            gated=mouths.gate is not None,
            private=self.speech.private,
            size=self.speech.size,
            edges=self.weight,
            changes=simulator.dynamic,
            keeps_last=simulator.keep_last,
        )

    def _through_time(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """The body of all steps first, then the rounds of all steps at once."""
        length, batch, agents = acting.shape
        x, active_edges = self._active_edges(x)
        features, carries = self._features(x, None, carry, start, acting)
        rows = features.reshape(features.shape[0], 1, -1, features.shape[-1])
        start, acting = start.reshape(-1), acting.reshape(-1, agents)
        in_flight = self.link_simulator.open(carry.new_zeros(length * batch, agents, 0), start)
        y = self._exchanged(self._rounds(rows, None), in_flight, active_edges, acting)
        return y.view(length, batch, agents, -1), carries

    def _exchanged(
        self,
        talk: Generator[SentMessages, Inbox, Talked],
        in_flight: InFlight,
        active_edges: ActiveEdges,
        acting: Tensor,
    ) -> Talked:
        """What a talk within a step ends in, with the link between its rounds."""
        said, loud = next(talk)
        try:
            for turn in range(self.channel.rounds):
                said, loud = talk.send(self.link_simulator.exchange(in_flight, turn, said, loud, active_edges, acting))
        except StopIteration as end:
            if not torch.is_grad_enabled():
                self.last = said, self.link_simulator.afford(in_flight, loud)
            return cast(Talked, end.value)
        raise AssertionError("a talk has as many rounds as its channel")

    def _step(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        """One row ``x (1, B, N, ...)``: outputs ``(B, N, out)`` and the carry after it."""
        link_simulator = self.link_simulator
        x, active_edges = self._active_edges(x)
        own, state = torch.split(carry, [self.own_width, link_simulator.width], dim=-1)
        in_flight = link_simulator.open(state, start)
        noise = (
            (lambda turn: link_simulator.voice(in_flight, turn)) if self.speech.noisy and not self.executing else None
        )
        inbox = None if self.channel.rounds else link_simulator.arriving(in_flight, active_edges)
        talk = self.converse(x, own, start, acting, inbox, noise)
        if self.channel.rounds:
            y, own = self._exchanged(talk, in_flight, active_edges, acting)
        else:
            said, loud = next(talk)
            link_simulator.leave(in_flight, said, loud, active_edges, acting)
            try:
                next(talk)
            except StopIteration as end:
                y, own = end.value
            if not torch.is_grad_enabled():
                self.last = said, link_simulator.afford(in_flight, loud)
        return y, torch.cat((own, link_simulator.close(in_flight)), dim=-1)

    def converse(
        self,
        x: Tensor,
        own: Tensor,
        start: Tensor,
        acting: Tensor,
        inbox: Inbox | None = None,
        noise: Callable[[int], Tensor] | None = None,
    ) -> Generator[SentMessages, Inbox, tuple[Tensor, Tensor]]:
        """One step of every agent by itself: yields what it says, once a round, and is sent what it then hears.

        With 0 rounds ``inbox`` is what arrived since the last step, and what is said is yielded once, unanswered.

        Args:
            x: encoded observations ``(1, B, N, ...)`` without edges.
            own: what agents keep for themselves, ``(B, N, own_width)``.
            start: ``(B,)``, episodes that begin.
            acting: ``(B, N)``, who acts.
            inbox: what arrived, for 0 rounds.
            noise: makes the noise of learning; None executes.

        Returns:
            Outputs ``(B, N, out)`` and what agents keep.
        """
        owner, speech = self.owner, self.speech
        own = own * (~start).to(own.dtype).view(-1, 1, 1)
        width = self.body.carry_width
        carry, query = own[..., :width], own[..., width:]
        if self.channel.rounds:
            features, inside = self._features(x, None, carry, start.unsqueeze(0), acting.unsqueeze(0))
            y = yield from self._rounds(features, noise)
            return y, inside[0]
        assert inbox is not None
        summary = speech.hear(query, inbox)
        features, inside = self._features(x, summary, carry, start.unsqueeze(0), acting.unsqueeze(0))
        yield self._said(0, features, noise)
        asked = owner.leave(speech.ask(0, features))[0]
        kept = inside[0], torch.where(acting.unsqueeze(-1), asked, query)
        return owner.leave(self.head(features))[0], torch.cat(kept, dim=-1)

    def _rounds(
        self, features: Tensor, noise: Callable[[int], Tensor] | None
    ) -> Generator[SentMessages, Inbox, Tensor]:
        """The rounds within a step, from features ``(S, 1, M, W)`` to outputs ``(B, N, out)``."""
        owner, speech = self.owner, self.speech
        for turn in range(self.channel.rounds):
            heard = yield self._said(turn, features, noise)
            summary = speech.hear(owner.leave(speech.ask(turn, features))[0], heard)
            features = speech.update(turn, features, owner.enter(summary.unsqueeze(0)))
        return owner.leave(self.head(features))[0]

    def _features(
        self, x: Tensor, summary: Tensor | None, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The body's features inside, and its carries ``(T, B, N, H)``; a summary is laid beside the observation."""
        owner = self.owner
        extra = self.ids.expand(*x.shape[:3], -1) if self.ids.shape[1] and len(self.shape) > 1 else None
        if summary is not None:
            if len(self.shape) == 1:
                x = torch.cat((x, summary.unsqueeze(0)), dim=-1)
            else:
                extra = summary.unsqueeze(0) if extra is None else torch.cat((extra, summary.unsqueeze(0)), dim=-1)
        starts = owner.enter(start.unsqueeze(-1).expand(acting.shape))
        features, inside = self.body(
            owner.enter(x),
            None if extra is None else owner.enter(extra),
            owner.enter(carry.unsqueeze(0)).squeeze(1),
            starts,
            owner.enter(acting),
        )
        return features, owner.leave(inside)

    def _said(self, turn: int, features: Tensor, noise: Callable[[int], Tensor] | None) -> SentMessages:
        raw, loud = self.speech.speak(turn, features)
        message = self.owner.leave(raw)[0]  # (B, N, M)
        message = self.speech.modulate(message, None if noise is None else noise(turn))
        return message, message.new_ones(message.shape[:-1]) if loud is None else self.owner.leave(loud)[0]

    def _active_edges(self, x: Tensor) -> tuple[Tensor, ActiveEdges]:
        """Observations without the last columns, and the edges that these hold."""
        if self.adjacency.dynamic is None:
            return x, ActiveEdges(self.weight)
        agents = self.weight.shape[0]
        rows = x[..., -agents - 1 :].flatten(0, 1)  # steps and copies are one axis
        return x[..., : -agents - 1], ActiveEdges(rows[..., :agents], rows[..., agents])

    def _blank(self, owner: Owner, ids: Tensor, generators: Sequence[torch.Generator]) -> ChannelNet:
        """A network of this kind for other agents."""
        blank = ChannelNet(
            self.channel,
            self.adjacency,
            self.network,
            owner,
            self.shape,
            self.out,
            generators,
            keep_last=self.keep_last,
            gain=self.gain,
            ids=ids,
            normalize=self.norm is not None,
            learns_scale=self.learns_scale,
        )
        blank.use(self.channel.execution or self.channel.link, executing=True)
        return blank


class _StepByStep(nn.Module):
    """A network's steps one by one, as a module whose parameters others may stand in for."""

    def __init__(self, net: ChannelNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, carry: Tensor, start: Tensor, acting: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.step_by_step(x, carry, start, acting)
