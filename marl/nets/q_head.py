"""What the outputs of a value network mean: plain or dueling action values, or their distributions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marl.nets.distributions import mask_logits
from marl.types import ConfigError


@dataclass(frozen=True)
class Atoms:
    """A categorical distribution of returns over fixed atoms: C51 (Bellemare et al. 2017).

    Args:
        low: the least return.
        high: the greatest.
        count: how many atoms, evenly spaced.
    """

    low: float = -10.0
    high: float = 10.0
    count: int = 51

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.low < self.high:
            raise ConfigError(f"Atoms: expected low < high, got {self.low!r} and {self.high!r}")
        if self.count < 2:
            raise ConfigError(f"Atoms.count: expected at least 2, got {self.count!r}")

    def support(self, device: torch.device | None = None) -> Tensor:
        """``(Z,)``."""
        return torch.linspace(self.low, self.high, self.count, device=device, dtype=torch.float32)


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the return at fixed levels: QR-DQN (Dabney et al. 2018).

    Args:
        count: how many.
        huber: where the quantile loss turns quadratic.
    """

    count: int = 51
    huber: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.count < 1 or self.huber < 0:
            raise ConfigError(f"Quantiles: expected count >= 1 and huber >= 0, got {self}")

    def levels(self, device: torch.device | None = None) -> Tensor:
        """Midpoints ``(Z,)``."""
        return (torch.arange(self.count, device=device, dtype=torch.float32) + 0.5) / self.count


class QHead:
    """Turns outputs ``(..., K)`` into action values; also the greedy policy over them, for a single agent."""

    learns_scale = False

    def __init__(self, actions: int, dueling: bool = False, distribution: Atoms | Quantiles | None = None) -> None:
        """``actions``: how many there are."""
        self.actions, self.dueling, self.distribution = actions, dueling, distribution
        self.bins = 1 if distribution is None else distribution.count
        self.size = (actions + dueling) * self.bins

    def spread(self, out: Tensor) -> Tensor:
        """Logits, quantiles or values of every action, ``(..., A, Z)``; dueling: ``V + A - mean A``."""
        rows = torch.unflatten(out, -1, (self.actions + self.dueling, self.bins))
        if not self.dueling:
            return rows
        value, advantage = rows[..., :1, :], rows[..., 1:, :]
        return value + advantage - advantage.mean(-2, keepdim=True)

    def values(self, out: Tensor) -> Tensor:
        """Expected returns ``(..., A)``."""
        if self.bins == 1 and not self.dueling:
            return out
        rows = self.spread(out)
        if isinstance(self.distribution, Atoms):
            return rows.softmax(-1) @ self.distribution.support(out.device)
        return rows.mean(-1)

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """The legal action of the highest value."""
        return mask_logits(self.values(parameters), action_mask).argmax(-1)

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """The greedy action: a value policy does not sample."""
        return self.mode(parameters, action_mask)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The greedy action, of log-probability 0."""
        action = self.mode(parameters, action_mask)
        return action, torch.zeros_like(action, dtype=torch.float32)

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability 0 and no entropy."""
        zeros = torch.zeros_like(action, dtype=torch.float32)
        return zeros, zeros

    def to_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action
