"""Running statistics that live with the policy: of observations, and of value targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marl.nets.owner import Owner
from marl.reduce import ALONE, Reduce


class RunningNorm(nn.Module):
    """``(x - mean) / sqrt(var + eps)``, clipped, with statistics per parameter set over the rows a mask lets through.

    Statistics are merged exactly (Chan et al. 1983) in float64, so the order and size of updates do not matter beyond
    rounding.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, owner: Owner, width: int, clip: float = 10.0, epsilon: float = 1e-8) -> None:
        """``width``: features per agent."""
        super().__init__()
        self.owner, self.clip, self.epsilon = owner, clip, epsilon
        self.register_buffer("mean", torch.zeros(owner.num_sets, width, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(owner.num_sets, width, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(owner.num_sets, 1, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor, reduce: Reduce = ALONE) -> None:
        """Take in ``x (..., N, W)`` where ``mask (..., N)`` is True and all of it is finite, from all learners."""
        mask = mask & x.isfinite().all(-1)
        x = torch.where(mask.unsqueeze(-1), x, 0)
        rows, weight = x.flatten(0, -3).double(), mask.flatten(0, -2).double().unsqueeze(-1)  # (R, N, W), (R, N, 1)
        count = self._per_set(weight.sum(0))
        total = self._per_set((rows * weight).sum(0))
        reduce.sum(count, total)
        mean = total / count.clamp(min=1)
        deviation = rows - self.owner.to_agents(mean)
        squares = self._per_set((deviation.square() * weight).sum(0))
        reduce.sum(squares)
        both = (self.count + count).clamp(min=1)
        shift = mean - self.mean
        before = self.variance * self.count
        # A set that saw nothing keeps what it had, also the initial variance of one.
        merged = (before + squares + shift.square() * self.count * count / both) / both
        self.variance.copy_(torch.where(count > 0, merged, self.variance))
        self.mean.add_(shift * count / both)
        self.count.add_(count)

    def _per_set(self, per_agent: Tensor) -> Tensor:
        out = per_agent.new_zeros(self.owner.num_sets, *per_agent.shape[1:])
        return out.index_add_(0, self.owner.on(per_agent.device), per_agent)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each agent's set, ``(N, W)`` float32."""
        std = (self.variance + self.epsilon).sqrt()
        return self.owner.to_agents(self.mean).float(), self.owner.to_agents(std).float()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(..., N, W)``."""
        mean, std = self.scale()
        return ((x - mean) / std).clamp(-self.clip, self.clip)
