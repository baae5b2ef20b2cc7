"""A rank's share of a batch: what one process would draw, and what of it lies here."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from marl.memory.base import DrawSpec
from marl.memory.sample import Sample
from marl.ranks import CopiesGenerator, Ranks


def draw_share(replay: Any, ranks: Ranks, wanted: DrawSpec, generator: torch.Generator) -> Sample:
    """What lies here of the batch that one process would draw, in its order.

    A rank that has nothing of it gets a sequence that does not count, so that there always is one.
    """
    batch, length, copies = wanted.batch, wanted.length, replay.num_envs
    if length == 1 and not replay.parted:
        replay.parted = ranks.any(replay.ragged)
    ragged = replay.parted and length == 1
    row, copy = replay.chance(8 * batch if ragged else batch, length, generator)
    copy -= ranks.rank * copies
    here = (copy >= 0) & (copy < copies)
    index = row * copies + np.clip(copy, 0, copies - 1)
    if ragged:
        useful = torch.from_numpy(replay.useful(index) & here).to(torch.int32)
        ranks.sum(useful)  # every place lies in one rank
        first = np.argsort(useful.numpy() == 0, kind="stable")[:batch]
        index, here = index[first], here[first]
    own = np.nonzero(here)[0]
    nothing = not len(own)
    own = np.zeros(1, dtype=np.int64) if nothing else own
    places, own_rows = torch.from_numpy(index[own]).unsqueeze(1), torch.from_numpy(own)
    with generator.for_rows(batch, own_rows) if isinstance(generator, CopiesGenerator) else nullcontext():
        sample: Sample = replay.sample(places, length, wanted.n_step, wanted.discount, None, generator)
    sample = replace(sample, own=own_rows.to(replay.device))
    if nothing:
        off = torch.zeros_like(sample.acting)
        return replace(sample, acting=off, complete=off)
    return sample
