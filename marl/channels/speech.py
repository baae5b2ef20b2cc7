"""Learned messages: how an agent encodes a message, and how a listener aggregates its inbox.

Each choice is a frozen dataclass that builds a :class:`MessageModule`; together with a topology and a link it is the
``channel=`` of a learner. Gradients pass from listeners to senders, so agents learn what to say from what it was good
for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from marl.channels.link import Link
from marl.channels.link_simulator import Inbox
from marl.config import config, setting
from marl.nets.owner import Owner
from marl.nets.stacked import StackedLinear
from marl.topology import Complete, Topology


class Mouths(NamedTuple):
    """The layers that read features, of a kind of messages that compiled code knows."""

    say: StackedLinear | None  # messages; None: features are the message
    gate: StackedLinear | None
    query: StackedLinear | None  # None: listeners take the mean


class MessageModule(nn.Module):
    """The message layers of one team. Layouts as in networks: ``(S, T, M, F)`` inside, ``(B, N, F)`` between agents.

    size: numbers of a message; summary: numbers that a listener makes of its inbox; private: numbers that an agent
    keeps from saying until hearing; noisy: whether messages are spoken with noise while learning.
    """

    size: int
    summary: int
    private: int = 0
    noisy: bool = False
    attention: Tensor | None = None  # of the newest step of acting; see :meth:`noted`

    def speak(self, turn: int, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features ``(S, T, M, W)`` to messages ``(S, T, M, size)`` and how loud they are ``(S, T, M)``; None: 1."""
        raise NotImplementedError

    def ask(self, turn: int, h: Tensor) -> Tensor:
        """The query ``(S, T, M, private)`` with which the agent will read its inbox."""
        return h.new_zeros(*h.shape[:-1], 0)

    def modulate(self, message: Tensor, noise: Tensor | None) -> Tensor:
        """Messages as sent, ``(B, N, size)``: with standard normal noise while learning; ``noise=None`` executes."""
        return message

    def hear(self, query: Tensor, inbox: Inbox) -> Tensor:
        """The inbox in ``summary`` numbers, ``(B, R, summary)``, for queries ``(B, R, private)``."""
        raise NotImplementedError

    def mouths(self) -> Mouths | None:
        """What compiled code needs to know of these layers; None: they are of no kind that it knows."""
        return None

    def noted(self, share: Tensor) -> Tensor:
        """The shares ``(B, R, ..., N)`` that listeners give to speakers, kept as ``attention`` while agents act."""
        if torch.is_inference_mode_enabled():  # learning, too, asks networks what they would do
            self.attention = share
        return share

    def update(self, turn: int, h: Tensor, c: Tensor) -> Tensor:
        """Features after a round within the step, from those before it and the summary ``(S, T, M, summary)``.

        Here ``tanh(H h + C c)`` with the weights that :meth:`make_rounds` made.
        """
        y: Tensor = self.own[turn](h) + self.others[turn](c)
        return torch.tanh(y)

    def make_rounds(self, owner: Owner, width: int, rounds: int, generators: Sequence[torch.Generator]) -> None:
        """Make ``H`` and ``C`` of each round, once ``summary`` is known."""
        self.own = nn.ModuleList(StackedLinear(owner, width, width, generators, gain=1.0) for _ in range(rounds))
        self.others = nn.ModuleList(
            StackedLinear(owner, self.summary, width, generators, gain=1.0) for _ in range(rounds)
        )


@config
class Channel:
    """The settings that all learned messages share."""

    topology: Topology = setting(Complete(), "who hears whom: Complete(), Ring(), Graph(...), Within(...), ...")
    link: Link = setting(Link(), "what messages suffer on their way")
    execution: Link | None = setting(None, "another link for evaluation and single agents; None: the same")
    rounds: int = setting(
        0, "exchanges within a step; 0: what is said at a step is heard in the next", least=0, most=16
    )

    @property
    def remembers(self) -> bool:
        """Whether a step needs messages of earlier steps, so that learning is from sequences."""
        return self.rounds == 0 or self.link.delay > 0 or self.link.budget is not None

    def build(self, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> MessageModule:
        """Make the stacked module for features of ``width`` numbers."""
        raise NotImplementedError


@config
class CommNet(Channel):
    """The mean of the others' features (Sukhbaatar et al. 2016, https://arxiv.org/abs/1605.07736).

    ``c_i = mean_{j heard} m_j`` with ``m = h`` or, with ``size``, ``m = W h``; within a step
    ``h' = tanh(H h + C c)``.
    """

    size: int | None = setting(None, "numbers of a message; None: all features", least=1)

    def build(self, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> MessageModule:
        """Make the stacked module."""
        return Mean(owner, width, self.size, self.rounds, generators)


@config
class IC3Net(Channel):
    """CommNet with a gate: agents learn when to speak (Singh et al. 2019, https://arxiv.org/abs/1812.09755).

    ``g = [sigma(w h) > 1/2]`` opens the mouth, with the gradient of ``sigma`` passed straight through where the paper
    takes a policy gradient.
    """

    size: int | None = setting(None, "numbers of a message; None: all features", least=1)

    def build(self, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> MessageModule:
        """Make the stacked module."""
        return Mean(owner, width, self.size, self.rounds, generators, gated=True)


@config
class TarMAC(Channel):
    """Targeted messages: listeners look for what concerns them (Das et al. 2019, https://arxiv.org/abs/1810.11187).

    A message is a signature ``k`` and a value ``v``; ``c_i = sum_j softmax_j(q_i k_j / sqrt(d)) v_j`` over those heard.
    """

    signature: int = setting(16, "numbers of a signature", least=1)
    value: int = setting(32, "numbers of a value", least=1)

    def build(self, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> MessageModule:
        """Make the stacked module."""
        return Targeted(owner, width, self.signature, self.value, self.rounds, generators)


@config
class GraphAttention(Channel):
    """Graph attention over those heard (Velickovic et al. 2018, https://arxiv.org/abs/1710.10903).

    ``c_i = sum_j softmax_j(LeakyReLU(a h_i + b h_j)) W h_j``, one such sum for each head.
    """

    heads: int = setting(2, "sums side by side", least=1)
    size: int = setting(16, "numbers of each head", least=1)

    def build(self, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> MessageModule:
        """Make the stacked module."""
        return Attentive(owner, width, self.heads, self.size, self.rounds, generators)


@config
class DIAL(Channel):
    """Differentiable inter-agent learning (Foerster et al. 2016, https://arxiv.org/abs/1605.06676).

    While learning an agent says ``2 sigma(m + noise) - 1``, which drives ``m`` away from 0; it executes with the sign
    of ``m``: one bit a number. What several say is added up.
    """

    size: int = setting(1, "bits of a message", least=1)
    noise: float = setting(2.0, "standard deviation of the noise while learning", least=0)

    def build(self, owner: Owner, width: int, generators: Sequence[torch.Generator]) -> MessageModule:
        """Make the stacked module."""
        return Discretized(owner, width, self.size, self.noise, self.rounds, generators)


class Mean(MessageModule):
    """The weighted mean of what is heard; messages are features or a layer of them, behind a gate or not."""

    def __init__(
        self,
        owner: Owner,
        width: int,
        size: int | None,
        rounds: int,
        generators: Sequence[torch.Generator],
        gated: bool = False,
    ) -> None:
        """See :class:`Channel` for the settings."""
        super().__init__()
        self.size = self.summary = size or width
        self.say = None if size is None else StackedLinear(owner, width, size, generators, gain=1.0)
        self.make_rounds(owner, width, rounds, generators)
        self.gate = StackedLinear(owner, width, 1, generators, gain=1.0) if gated else None
        if self.gate is not None:
            with torch.no_grad():
                self.gate.bias.fill_(1.0)  # mouths are open until there is a reason to close them

    def speak(self, turn: int, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`MessageModule.speak`."""
        message = h if self.say is None else self.say(h)
        if self.gate is None:
            return message, None
        chance: Tensor = torch.sigmoid(self.gate(h)).squeeze(-1)
        return message, (chance > 0.5).to(chance.dtype) + (chance - chance.detach())

    def mouths(self) -> Mouths | None:
        """See :meth:`MessageModule.mouths`."""
        return Mouths(self.say, self.gate, None) if type(self) is Mean else None

    def hear(self, query: Tensor, inbox: Inbox) -> Tensor:
        """See :meth:`MessageModule.hear`."""
        total = inbox.weight.sum(-1, keepdim=True).detach()
        # Nobody heard: zeros. The sum is a constant, so that a closed gate's gradient is that of its message alone.
        weight = inbox.weight if self.gate is not None else inbox.weight.detach()  # only a gate learns
        return _mix(weight / torch.where(total > 0, total, 1.0), inbox.message)


class Targeted(MessageModule):
    """Attention of a query over signatures."""

    def __init__(
        self,
        owner: Owner,
        width: int,
        signature: int,
        value: int,
        rounds: int,
        generators: Sequence[torch.Generator],
    ) -> None:
        """See :class:`Channel` for the settings."""
        super().__init__()
        self.size, self.summary, self.private = signature + value, value, signature
        self.say = StackedLinear(owner, width, signature + value, generators, gain=1.0)
        self.query = StackedLinear(owner, width, signature, generators, gain=1.0)
        self.make_rounds(owner, width, rounds, generators)

    def speak(self, turn: int, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`MessageModule.speak`."""
        return self.say(h), None

    def ask(self, turn: int, h: Tensor) -> Tensor:
        """See :meth:`MessageModule.ask`."""
        y: Tensor = self.query(h)
        return y

    def mouths(self) -> Mouths | None:
        """See :meth:`MessageModule.mouths`."""
        return Mouths(self.say, None, self.query) if type(self) is Targeted else None

    def hear(self, query: Tensor, inbox: Inbox) -> Tensor:
        """See :meth:`MessageModule.hear`."""
        keys, values = inbox.message[..., : self.private], inbox.message[..., self.private :]
        score = (keys @ query.unsqueeze(-1)).squeeze(-1) / math.sqrt(self.private)  # (B, R, N)
        return _mix(self.noted(_attention(score, inbox.weight.detach())), values)


class Attentive(MessageModule):
    """Graph attention with several heads."""

    def __init__(
        self, owner: Owner, width: int, heads: int, size: int, rounds: int, generators: Sequence[torch.Generator]
    ) -> None:
        """See :class:`Channel` for the settings."""
        super().__init__()
        self.heads, self.each = heads, size
        self.summary, self.private = heads * size, heads
        self.size = heads * size + heads
        self.say = StackedLinear(owner, width, self.size, generators, gain=1.0)
        self.query = StackedLinear(owner, width, heads, generators, gain=1.0)
        self.make_rounds(owner, width, rounds, generators)

    def speak(self, turn: int, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`MessageModule.speak`."""
        return self.say(h), None

    def ask(self, turn: int, h: Tensor) -> Tensor:
        """See :meth:`MessageModule.ask`."""
        y: Tensor = self.query(h)
        return y

    def hear(self, query: Tensor, inbox: Inbox) -> Tensor:
        """See :meth:`MessageModule.hear`."""
        values = torch.unflatten(inbox.message[..., : self.summary], -1, (self.heads, self.each))  # (B, R, N, H, F)
        score = nn.functional.leaky_relu(inbox.message[..., self.summary :] + query.unsqueeze(2), 0.2)  # (B, R, N, H)
        share = self.noted(_attention(score.transpose(-1, -2), inbox.weight.unsqueeze(2)))  # (B, R, H, N)
        summed: Tensor = share.unsqueeze(-2) @ values.transpose(2, 3)  # (B, R, H, 1, F)
        return summed.flatten(-3)


class Discretized(MessageModule):
    """Sums of bits that are learnt through noise."""

    noisy = True

    def __init__(
        self, owner: Owner, width: int, size: int, noise: float, rounds: int, generators: Sequence[torch.Generator]
    ) -> None:
        """See :class:`Channel` for the settings."""
        super().__init__()
        self.size = self.summary = size
        self.noise = noise
        self.say = StackedLinear(owner, width, size, generators, gain=1.0)
        self.make_rounds(owner, width, rounds, generators)

    def speak(self, turn: int, h: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :meth:`MessageModule.speak`."""
        return self.say(h), None

    def modulate(self, message: Tensor, noise: Tensor | None) -> Tensor:
        """See :meth:`MessageModule.modulate`."""
        if noise is None:
            return torch.where(message > 0, torch.ones_like(message), -1.0)
        return 2 * torch.sigmoid(message + self.noise * noise) - 1

    def hear(self, query: Tensor, inbox: Inbox) -> Tensor:
        """See :meth:`MessageModule.hear`."""
        return _mix(inbox.weight, inbox.message)


def _mix(weight: Tensor, message: Tensor) -> Tensor:
    """``sum_j w_ij m_j``: ``(B, R, N)`` and ``(B, R or 1, N, M)`` to ``(B, R, M)``."""
    if message.shape[1] == 1:
        return weight @ message[:, 0]
    return (weight.unsqueeze(-2) @ message).squeeze(-2)


def _attention(score: Tensor, weight: Tensor) -> Tensor:
    """Softmax over those heard, each counted by its weight: ``w_j e^{s_j} / sum w e^s``; zeros where nobody is."""
    heard = weight > 0
    top = score.detach().masked_fill(~heard, -math.inf).amax(-1, keepdim=True)
    share = weight * torch.exp(torch.where(heard, score - torch.where(top > -math.inf, top, 0.0), 0.0))
    total = share.sum(-1, keepdim=True)
    return share / torch.where(total > 0, total, 1.0)
