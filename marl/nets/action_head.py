"""Deterministic policies as functions of a network's outputs, and actions as what a critic reads."""

from __future__ import annotations

import torch
from torch import Tensor

from marl import ops
from marl.nets.distributions import Box, Categorical, Distribution, MultiCategorical, mask_logits
from marl.ranks import drawn
from marl.types import ActionSpec, own_choices


class ActionHead:
    """What a deterministic actor's outputs ``(..., N, K)`` mean, for every kind of action.

    Boxes: ``tanh`` into unit coordinates. Choices: the legal one of the greatest logit; gradients pass by the
    straight-through Gumbel estimator (Jang et al. 2017; Lowe et al. 2017). A critic reads ``F = K`` numbers: unit
    coordinates, or one-hots end to end.
    """

    learns_scale = False

    def __init__(self, spec: ActionSpec, device: torch.device | str = "cpu") -> None:
        """``spec``: the team's, or one agent's, action."""
        self.spec = spec
        self.box = Box(spec, device) if spec.kind == "box" else None
        # A bit is a choice between two.
        self.sizes = list(spec.sizes)
        self.size = len(spec.low[0]) if spec.kind == "box" else sum(spec.sizes)
        one = Categorical(self.size) if spec.kind == "discrete" else MultiCategorical(spec.sizes)
        self.choice: Distribution | None = None if spec.kind == "box" else one
        own = own_choices(spec) if self.box is None else self.box.real.cpu().numpy()
        self._own = torch.as_tensor(own, dtype=torch.float32, device=device)  # (N, F): 1 where an agent has that choice
        self._padded = not bool(own.all())
        self._share = 1 / self._own.sum(-1).clamp(min=1)  # (N,)

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """The action as it is stored: unit coordinates or choices."""
        return self.own(torch.tanh(parameters)) if self.choice is None else self.choice.mode(parameters, action_mask)

    def scores(self, parameters: Tensor) -> Tensor:
        """Where exploration begins: unit coordinates without noise, or the logits of choices."""
        return torch.tanh(parameters) if self.choice is None else parameters

    def uniform(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator) -> Tensor:
        """A uniformly random action, of the shape that :meth:`mode` gives for these parameters."""
        if self.choice is not None:
            return self.choice.sample(torch.zeros_like(parameters), action_mask, generator)
        like = parameters.new_empty(*parameters.shape[:-1], self.size)
        return self.own(drawn(lambda x: x.uniform_(-1, 1, generator=generator), like, generator))

    def own_action(self, action: Tensor) -> Tensor:
        """The same stored action, 0 in components of a box that an agent has not."""
        return action if self.box is None else self.box.own(action)

    def own(self, features: Tensor) -> Tensor:
        """The same features, 0 where an agent has no such component; ``(..., N, F)``."""
        return features * self._own if self._padded else features

    def features(self, action: Tensor) -> Tensor:
        """What a critic reads for stored actions, ``(..., N, F)``; of components that an agent has not, zeros."""
        if self.box is not None:
            return self.own(action)
        if self.spec.kind == "discrete":
            return ops.one_hot(action, self.size)
        parts = zip(action.unbind(-1), self.sizes, strict=True)
        return self.own(torch.cat([ops.one_hot(part, size) for part, size in parts], dim=-1))

    def from_env(self, action: Tensor) -> Tensor:
        """What is stored for what an environment was given."""
        return action if self.box is None else self.box.unit(action)

    def relaxed(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """The policy's action as a critic reads it, with a gradient to the parameters."""
        if self.box is not None:
            return self.own(torch.tanh(parameters))
        if self.spec.kind == "discrete":
            return ops.gumbel_softmax_straight_through(parameters, 1.0, action_mask, generator)
        masks = [None] * len(self.sizes) if action_mask is None else torch.split(action_mask, self.sizes, dim=-1)
        parts = zip(torch.split(parameters, self.sizes, dim=-1), masks, strict=True)
        chosen = [ops.gumbel_softmax_straight_through(logits, 1.0, mask, generator) for logits, mask in parts]
        return self.own(torch.cat(chosen, dim=-1))

    def cost(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """Mean squared outputs ``(..., N)``: keeps logits and pre-activations near 0 (Lowe et al. 2017).

        The mean is over the choices or components that an agent truly has, whatever wider agents stand beside it.
        """
        if action_mask is not None:
            parameters = torch.where(action_mask, parameters, 0.0)
        if not self._padded:
            return parameters.square().mean(-1)
        return (parameters.square() * self._own).sum(-1) * self._share

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """A choice drawn by its logits; boxes: the action itself."""
        if self.choice is None:
            return self.mode(parameters, action_mask)
        return self.choice.sample(parameters, action_mask, generator)

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The same; its log-probability counts for nothing."""
        action = self.sample(parameters, action_mask, generator)
        return action, parameters[..., 0]

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability 0 and no entropy."""
        zeros = torch.zeros(parameters.shape[:-1], device=parameters.device, dtype=torch.float32)
        return zeros, zeros

    def to_env(self, action: Tensor) -> Tensor:
        """Into the box; choices as they are."""
        return action if self.box is None else self.box.place(action)


class SquashedHead:
    """A Gaussian with a state-dependent scale, squashed by ``tanh`` into the box: SAC's policy (Haarnoja et al. 2018).

    Outputs are mean and raw log standard deviation ``(..., N, 2A)``; ``log pi(a) = log N(u) - sum log(1 - tanh(u)^2)``.
    Stored actions are unit coordinates.
    """

    learns_scale = False
    LOW, HIGH = -5.0, 2.0

    def __init__(self, spec: ActionSpec, device: torch.device | str = "cpu") -> None:
        """``spec``: a box."""
        self.box = Box(spec, device)
        self.width = len(spec.low[0])
        self.size = 2 * self.width

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = parameters.chunk(2, dim=-1)
        # A tanh between the bounds never saturates as hard as a clamp, which would pass no gradient.
        return mean, self.LOW + 0.5 * (self.HIGH - self.LOW) * (torch.tanh(raw) + 1)

    def reparameterized(self, parameters: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """A unit action ``(..., N, A)`` and its log-probability ``(..., N)``, both with gradients."""
        raw, log_std, noise = self._drawn(parameters, generator)
        log_normal = -0.5 * noise.square() - log_std - 0.9189385332046727
        log_slope = 2 * (0.6931471805599453 - raw - torch.nn.functional.softplus(-2 * raw))
        return torch.tanh(raw) * self.box.real, ((log_normal - log_slope) * self.box.real).sum(-1)

    def _drawn(self, parameters: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """A draw before squashing, the log standard deviation and the noise, all ``(..., N, A)``."""
        mean, log_std = self._split(parameters)
        noise = drawn(lambda x: x.normal_(generator=generator), mean, generator)
        return mean + log_std.exp() * noise, log_std, noise

    def mode(self, parameters: Tensor, action_mask: Tensor | None) -> Tensor:
        """``tanh`` of the mean."""
        return self.box.own(torch.tanh(self._split(parameters)[0]))

    def sample(self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """A draw, in unit coordinates."""
        return torch.tanh(self._drawn(parameters, generator)[0]) * self.box.real

    def draw(
        self, parameters: Tensor, action_mask: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A draw and its log-probability."""
        return self.reparameterized(parameters, generator)

    def evaluate(self, parameters: Tensor, action_mask: Tensor | None, action: Tensor) -> tuple[Tensor, Tensor]:
        """Not needed off-policy: zeros."""
        zeros = torch.zeros(parameters.shape[:-1], device=parameters.device, dtype=torch.float32)
        return zeros, zeros

    def features(self, action: Tensor) -> Tensor:
        """Unit coordinates as they are."""
        return self.box.own(action)

    def to_env(self, action: Tensor) -> Tensor:
        """Into the box."""
        return self.box.place(action)


def masked_policy(parameters: Tensor, action_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """``pi`` and ``log pi`` of legal choices, ``(..., A)``; illegal ones have probability 0."""
    log_policy = mask_logits(parameters, action_mask).log_softmax(-1)
    return log_policy.exp(), log_policy
