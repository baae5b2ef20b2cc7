"""Layers that become wider or more while what they compute stays (Net2Net, Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from marl.nets.networks import MLP

FIRST = "body.layers.0.weight"  # what a network with the body of an MLP has
IDENTITY = ("relu",)  # activations f with f(f(x)) = f(x), so that a layer of ones changes nothing

Weights = dict[str, Tensor]


def grown(saved: Mapping[str, Tensor], fresh: Mapping[str, Tensor], before: MLP, after: MLP, seed: int) -> Weights:
    """A module's parameters and buffers for networks of other sizes, which compute what it computed.

    Every network in it is changed in the same way, so that targets stay those of the networks that they follow.

    Args:
        saved: of the module; weights ``(P, in, out)``, biases ``(P, out)``.
        fresh: of a module of the new sizes, which says what shapes are expected; its values count for nothing.
        before: the layers of its networks.
        after: those that they are to have, see :func:`wider` and :func:`deeper`.
        seed: of what is drawn.
    """
    found = dict(saved)
    for prefix in (name.removesuffix(FIRST) for name in saved if name.endswith(FIRST)):
        own = [name for name in fresh if name.startswith((f"{prefix}body.layers.", f"{prefix}head."))]
        if all(name in saved and saved[name].shape == fresh[name].shape for name in own):
            continue  # a network of other sizes, which another setting says
        layers = [
            (saved[f"{prefix}{name}.weight"], saved[f"{prefix}{name}.bias"])
            for name in (*(f"body.layers.{place}" for place in range(len(before.sizes))), "head")
        ]
        generator = torch.Generator().manual_seed(seed)
        for place, (width, wanted) in enumerate(zip(before.sizes, after.sizes, strict=False)):
            if wanted > width:
                layers = wider(layers, place, wanted, generator)
        if len(after.sizes) > len(before.sizes):
            layers = deeper(layers)
        names = [*(f"body.layers.{place}" for place in range(len(after.sizes))), "head"]
        for name, (weight, bias) in zip(names, layers, strict=True):
            found[f"{prefix}{name}.weight"], found[f"{prefix}{name}.bias"] = weight, bias
    return {name: found[name] for name in fresh}


Layer = tuple[Tensor, Tensor]  # weight (..., in, out), bias (..., out)


def wider(layers: list[Layer], place: int, width: int, generator: torch.Generator) -> list[Layer]:
    """Some units get a twin with the same inputs; the two share what the unit gave.

    A unit with outgoing weights ``w`` becomes two with ``w / 2 + n`` and ``w / 2 - n``: their sum is ``w`` whatever
    ``n`` is. It is normal noise as large as the weights of that layer, since twins with equal weights would have equal
    gradients, and stay equal for ever.

    Args:
        layers: weights ``(..., in, out)`` and biases ``(..., out)``, the output layer last.
        place: which of them gets more units.
        width: how many it is to have, at most twice as many as it has.
        generator: draws who gets a twin, and the noise.
    """
    weight, bias = layers[place]
    out_weight, out_bias = layers[place + 1]
    units = weight.shape[-1]
    twins = torch.randperm(units, generator=generator)[: width - units].to(weight.device)
    half = out_weight.index_select(-2, twins) / 2
    drawn = torch.randn(half.shape, generator=generator, dtype=half.dtype).to(half.device)
    noise = drawn * out_weight.square().mean((-2, -1), keepdim=True).sqrt()
    shared = out_weight.index_copy(-2, twins, half + noise)
    changed = [
        (torch.cat((weight, weight.index_select(-1, twins)), -1), torch.cat((bias, bias.index_select(-1, twins)), -1)),
        (torch.cat((shared, half - noise), -2), out_bias),
    ]
    return [*layers[:place], *changed, *layers[place + 2 :]]


def deeper(layers: list[Layer]) -> list[Layer]:
    """One hidden layer more before the output layer, ``W = 1`` and ``b = 0``: ``relu(1 relu(x) + 0) = relu(x)``."""
    weight, bias = layers[-2]
    ones = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    more = ones.expand(*weight.shape[:-2], *ones.shape).contiguous(), torch.zeros_like(bias)
    return [*layers[:-1], more, layers[-1]]
