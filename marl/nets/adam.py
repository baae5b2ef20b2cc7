"""Adam (Kingma and Ba 2015) over the rows of a flat parameter matrix, clipping included, in one compiled pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl.jit import jit
from marl.nets.stacked import FlatParameters
from marl.types import Array

DECAY, SQUARE_DECAY = 0.9, 0.999


class FlatAdam:
    """``w -= lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)`` with running means ``m`` of ``g``, ``v`` of ``g^2``.

    Every row, one parameter set, has its own norm and its own count of steps ``t``; frozen rows stay as they are. On a
    CPU a step with clipping takes 7 us for 11,000 parameters, where ``clip`` and torch's fused Adam take 63.
    """

    def __init__(self, flat: FlatParameters, lr: float = 1.0, eps: float = 1e-8, scale: float = 1.0) -> None:
        """``scale`` multiplies every learning rate that is set."""
        self.flat, self.eps, self.scale = flat, eps, scale
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
        flat = self.flat
        if flat.values.device.type != "cpu":
            norm = flat.gradients.new_zeros(len(flat.values)) if max_norm is None else flat.clip(max_norm)
            self._step_elsewhere()
            return norm
        norms, moving, bad = np.zeros(len(flat.values), dtype=np.float32), flat.active, False
        gradients = flat.gradients.numpy()
        if max_norm is None:
            moving = flat.active & flat.sound
            flat.sound.fill_(True)
        else:
            bad = _clip(gradients, max_norm, norms)
        lost = not math.isfinite(flat.loss)
        if bad or lost:
            flat.non_finite.add_(1)
        elif max_norm is not None:
            flat.non_finite.zero_()
        if not lost:
            arrays = flat.values.detach().numpy(), gradients, norms, self.mean.numpy(), self.square.numpy()
            _adam(*arrays, self.steps.numpy(), moving.numpy(), self.lr * self.scale, self.eps)
        flat.loss = 0.0
        return torch.from_numpy(norms)

    @torch.no_grad()
    def _step_elsewhere(self) -> None:
        """The same in torch's operations."""
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


@jit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
def _clip(gradients: Array, max_norm: float, norms: Array) -> bool:
    """Scale each row to at most ``max_norm``, or to nothing if it is not finite; whether one was not."""
    bad = False
    for row in range(gradients.shape[0]):
        total = 0.0
        for j in range(gradients.shape[1]):
            total += np.float64(gradients[row, j]) * np.float64(gradients[row, j])
        norm = np.float32(np.sqrt(total))
        norms[row] = norm
        if not np.isfinite(norm):
            bad = True
            gradients[row] = 0
            continue
        scale = np.float32(max_norm / (norm + 1e-6))
        if scale < 1:
            for j in range(gradients.shape[1]):
                gradients[row, j] *= scale
    return bad


@jit(nogil=True, error_model="numpy", fastmath={"contract"})
def _adam(
    values: Array, gradients: Array, norms: Array, mean: Array, square: Array, steps: Array, active: Array, lr: float,
    eps: float,
) -> None:  # fmt: skip
    decay, square_decay, floor = np.float32(DECAY), np.float32(SQUARE_DECAY), np.float32(eps)
    for row in range(values.shape[0]):
        if not active[row] or not np.isfinite(norms[row]):
            continue
        steps[row] += 1
        rate = np.float32(lr / (1 - DECAY ** steps[row]))
        root = np.float32(1 / np.sqrt(1 - SQUARE_DECAY ** steps[row]))
        for j in range(values.shape[1]):
            g = gradients[row, j]
            m = mean[row, j] + (np.float32(1) - decay) * (g - mean[row, j])
            v = square_decay * square[row, j] + (np.float32(1) - square_decay) * g * g
            mean[row, j], square[row, j] = m, v
            values[row, j] -= rate * m / (np.sqrt(v) * root + floor)
