"""Networks that remember: a GRU and an LSTM behind an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from marl.compiled import recurrent
from marl.compiled.backend import RecurrentLayers, touched
from marl.compiled.recurrent import Unit
from marl.nets.networks import CNN, MLP, Body, Inputs, is_plain, whole_sizes
from marl.nets.owner import Owner
from marl.nets.stacked import StackedLinear


@dataclass(frozen=True)
class _Recurrent:
    """What recurrent networks have in common; a kind of its own says its :attr:`unit`."""

    hidden: int = 64
    encoder: MLP | CNN | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        whole_sizes(f"{type(self).__name__}.hidden", (self.hidden,))

    @property
    def unit(self) -> Unit:
        """The kind of recurrent unit."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """How many features the built module returns."""
        return self.hidden

    @property
    def remembers(self) -> bool:
        """Yes."""
        return True

    def build(self, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> Body:
        """Make the stacked module."""
        return RecurrentBody(self.unit, self.hidden, self.encoder, owner, inputs, generators)


@dataclass(frozen=True)
class GRU(_Recurrent):
    """An encoder followed by a gated recurrent unit (Cho et al. 2014).

    ``r, z = sigmoid(W x + b + U h + c)``, ``n = tanh(W x + b + r (U h + c))``, ``h' = (1 - z) n + z h``.

    Args:
        hidden: width of the recurrent state.
        encoder: what comes before it: an :class:`MLP` or a :class:`CNN`; None means ``MLP((hidden,))`` for vectors and
            ``CNN()`` for images.
    """

    @property
    def unit(self) -> Unit:
        """A gated recurrent unit."""
        return gru


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """An encoder followed by a long short-term memory (Hochreiter and Schmidhuber 1997; with forget gates).

    ``i, f, o = sigmoid(W x + b + U h + c)``, ``g = tanh(W x + b + U h + c)``, ``c' = f c + i g``, ``h' = o tanh(c')``.

    Args:
        hidden: width of the hidden state; the carry is twice as wide, ``[h, c]``.
        encoder: as for :class:`GRU`.
    """

    @property
    def unit(self) -> Unit:
        """A long short-term memory."""
        return lstm


Product = Callable[[Tensor], Tensor]  # of hidden states (S, M, H)


def gru_loop(
    from_input: Tensor,
    carry: Tensor,
    start: Tensor,
    acting: Tensor,
    weight: Tensor,
    bias: Tensor,
    product: Product | None = None,
) -> Tensor:
    """Carries ``(S, T, M, H)`` of a :class:`GRU` after each step; arguments as of ``marl.compiled.recurrent``.

    ``product``: what computes the products with the hidden state; None: ``weight`` and ``bias``.
    """

    def step(x: Tensor, h: Tensor) -> Tensor:
        input_r, input_z, input_n = x.chunk(3, dim=-1)
        from_carry = torch.baddbmm(bias.unsqueeze(1), h, weight) if product is None else product(h)
        carry_r, carry_z, carry_n = from_carry.chunk(3, dim=-1)
        reset = torch.sigmoid(input_r + carry_r)
        update = torch.sigmoid(input_z + carry_z)
        candidate = torch.tanh(input_n + reset * carry_n)
        return torch.lerp(candidate, h, update)

    return _loop(step, from_input, carry, start, acting)


def lstm_loop(
    from_input: Tensor,
    carry: Tensor,
    start: Tensor,
    acting: Tensor,
    weight: Tensor,
    bias: Tensor,
    product: Product | None = None,
) -> Tensor:
    """Carries ``[h, c] (S, T, M, 2H)`` of an :class:`LSTM` after each step, likewise."""

    def step(x: Tensor, carry: Tensor) -> Tensor:
        h, cell = carry.chunk(2, dim=-1)
        from_carry = torch.baddbmm(bias.unsqueeze(1), h, weight) if product is None else product(h)
        i, f, g, o = (x + from_carry).chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat((torch.sigmoid(o) * torch.tanh(cell), cell), dim=-1)

    return _loop(step, from_input, carry, start, acting)


def _loop(
    step: Callable[[Tensor, Tensor], Tensor], from_input: Tensor, carry: Tensor, start: Tensor, acting: Tensor
) -> Tensor:
    keep = (~start).unsqueeze(-1).to(from_input.dtype)
    move = acting.unsqueeze(-1)
    carries = []
    for t in range(from_input.shape[1]):
        carry = carry * keep[:, t]
        carry = torch.where(move[:, t], step(from_input[:, t], carry), carry)
        carries.append(carry)
    return torch.stack(carries, dim=1)


gru = Unit("a GRU", 3, 1, 5, 1, recurrent.gru_forward, recurrent.gru_backward, gru_loop)
lstm = Unit("an LSTM", 4, 2, 7, 0, recurrent.lstm_forward, recurrent.lstm_backward, lstm_loop)
UNITS = {unit.what: unit for unit in (gru, lstm)}


class RecurrentBody(Body):
    """Encoder, products with the inputs of all steps at once, then a recurrent unit step by step."""

    def __init__(
        self,
        unit: Unit,
        hidden: int,
        encoder: MLP | CNN | None,
        owner: Owner,
        inputs: Inputs,
        generators: Sequence[torch.Generator],
    ) -> None:
        """``unit`` with ``hidden`` units behind an encoder; None: the one that fits the observation."""
        super().__init__()
        encoder = encoder or (CNN() if len(inputs.shape) == 3 else MLP((hidden,)))
        self.encoder = encoder.build(owner, inputs, generators)
        self.owner, self.unit = owner, unit
        self.inputs = StackedLinear(owner, self.encoder.width, unit.gates * hidden, generators, gain=1.0)
        self.recurrent = StackedLinear(owner, hidden, unit.gates * hidden, generators, gain=1.0)
        self.width, self.carry_width = hidden, unit.state * hidden

    def forward(
        self, x: Tensor, extra: Tensor | None, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states ``(S, T, M, H)`` and carries ``(S, T, M, C)``."""
        unit, layer = self.unit, self.recurrent
        y, _ = self.encoder(x, extra, carry, start, acting)
        from_input = self.inputs(y)  # (S, T, M, G H)
        weight, bias = self.owner.weight(layer.weight), self.owner.weight(layer.bias)
        data = from_input, carry, start, acting, weight, bias
        if type(layer) is StackedLinear and recurrent.fits(from_input, weight) and not touched(layer):
            carries = recurrent.recurrence(unit, *data)
        else:
            carries = unit.plain(*data, lambda h: layer(h.unsqueeze(1)).squeeze(1))
        return carries[..., : self.width], carries

    def around_unit(self, head: nn.Module, ids: Tensor) -> RecurrentLayers | None:
        """This body and an output layer as data; None unless all its layers are plain ones over vectors.

        ``ids (N, I)`` stand beside observations in play.
        """
        encoder, owner, unit = self.encoder, self.owner, self.unit
        outer = self.inputs, self.recurrent, head
        if type(self) is not RecurrentBody or not is_plain(encoder, head) or not is_plain(encoder, self.inputs):
            return None
        layers = [layer for layer in (*encoder.layers, *outer) if type(layer) is StackedLinear]
        if len(layers) < len(encoder.layers) + len(outer):
            return None

        def plain(
            x: Tensor, carry: Tensor, start: Tensor, acting: Tensor, parameters: Sequence[Tensor]
        ) -> tuple[Tensor, Tensor]:
            weight, bias, head_weight, head_bias = (owner.weight(part) for part in parameters[-4:])
            carries = unit.plain(
                encoder.plain(owner.enter(x), parameters[:-4]),
                owner.enter(carry.unsqueeze(0)).squeeze(1),
                owner.enter(start.unsqueeze(-1).expand(acting.shape)),
                owner.enter(acting),
                weight,
                bias,
            )
            y = carries[..., : weight.shape[1]].flatten(1, 2)
            out = torch.baddbmm(head_bias.unsqueeze(1), y, head_weight)
            return owner.leave(out.view(*carries.shape[:3], -1)), owner.leave(carries)

        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        return RecurrentLayers(unit, weights, biases, encoder.activation_name, *owner.table, ids, plain)

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling, with the name of the unit instead of its compiled code."""
        return self.__dict__ | {"unit": self.unit.what}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go back to it."""
        super().__setstate__(state | {"unit": UNITS[state["unit"]]})  # type: ignore[no-untyped-call]
