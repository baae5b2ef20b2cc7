"""Adam (Kingma and Ba 2015) over the rows of a flat parameter matrix, clipping included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from marl.compiled import adam, backend
from marl.compiled.adam import DECAY, SQUARE_DECAY
from marl.nets.stacked import FlatParameters


class FlatAdam:
    """``w -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`` with running means ``m`` of ``g``, ``v`` of ``g^2``.

    Every row, one parameter set, has its own norm and its own count of steps ``t``; frozen rows stay as they are. On a
    CPU a step is one compiled pass (:mod:`marl.compiled.adam`).
    """

    def __init__(self, flat: FlatParameters, lr: float = 1.0, eps: float = 1e-8, scale: float = 1.0) -> None:
        """``scale`` multiplies every learning rate that is set."""
        self.flat, self.eps, self.scale = flat, eps, scale
        self._on_cpu = flat.values.device.type == "cpu"
        self._lr, self._rate = lr, torch.full((), lr * scale, device=flat.values.device, dtype=torch.float32)
        self.steps = torch.zeros(len(flat.values), dtype=torch.int64, device=flat.values.device)  # (P,)
        self.mean, self.square = torch.zeros_like(flat.values), torch.zeros_like(flat.values)  # (P, D)

    @property
    def lr(self) -> float:
        """The learning rate, before ``scale``."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        if lr != self._lr:
            self._lr = lr
            self._rate.fill_(lr * self.scale)  # in place: a recorded step finds it there

    def step(self, max_norm: float | None = None) -> Tensor:
        """Move the parameters along their gradients, of norm ``max_norm`` at most; returns the norms before, ``(P,)``.

        A row whose gradient is not finite stays as it is, moments included; so do all where the loss is not finite.
        Without ``max_norm`` gradients are taken as they are, or as :meth:`FlatParameters.clip` left them.
        """
        if self._on_cpu and backend.enabled:
            return adam.step(self, max_norm)
        return self.step_of_torch(max_norm)

    def step_of_torch(self, max_norm: float | None = None) -> Tensor:
        """The same in torch's operations."""
        flat = self.flat
        norm = flat.gradients.new_zeros(len(flat.values)) if max_norm is None else flat.clip(max_norm)
        self._move()
        return norm

    @torch.no_grad()
    def _move(self) -> None:
        flat = self.flat
        active = flat.active & flat.sound
        if isinstance(flat.loss, Tensor):
            active = active & torch.isfinite(flat.loss)
        flat.loss = 0.0
        flat.sound.fill_(True)
        self.steps += active
        moving = active.unsqueeze(1).float()  # other rows neither decay nor move
        gradient, steps = flat.gradients, self.steps.clamp(min=1).unsqueeze(1)
        self.mean.add_((gradient - self.mean) * (moving * (1 - DECAY)))
        self.square.add_((gradient.square() - self.square) * (moving * (1 - SQUARE_DECAY)))
        root = (self.square / (1 - SQUARE_DECAY**steps)).sqrt_().add_(self.eps)
        flat.values.sub_(moving * self._rate * (self.mean / (1 - DECAY**steps)) / root)

    def state_dict(self) -> dict[str, Any]:
        """Moments and counts."""
        return {"steps": self.steps, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to saved ones."""
        for name, own in self.state_dict().items():
            own.copy_(state[name])
