"""Off-policy learners in several ranks: what they learn together from their shares of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marl.exploration import BoltzmannGumbel, Exploration
from marl.memory.sample import Sample
from marl.nets.stacked import holds_own, parts_with_mode
from marl.ranks import CopiesGenerator, Ranks
from marl.reduce import weighted_mean


def refusal(learner: Any) -> str:
    """What of an off-policy learner is not built for several ranks, in words; empty: all of it is."""
    settings, modules = learner.settings, [*learner.modules().values(), learner.auxiliary.modules]
    found = {
        "channel=": settings.channel is not None,
        "auxiliary=": bool(settings.auxiliary),
        "prioritized=": settings.prioritized is not None,
        "memory=": settings.memory is not None,
        "exploration=BoltzmannGumbel(), which counts all visits,": isinstance(settings.exploration, BoltzmannGumbel),
        "exploration= of your own": type(settings.exploration).__module__ not in (Exploration.__module__, "builtins"),
        "dropout, batch norm or modules of your own": any(map(parts_with_mode, modules)) or holds_own(modules),
    }
    return next((what for what, used in found.items() if used), "")


def learn(learner: Any, ranks: Ranks, sample: Sample) -> dict[str, Tensor]:
    """What the learner's ``learn_once`` returns, from this rank's share of a batch; metrics are of all of it."""
    assert isinstance(learner.generator, CopiesGenerator)
    with learner.generator.for_rows(learner.settings.batch, sample.own):
        parts = learner.learn_once(sample)
    names = [name for name in parts if name not in ("td_error", "non_finite")]
    told = torch.stack([parts[name].float() for name in names])
    weighted_mean(ranks, learner.experience.counts(sample).sum(), told)
    return {"non_finite": parts["non_finite"], **dict(zip(names, told.unbind(), strict=True))}
