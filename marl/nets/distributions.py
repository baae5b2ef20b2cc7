"""Action distributions as functions of a parameter tensor: what a policy head's output means.

None of them builds an object per call. ``action_mask`` is ``(..., L)`` bool, every choice of every component end to
end, or None; illegal choices get a large negative finite logit, so they have probability 0, add nothing to the entropy
and pass no gradient.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from marl.compiled.kernels import categorical_draw, categorical_evaluate, takes
from marl.ranks import drawn
from marl.types import ActionSpec, ConfigError

ILLEGAL = -1e9  # finite, so that 0 * log 0 never becomes NaN


class Distribution(Protocol):
    """How a head's parameters ``(..., K)`` become actions."""

    size: int  # K, without what the head adds itself
    learns_scale: bool  # whether the head adds a state-independent log standard deviation of A more parameters

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """A random action."""
        ...

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A random action and its log-probability."""
        ...

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """The most likely action."""
        ...

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of ``action`` and entropy, both ``(...)``."""
        ...

    def to_env(self, action: Tensor) -> Tensor:
        """What the environment is given for ``action``."""
        ...


def mask_logits(logits: Tensor, action_mask: Tensor | None) -> Tensor:
    """Logits with illegal choices out of reach."""
    return logits if action_mask is None else torch.where(action_mask, logits, ILLEGAL)


def gumbel_argmax(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """A sample from ``softmax(logits)`` along the last axis: ``argmax(logits + Gumbel)``."""
    exponential = drawn(lambda x: x.exponential_(generator=generator), logits, generator)
    return torch.sub(logits, exponential.log_()).argmax(-1)


class Categorical:
    """One choice among ``n``; parameters are logits ``(..., n)``."""

    learns_scale = False

    def __init__(self, size: int) -> None:
        """``size``: number of choices."""
        self.size = size

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """``(...)`` int64."""
        return gumbel_argmax(mask_logits(parameters, action_mask), generator)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A sample and ``log pi(a)``."""
        if takes(parameters):
            return categorical_draw(mask_logits(parameters, action_mask), generator)
        log_policy = functional.log_softmax(mask_logits(parameters, action_mask), dim=-1)
        action = gumbel_argmax(log_policy, generator)
        return action, log_policy.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """``(...)`` int64."""
        return mask_logits(parameters, action_mask).argmax(-1)

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """``log pi(a)`` and ``-sum pi log pi``."""
        if takes(parameters):
            return categorical_evaluate(mask_logits(parameters, action_mask), action)
        log_policy = functional.log_softmax(mask_logits(parameters, action_mask), dim=-1)
        log_prob = log_policy.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        return log_prob, -(log_policy.exp() * log_policy).sum(-1)

    def to_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action


class MultiCategorical:
    """Several independent choices; parameters are their logits end to end."""

    learns_scale = False

    def __init__(self, sizes: tuple[int, ...]) -> None:
        """``sizes[a]``: number of choices of component ``a``."""
        self.sizes = list(sizes)
        self.size = sum(sizes)
        self.parts = [Categorical(size) for size in sizes]

    def _split(self, parameters: Tensor, action_mask: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        masks = [None] * len(self.sizes) if action_mask is None else torch.split(action_mask, self.sizes, dim=-1)
        return list(zip(torch.split(parameters, self.sizes, dim=-1), masks, strict=True))

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """``(..., A)`` int64."""
        pieces = zip(self.parts, self._split(parameters, action_mask), strict=True)
        return torch.stack([part.sample(logits, mask, generator) for part, (logits, mask) in pieces], dim=-1)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A sample and its log-probability."""
        action = self.sample(parameters, action_mask, generator)
        return action, self.evaluate(parameters, action_mask, action)[0]

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """``(..., A)`` int64."""
        pieces = zip(self.parts, self._split(parameters, action_mask), strict=True)
        return torch.stack([part.mode(logits, mask) for part, (logits, mask) in pieces], dim=-1)

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the components."""
        pieces = zip(self.parts, self._split(parameters, action_mask), action.unbind(-1), strict=True)
        results = [part.evaluate(logits, mask, choice) for part, (logits, mask), choice in pieces]
        log_prob = torch.stack([result[0] for result in results]).sum(0)
        return log_prob, torch.stack([result[1] for result in results]).sum(0)

    def to_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action


class Bernoulli:
    """``A`` independent bits; parameters are the logits of a one, ``(..., A)``; masks are (zero, one) per bit."""

    learns_scale = False

    def __init__(self, size: int) -> None:
        """``size``: number of bits."""
        self.size = size

    def _logits(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        if action_mask is None:
            return parameters
        zero, one = torch.unflatten(action_mask, -1, (-1, 2)).unbind(-1)
        return torch.where(one, torch.where(zero, parameters, -ILLEGAL), ILLEGAL)

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """``(..., A)`` int64."""
        logits = self._logits(parameters, action_mask)
        uniform = drawn(lambda x: x.uniform_(generator=generator), logits, generator)
        return (uniform < torch.sigmoid(logits)).long()

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A sample and its log-probability."""
        action = self.sample(parameters, action_mask, generator)
        return action, self.evaluate(parameters, action_mask, action)[0]

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """``(..., A)`` int64."""
        return (self._logits(parameters, action_mask) > 0).long()

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the bits."""
        logits = self._logits(parameters, action_mask)
        log_one, log_zero = functional.logsigmoid(logits), functional.logsigmoid(-logits)
        one = torch.sigmoid(logits)
        log_prob = torch.where(action.bool(), log_one, log_zero).sum(-1)
        entropy = -(one * log_one.clamp(min=ILLEGAL) + (1 - one) * log_zero.clamp(min=ILLEGAL)).sum(-1)
        return log_prob, entropy

    def to_env(self, action: Tensor) -> Tensor:
        """The action itself."""
        return action


class Box:
    """Bounds of a continuous action ``(N, A)``: an affine map from the unit box, and which parts are real."""

    def __init__(self, spec: ActionSpec, device: torch.device | str = "cpu") -> None:
        """Components without finite bounds are passed through unscaled."""
        low = torch.tensor(spec.low, device=device, dtype=torch.float32)  # (N, A)
        high = torch.tensor(spec.high, device=device, dtype=torch.float32)
        self.bounded = torch.isfinite(low) & torch.isfinite(high)
        # Halves first: the whole width of a box may be more than a float32 holds.
        self.scale = torch.where(self.bounded, high / 2 - low / 2, 1.0)
        self.center = torch.where(self.bounded, high / 2 + low / 2, 0.0)
        self.low, self.high = low, high
        components = torch.arange(low.shape[1], device=device)
        widths = torch.tensor(spec.widths, device=device)  # (N,)
        self.real = (components < widths.unsqueeze(1)).float()  # (N, A): 1 where not padding
        self.padded = min(spec.widths) < low.shape[1]

    def place(self, unit: Tensor) -> Tensor:
        """Map ``[-1, 1]`` to the box and clip; ``(..., N, A)``."""
        return torch.clamp(unit * self.scale + self.center, self.low, self.high)

    def own(self, unit: Tensor) -> Tensor:
        """The same action, 0 in padded components; ``(..., N, A)``."""
        return unit * self.real if self.padded else unit

    def unit(self, placed: Tensor) -> Tensor:
        """The inverse of :meth:`place`; padding stays 0."""
        return (placed - self.center) / torch.where(self.scale > 0, self.scale, 1.0)


class Gaussian:
    """A diagonal Gaussian over the unit box, clipped by the environment's bounds; parameters are mean and log std."""

    learns_scale = True

    def __init__(self, box: Box) -> None:
        """``box``: where actions go; the Gaussian lives in its unit coordinates."""
        self.box = box
        self.size = box.low.shape[1]

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """``(..., A)`` float, in unit coordinates, unclipped."""
        mean, log_std = parameters.chunk(2, dim=-1)
        noise = drawn(lambda x: x.normal_(generator=generator), mean, generator)
        return self.box.own(mean + log_std.exp() * noise)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A sample and its log-probability."""
        action = self.sample(parameters, action_mask, generator)
        return action, self.evaluate(parameters, action_mask, action)[0]

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """The mean."""
        return self.box.own(parameters.chunk(2, dim=-1)[0])

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the agent's real components."""
        mean, log_std = parameters.chunk(2, dim=-1)
        log_density = -0.5 * ((action - mean) * torch.exp(-log_std)).square() - log_std - 0.5 * math.log(2 * math.pi)
        entropy = log_std + 0.5 * math.log(2 * math.pi * math.e)
        return (log_density * self.box.real).sum(-1), (entropy * self.box.real).sum(-1)

    def to_env(self, action: Tensor) -> Tensor:
        """Into the box, clipped at its bounds."""
        return self.box.place(action)


class SquashedGaussian(Gaussian):
    """A Gaussian squashed by tanh into the box. Actions are kept before squashing, where the density is exact.

    ``log pi(a) = log N(u) - sum log(1 - tanh(u)^2)``; the entropy has no closed form, ``-log pi`` of the action at hand
    estimates it (Haarnoja et al. 2018).
    """

    def __init__(self, box: Box) -> None:
        """Needs finite bounds: raises ConfigError otherwise."""
        if not bool((box.bounded | (box.real == 0)).all()):
            raise ConfigError("squash=True needs an action space with finite bounds; use squash=False")
        super().__init__(box)

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over the agent's real components."""
        log_normal, _ = super().evaluate(parameters, action_mask, action)
        log_slope = 2 * (math.log(2) - action - functional.softplus(-2 * action))  # log(1 - tanh(u)^2)
        log_prob = log_normal - (log_slope * self.box.real).sum(-1)
        return log_prob, -log_prob

    def to_env(self, action: Tensor) -> Tensor:
        """``tanh`` into the box."""
        return self.box.place(torch.tanh(action))


class Constant(Categorical):
    """A categorical distribution with fixed logits, whatever the network's outputs."""

    def __init__(self, logits: list[float], device: torch.device | str = "cpu") -> None:
        """``logits``: one for each choice."""
        super().__init__(len(logits))
        self.logits = torch.tensor(logits, device=device, dtype=torch.float32)

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """``(...)`` int64."""
        return super().sample(self.logits.expand_as(parameters), action_mask, generator)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A sample and its log-probability."""
        return super().draw(self.logits.expand_as(parameters).contiguous(), action_mask, generator)

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """``(...)`` int64."""
        return super().mode(self.logits.expand_as(parameters), action_mask)

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy."""
        return super().evaluate(self.logits.expand_as(parameters).contiguous(), action_mask, action)


class UniformBox:
    """Uniform over a box; standard normal where it has no bounds. There is no mode: it draws."""

    learns_scale = False

    def __init__(self, box: Box) -> None:
        """``box``: where actions go."""
        self.box = box
        self.size = box.low.shape[1]

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """``(..., A)`` in unit coordinates."""
        even = torch.empty_like(parameters).uniform_(-1, 1, generator=generator)
        normal = torch.empty_like(parameters).normal_(generator=generator)
        return torch.where(self.box.bounded, even, normal)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A sample; its log-probability counts for nothing."""
        action = self.sample(parameters, action_mask, generator)
        return action, self.evaluate(parameters, action_mask, action)[0]

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """A sample."""
        return self.sample(parameters, action_mask, None)

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros."""
        zeros = torch.zeros(action.shape[:-1], device=action.device, dtype=torch.float32)
        return zeros, zeros

    def to_env(self, action: Tensor) -> Tensor:
        """Into the box."""
        return self.box.place(action)


def make_distribution(spec: ActionSpec, squash: bool = False, device: torch.device | str = "cpu") -> Distribution:
    """The distribution for an action space."""
    if spec.kind == "discrete":
        return Categorical(spec.sizes[0])
    if spec.kind == "multidiscrete":
        return MultiCategorical(spec.sizes)
    if spec.kind == "multibinary":
        return Bernoulli(len(spec.sizes))
    box = Box(spec, device)
    return SquashedGaussian(box) if squash else Gaussian(box)


def uniform(spec: ActionSpec, device: torch.device | str = "cpu") -> Distribution:
    """Every legal action as likely as any other, where parameters are zeros."""
    return UniformBox(Box(spec, device)) if spec.kind == "box" else make_distribution(spec, device=device)
