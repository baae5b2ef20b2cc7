"""Random numbers that are functions of a key: a row of a memory can be computed again with the very same noise.

A policy that heard a noisy message must be judged on what it heard, so every copy and agent carries a key through
time: drawn once, then advanced by a rule of full period. What chance does at a step is a hash of the key, the same in
play, in training, and whatever other rows stand in the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PERIOD = 2**24  # whole numbers below it are exact in float32, in which carries are kept


def draw_keys(keys: Tensor, generator: torch.Generator | None) -> None:
    """Give those without a key (0) one, in place."""
    fresh = torch.randint(1, PERIOD, keys.shape, generator=generator, device=keys.device)
    keys.copy_(torch.where(keys == 0, fresh.to(keys.dtype), keys))


def next_keys(keys: Tensor) -> Tensor:
    """The keys of the next step: a linear congruence that visits every number below the period."""
    return ((keys.long() * 1_140_671_485 + 12_820_163) % PERIOD).to(keys.dtype)


def uniform(keys: Tensor, count: int, stream: int) -> Tensor:
    """``(..., count)`` numbers in (0, 1) for keys ``(...)``; other streams give other numbers."""
    index = torch.arange(count, device=keys.device) + stream * 1_000_003
    z = keys.long().unsqueeze(-1) * -7_046_029_254_386_353_131 + index * -4_417_276_706_812_531_889
    for shift, factor in ((30, -4_658_895_280_553_007_687), (27, -7_723_592_293_110_705_685)):
        z = (z ^ ((z >> shift) & (2 ** (64 - shift) - 1))) * factor  # the finalizer of splitmix64
    z = z ^ ((z >> 31) & (2**33 - 1))
    return (((z >> 40) & (PERIOD - 1)).to(torch.float32) + 0.5) / PERIOD


def normal(keys: Tensor, count: int, stream: int) -> Tensor:
    """``(..., count)`` standard normal numbers, by the transform of Box and Muller."""
    first, second = uniform(keys, 2 * count, stream).chunk(2, dim=-1)
    return torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second)
