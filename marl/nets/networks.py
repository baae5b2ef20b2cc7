"""Network choices, frozen dataclasses that build stacked modules: from an observation and a carry to features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from marl.nets.fused import FUSABLE, Buffers, fused_mlp
from marl.nets.owner import Owner
from marl.nets.stacked import PerSet, StackedLinear, make_linear, orthogonal, parts_with_mode
from marl.types import ConfigError

LARGE = 1_024  # pixels from which channels lie last where a gradient follows; 7 x 7 is a quarter slower that way
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


@dataclass(frozen=True)
class Inputs:
    """What a network is given: an observation of ``shape`` and ``extra`` more numbers (the agent's id one-hot).

    ``true_inputs[p]``: which of the ``prod(shape) + extra`` inputs set ``p`` truly has (the rest is padding), or None.
    """

    shape: tuple[int, ...]
    extra: int = 0
    true_inputs: tuple[Tensor, ...] | None = None


class Body(nn.Module):
    """A built network: features from observations, one carry per agent.

    ``forward(x, extra, carry, start, acting)`` takes ``x (S, T, M, *shape)``, ``extra (S, T, M, K)`` or None, the carry
    before the first row ``(S, M, H)``, and two masks ``(S, T, M)``: ``start`` empties the carry before a row, rows that
    are not ``acting`` leave it untouched. It returns features ``(S, T, M, width)`` and the carry after each row
    ``(S, T, M, H)``. Feed-forward bodies have ``H = 0``.
    """

    width: int
    carry_width: int = 0

    def forward(
        self, x: Tensor, extra: Tensor | None, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features ``(S, T, M, width)`` and the carry after each row."""
        raise NotImplementedError


class Network(Protocol):
    """A network choice: any frozen dataclass with this ``build`` can be passed as ``network=``.

    One whose body has a carry also has a property ``remembers``, which is True.
    """

    @property
    def width(self) -> int:
        """How many features the built module returns."""
        ...

    def build(self, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> Body:
        """Make the stacked module; ``generators[p]`` initializes set ``p``."""
        ...


def remembers(network: Network | None) -> bool:
    """Whether a network has a carry, which it says itself by ``remembers``."""
    return bool(getattr(network, "remembers", False))


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ConfigError(f"network.activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def whole_sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes as a tuple. Raises ConfigError about ``name`` unless they are positive whole numbers."""
    whole = isinstance(sizes, tuple | list) and all(type(size) is int and size > 0 for size in sizes)
    if not whole or not sizes:
        raise ConfigError(f"{name}: expected positive whole numbers such as (64, 64), got {sizes!r}")
    return tuple(sizes)


def _vector(x: Tensor, extra: Tensor | None) -> Tensor:
    """Flatten an observation and lay the extra inputs beside it."""
    x = x.flatten(3) if x.dim() > 4 else x
    if x.dtype == torch.uint8:
        x = x.float().mul_(1 / 255)
    return x if extra is None else torch.cat((x, extra), dim=-1)


def _no_carry(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:3], 0), dtype=torch.float32)


@dataclass(frozen=True)
class MLP:
    """Fully connected layers.

    Args:
        sizes: width of each hidden layer.
        activation: ``tanh``, ``relu``, ``elu``, ``gelu`` or ``silu``.
        noisy: above 0: layers with learnt parameter noise of this initial size (0.5 in the paper) explore instead of
            the action (Fortunato et al. 2018); for value learners.
    """

    sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    noisy: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        whole_sizes("MLP.sizes", self.sizes)
        _activation(self.activation)
        if not 0 <= self.noisy < math.inf:
            raise ConfigError(f"MLP.noisy: expected a number of at least 0, got {self.noisy!r}")

    @property
    def width(self) -> int:
        """How many features the built module returns."""
        return self.sizes[-1]

    def build(self, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> Body:
        """Make the stacked module."""
        return MLPBody(self, owner, inputs, generators)


class MLPBody(Body):
    """The module that :class:`MLP` builds."""

    def __init__(self, config: MLP, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> None:
        """As :meth:`MLP.build`."""
        super().__init__()
        self.activation = _activation(config.activation)
        self.activation_name, self.owner, self.pool = config.activation, owner, Buffers()
        self.fusable = config.activation in FUSABLE and not config.noisy
        widths = (math.prod(inputs.shape) + inputs.extra, *config.sizes)
        self.layers = nn.ModuleList(
            make_linear(
                owner,
                before,
                after,
                generators,
                true_inputs=inputs.true_inputs if depth == 0 else None,
                noisy=config.noisy,
            )
            for depth, (before, after) in enumerate(zip(widths, config.sizes, strict=False))
        )
        self.width = config.sizes[-1]

    def forward(
        self, x: Tensor, extra: Tensor | None, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features ``(S, T, M, width)``, and an empty carry."""
        y = _vector(x, extra)
        for layer in self.layers:
            y = self.activation(layer(y))
        return y, _no_carry(y)

    def through(self, x: Tensor, head: StackedLinear) -> Tensor:
        """Layers and output layer in one step: ``(S, T, M, ...)`` to ``(S, T, M, out)``, 1.3 times as fast on a CPU."""
        y = _vector(x, None)
        parameters = [
            self.owner.weight(parameter) for layer in (*self.layers, head) for parameter in (layer.weight, layer.bias)
        ]
        out = fused_mlp(y.flatten(1, 2), self.activation_name, self.pool, parameters)
        return out.view(*y.shape[:3], out.shape[-1])

    def plain(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """The same layer by layer, with ``[W_1, b_1, ..., W_k, b_k]`` for parameters."""
        y = x.flatten(1, 2)
        for place in range(0, len(parameters), 2):
            y = y if place == 0 else self.activation(y)
            weight, bias = (self.owner.weight(parameter) for parameter in parameters[place : place + 2])
            y = torch.baddbmm(bias.unsqueeze(1), y, weight)
        return y.view(*x.shape[:3], y.shape[-1])


def is_plain(body: nn.Module, head: nn.Module) -> TypeGuard[MLPBody]:
    """Whether these compute exactly what faster code for layers of an :class:`MLP` stands for; subclasses may not."""
    if type(body) is not MLPBody or not body.fusable:
        return False
    return all(type(layer) is StackedLinear for layer in (*body.layers, head))


@dataclass(frozen=True)
class CNN:
    """Convolutions over an image ``(C, H, W)``, then one fully connected layer (Mnih et al. 2015 by default).

    Args:
        channels: output channels of each convolution.
        kernels: kernel size of each; larger ones shrink to what is left of the image.
        strides: stride of each.
        hidden: width of the fully connected layer.
        activation: as for :class:`MLP`.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    kernels: tuple[int, ...] = (8, 4, 3)
    strides: tuple[int, ...] = (4, 2, 1)
    hidden: int = 256
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("channels", "kernels", "strides"):
            whole_sizes(f"CNN.{name}", getattr(self, name))
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise ConfigError("CNN: channels, kernels and strides must have one entry for each convolution")
        whole_sizes("CNN.hidden", (self.hidden,))
        _activation(self.activation)

    @property
    def width(self) -> int:
        """How many features the built module returns."""
        return self.hidden

    def build(self, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> Body:
        """Make the stacked module. Raises ConfigError if the observation is no image."""
        if len(inputs.shape) != 3:
            raise ConfigError(
                f"network=CNN needs image observations (C, H, W), got shape {inputs.shape}; images are "
                "uint8 boxes from 0 to 255 of rank 2 or 3, alone: give these, or use MLP or GRU"
            )
        return CNNBody(self, owner, inputs, generators)


class CNNBody(Body):
    """The module that :class:`CNN` builds."""

    def __init__(self, config: CNN, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> None:
        """As :meth:`CNN.build`."""
        super().__init__()
        self.owner = owner
        self.activation, self.activation_name = _activation(config.activation), config.activation
        self.strides: list[int] = []
        self.kernels, self.biases = nn.ParameterList(), nn.ParameterList()
        channels, height, width = inputs.shape
        for out, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            size = (min(kernel, height), min(kernel, width))
            fan_in = channels * size[0] * size[1]
            weights = [orthogonal((fan_in, out), math.sqrt(2), generator).T for generator in generators]
            self.kernels.append(nn.Parameter(torch.stack([weight.reshape(out, channels, *size) for weight in weights])))
            self.biases.append(nn.Parameter(torch.zeros(owner.num_sets, out, dtype=torch.float32)))
            self.strides.append(stride)
            channels, height, width = out, (height - size[0]) // stride + 1, (width - size[1]) // stride + 1
        self.project = StackedLinear(owner, channels * height * width + inputs.extra, config.hidden, generators)
        self.width = config.hidden

    def forward(
        self, x: Tensor, extra: Tensor | None, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features ``(S, T, M, width)``, and an empty carry."""
        sets, time, rows = x.shape[:3]
        # One grouped convolution serves all agents: their channels lie side by side.
        y = x.permute(1, 2, 0, 3, 4, 5).reshape(time * rows, sets * x.shape[3], *x.shape[4:])
        if sets == 1 and torch.is_grad_enabled() and y.device.type == "cpu" and math.prod(y.shape[2:]) >= LARGE:
            y = y.contiguous(memory_format=torch.channels_last)  # forward a fifth slower, backward twice as fast
        y = y.float().mul_(1 / 255) if y.dtype == torch.uint8 else y
        for kernel, bias, stride in zip(self.kernels, self.biases, self.strides, strict=True):
            weight, offset = self.owner.weight(kernel).flatten(0, 1), self.owner.weight(bias).flatten()
            y = self.activation(functional.conv2d(y, weight, offset, stride, groups=sets))
        y = y.reshape(time, rows, sets, -1).permute(2, 0, 1, 3)  # (S, T, M, F)
        y = self.activation(self.project(_vector(y, extra)))
        return y, _no_carry(y)


@dataclass(frozen=True)
class Custom:
    """Your own feed-forward ``nn.Module``.

    Args:
        factory: called once for each parameter set as ``factory(shape, extra)`` with the observation's shape (``(O,)``
            or ``(C, H, W)``) and the number of extra inputs (the agent's id); returns a module that maps
            ``(rows, O + extra)`` (or ``(rows, C*H*W + extra)``, pixels in [0, 1]) to ``(rows, width)``. Its parameters
            and outputs are made float32, whatever torch's default is.
        width: the number of features that it returns.
    """

    factory: Callable[[tuple[int, ...], int], nn.Module]
    width: int

    def build(self, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> Body:
        """Make one module per parameter set, each initialized under its own seed."""
        return CustomBody(self, owner, inputs, generators)


class CustomBody(Body):
    """A user's own modules, one for each parameter set."""

    def __init__(self, config: Custom, owner: Owner, inputs: Inputs, generators: Sequence[torch.Generator]) -> None:
        """Make one module for each generator, under its seed."""
        super().__init__()
        self.owner = owner
        self.width = config.width
        copies = []
        for which, generator in enumerate(generators):
            seed = int(torch.randint(2**31, (), generator=generator))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                copies.append(PerSet(config.factory(inputs.shape, inputs.extra).float(), which))
        self.copies = nn.ModuleList(copies)
        self.has_mode = any(map(parts_with_mode, copies))

    def forward(
        self, x: Tensor, extra: Tensor | None, carry: Tensor, start: Tensor, acting: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features, by the module of each agent's parameter set."""
        y = _vector(x, extra)
        flat = y.reshape(y.shape[0], -1, y.shape[-1])  # (S, rows, I)
        # A user's module knows no stacking, so here, and only here, agents are visited one after the other.
        index = (0,) if self.owner.flat else self.owner.index
        acting = acting.reshape(flat.shape[:2])  # (S, rows)
        visits = zip(index, flat, acting, strict=True)
        out = torch.stack([self._visit(self.copies[which], rows, there).float() for which, rows, there in visits])
        if out.shape[-1] != self.width:
            raise ConfigError(
                f"Custom network: expected {self.width} features as promised by width=, got {out.shape[-1]}"
            )
        out = out.view(*y.shape[:-1], self.width)
        return out, _no_carry(out)

    def _visit(self, module: nn.Module, rows: Tensor, acting: Tensor) -> Tensor:
        """Features of ``rows (R, I)``. Whoever does not act counts in no batch statistics; a single row has none."""
        y: Tensor
        if not (self.has_mode and module.training):
            y = module(rows)
            return y
        chosen = acting.nonzero().squeeze(-1)
        if len(chosen) < 2:
            module.eval()
            y = module(rows)
            module.train()
            return y
        y = module(rows[chosen])
        return y.new_zeros(len(rows), y.shape[-1]).index_copy(0, chosen, y)


def default_network(shape: tuple[int, ...]) -> MLP | CNN:
    """The network used where none is chosen: two hidden layers of 64, or convolutions for images."""
    return CNN() if len(shape) == 3 else MLP()
