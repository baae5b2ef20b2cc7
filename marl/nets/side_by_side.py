"""Fully connected layers of a team's one set, and several such networks that read the same input."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marl.compiled.backend import ChosenNets, SmallNets, nets_for, recorded


class Dense(nn.Module):
    """``y = x W + b``, initialized from a generator of its own, uniformly within ``1 / sqrt(in)``."""

    def __init__(self, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
        """As ``nn.Linear``."""
        super().__init__()
        bound = 1 / math.sqrt(max(fan_in, 1))
        self.weight = nn.Parameter(_uniform(fan_in, fan_out, bound, generator))
        self.bias = nn.Parameter(_uniform(1, fan_out, bound, generator))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        return x @ self.weight + self.bias[0]


def _uniform(rows: int, columns: int, bound: float, generator: torch.Generator) -> Tensor:
    # One leading axis, as stacked parameters have: a mixer is a team's one set.
    return torch.empty(rows, columns, dtype=torch.float32).uniform_(-bound, bound, generator=generator)


def dense_layers(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    """Layers of these widths with rectifiers between them."""
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        parts += [Dense(before, after, generator), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class SideBySide:
    """Networks made by :func:`dense_layers` that read the same input: their outputs ``(..., widths)`` side by side.

    On a CPU all of them are computed in one compiled call, if :func:`~marl.compiled.backend.nets_for` says so.
    """

    def __init__(self) -> None:
        """Nothing is decided yet."""
        self._nets: tuple[nn.Sequential, ...] = ()
        self._chosen: ChosenNets | None = None

    def __call__(self, x: Tensor, *nets: nn.Sequential) -> Tensor:
        """Outputs of ``nets`` for inputs ``(..., F)``."""
        if not recorded() and x.is_cpu and x.dtype == torch.float32 and x.numel():
            chosen = self.chosen(*nets)
            if chosen.nets is not None:
                return chosen.nets(x)
        return torch.cat([net(x) for net in nets], dim=-1)

    def chosen(self, *nets: nn.Sequential) -> ChosenNets:
        """What computes ``nets``."""
        if self._chosen is None or self._chosen.stale or nets != self._nets:
            self._nets = nets
            self._chosen = nets_for(self)
        return self._chosen

    @property
    def parts(self) -> Sequence[nn.Module]:
        """The networks last asked for."""
        return self._nets

    def small(self) -> SmallNets | None:
        """What compiled code needs to know of them; None unless all layers are plain ones."""
        depths = []
        for net in self._nets:
            kinds = [type(layer) for layer in net]
            depth = len(kinds[::2])
            if type(net) is not nn.Sequential or kinds != [Dense, *[nn.ReLU, Dense] * (depth - 1)]:
                return None
            depths.append(depth)
        parameters = [part for net in self._nets for layer in net for part in layer.parameters()]

        def computed(x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
            found, rest = [], iter(parameters)
            for depth in depths:
                y = x
                for layer in range(depth):
                    y = (torch.relu(y) if layer else y) @ next(rest) + next(rest)[0]
                found.append(y)
            return torch.cat(found, dim=-1)

        return SmallNets(parameters, depths, computed)

    def __reduce__(self) -> Any:
        """A copy decides for itself."""
        return SideBySide, ()
