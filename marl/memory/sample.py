"""What off-policy learners learn from: sequences of rows with the successor of every agent's transition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """``B`` sequences of ``L`` rows drawn from a memory, and the successor of every agent's transition.

    Single transitions are the case ``L = 1``. ``J``: the shape of the joint input; it has an agent axis before it where
    agents' successors differ (``ragged``).
    """

    index: Tensor  # (B, N) or (B, 1): the memory's own name of the first row: a replay's row * E + copy
    obs: Tensor  # (L, B, N, *O)
    action: Tensor  # (L, B, N[, A])
    action_mask: Tensor | None  # (L, B, N, K)
    started: Tensor  # (L, B)
    acting: Tensor  # (L, B, N) chose an action here
    complete: Tensor  # (L, B, N) what came of it is known
    successor: Tensor  # (L, B, N) which row of the sequence is its successor; -1: none
    reward: Tensor  # (L, B, N) sum of discounted rewards up to the successor
    discount: Tensor  # (L, B, N) what the successor's value is worth: gamma^n, 0 after a termination
    next_obs: Tensor  # (L, B, N, *O)
    next_action_mask: Tensor | None  # (L, B, N, K)
    next_acting: Tensor  # (L, B, N)
    carry: Tensor  # (B, N, H) before the first row
    joint: Tensor | None  # (L, B, *J)
    next_joint: Tensor | None  # (L, B, *J) or (L, B, N, *J)
    others: tuple[Tensor, ...]  # (L, B, M[, A]) what the agents of each other team did
    next_others: tuple[Tensor, ...]
    acting_others: tuple[Tensor, ...]  # (L, B, M) who of them chose an action here
    next_acting_others: tuple[Tensor, ...]
    next_action_mask_others: tuple[Tensor | None, ...]  # (L, B, M, K)
    weight: Tensor  # (B, N) or (B, 1): importance of each, 1 where all are equal
    own: Tensor | None = None  # (B,) which sequences of the batch of all ranks these are; None: there are no others

    @property
    def length(self) -> int:
        """``L``."""
        return len(self.reward)

    def tensors(self) -> list[Tensor | None]:
        """All tensors in a row; the inverse of :meth:`of`."""
        found: list[Tensor | None] = []
        for value in vars(self).values():
            found += value if isinstance(value, tuple) else [value]
        return found

    @staticmethod
    def of(tensors: Sequence[Tensor | None], others: int) -> Sample:
        """From its :meth:`tensors`, if there are ``others`` other teams."""
        rest, values = iter(tensors), dict[str, Any]()
        for field in fields(Sample):
            values[field.name] = tuple(islice(rest, others)) if field.name.endswith("others") else next(rest)
        return Sample(**values)

    def to(self, device: torch.device) -> Sample:
        """The same sample on another device."""

        def move(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(move(part) for part in value)
            return None if value is None else value.to(device)

        return self if device.type == "cpu" else Sample(**{name: move(value) for name, value in vars(self).items()})


def td_target(sample: Sample, next_value: Tensor, n_step: int = 1, td_lambda: float | None = None) -> Tensor:
    """Targets ``(L, B, N)`` from the values of successors, ``y = r + gamma V(s')``.

    Single transitions: ``y = r + d V`` (the memory has summed ``n_step`` rewards). Sequences repeat ``y_t = r_t + d_t
    (y_u or, where the sequence does not hold the successor u, V_t)`` for ``n_step`` turns, or take the lambda-return
    ``y_t = r_t + d_t ((1 - lambda) V_t + lambda y_u)``.
    """
    target = sample.reward + sample.discount * next_value
    if sample.length == 1:
        return target
    held, place = sample.successor >= 0, sample.successor.clamp(min=0)
    if td_lambda is not None:
        for t in range(sample.length - 2, -1, -1):
            onward = torch.lerp(next_value[t], target.gather(0, place[t : t + 1])[0], td_lambda)
            target[t] = sample.reward[t] + sample.discount[t] * torch.where(held[t], onward, next_value[t])
        return target
    for _ in range(n_step - 1):
        target = sample.reward + sample.discount * torch.where(held, target.gather(0, place), next_value)
    return target
