"""Whole rollouts on their way from who collected them to who learns from them: of one memory a share of the copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.memory.rollout import Rollout
from marl.types import Array

Fragment = Mapping[str, Any]  # a full rollout's arrays (T or T + 1, E, ...) by name, and its true successors


def packed(rollout: Rollout) -> Fragment:
    """A full rollout as arrays, which the memory's next rows overwrite."""
    state = rollout.state_dict()
    return {
        "arrays": {name: tensor.numpy() for name, tensor in state["arrays"].items()},
        "finals": [
            {name: x.numpy() if isinstance(x, Tensor) else x for name, x in final.items()} for final in state["finals"]
        ],
    }


def fill(rollout: Rollout, fragments: Sequence[Fragment]) -> None:
    """Make a rollout full: the copies of the fragments side by side, in this order. Raises ValueError for others."""
    names = fragments[0]["arrays"]
    arrays = {name: np.concatenate([one["arrays"][name] for one in fragments], axis=1) for name in names}
    copies = [one["arrays"]["started"].shape[1] for one in fragments]
    first = np.cumsum([0, *copies[:-1]])
    finals = [
        {**final, "copies": final["copies"] + start}
        for one, start in zip(fragments, first, strict=True)
        for final in one["finals"]
    ]
    finals.sort(key=lambda final: int(final["time"]))  # of one time in the order of copies, as they are
    tensors = {name: _tensor(array) for name, array in arrays.items()}
    for name, tensor in rollout.state_dict()["arrays"].items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(f"rollout: {name}: expected {tuple(tensor.shape)}, got {tuple(tensors[name].shape)}")
    rollout.load_state_dict(
        {
            "time": rollout.steps,
            "arrays": tensors,
            "finals": [
                {name: x if name in ("time", "copies") else _tensor(x) for name, x in final.items()} for final in finals
            ],
            "outcome": rollout.outcome.state_dict(),  # of rewards that wait for a turn, which stay where copies are
        }
    )


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
