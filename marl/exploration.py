"""Exploration: how a learner deviates from its greedy action; batched over copies and agents, masks respected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from marl.compiled.kernels import stray
from marl.nets.distributions import gumbel_argmax, mask_logits
from marl.ranks import drawn, integers, own_part, uniform
from marl.schedules import SCHEDULES, Clock, Linear, Schedule, value_at
from marl.types import ActionSpec, ConfigError

__all__ = [
    "Boltzmann",
    "BoltzmannGumbel",
    "EpsilonGreedy",
    "GaussianNoise",
    "Greedy",
    "GumbelSample",
    "MaxBoltzmann",
    "OrnsteinUhlenbeck",
    "Uniform",
]

FALLING = Linear(1.0, 0.05, 10_000)
CHOICES, BOX, BOTH = frozenset({"discrete"}), frozenset({"box"}), frozenset({"discrete", "box"})


class ExplorationInput(Protocol):
    """The fields of a policy's input that exploration reads."""

    @property
    def action_mask(self) -> Tensor | None:
        """Allowed choices ``(E, N, K)``; None: all."""
        ...

    @property
    def started(self) -> Tensor:
        """Episodes that have just begun, ``(E,)``."""
        ...

    @property
    def acting(self) -> Tensor:
        """Agents that act in this step, ``(E, N)``."""
        ...


class Explorer(Protocol):
    """Turns scores into actions.

    Choices: ``scores (E, N, K)`` are values or logits, all components end to end, as ``inputs.action_mask``; actions
    are ``(E, N)`` or ``(E, N, C)``, never illegal. Boxes: ``scores (E, N, A)`` are greedy actions in unit coordinates;
    actions stay within [-1, 1].
    """

    def __call__(self, scores: Tensor, inputs: ExplorationInput, clock: Clock, generator: torch.Generator) -> Tensor:
        """The actions to take."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state that an exact resume needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


@runtime_checkable
class Exploration(Protocol):
    """A choice of exploration: a frozen dataclass."""

    kinds: ClassVar[frozenset[str]]

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        ...


class _Choices:
    """Explorers of choices: every component is explored on its own, all with one rule."""

    def __init__(self, action: ActionSpec) -> None:
        self.sizes, self.flat = list(action.sizes), action.kind == "discrete"

    def __call__(self, scores: Tensor, inputs: ExplorationInput, clock: Clock, generator: torch.Generator) -> Tensor:
        action_mask = inputs.action_mask
        if self.flat:
            return self.choose(mask_logits(scores, action_mask), action_mask, clock, generator, 0)
        masks = [None] * len(self.sizes) if action_mask is None else torch.split(action_mask, self.sizes, dim=-1)
        parts = zip(torch.split(scores, self.sizes, dim=-1), masks, strict=True)
        chosen = [
            self.choose(mask_logits(part, mask), mask, clock, generator, place)
            for place, (part, mask) in enumerate(parts)
        ]
        return torch.stack(chosen, dim=-1)

    def choose(
        self, scores: Tensor, action_mask: Tensor | None, clock: Clock, generator: torch.Generator, place: int
    ) -> Tensor:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None


class _Noise:
    """Explorers of boxes."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        return None


def uniform_choice(scores: Tensor, action_mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """A uniformly random allowed choice, ``(...)``."""
    if action_mask is None:
        return integers(scores.shape[-1], scores.shape[:-1], generator, scores.device)
    return gumbel_argmax(mask_logits(torch.zeros_like(scores), action_mask), generator)


def _check(name: str, wanted: str, fits: Callable[[float], bool], values: Mapping[str, Schedule]) -> None:
    for field, value in values.items():
        numbers = (value,) if not isinstance(value, SCHEDULES) else (value.start, value.end)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or not fits(number):
                raise ConfigError(f"{name}.{field}: expected a number {wanted} or a schedule, got {number!r}")


def _positive(name: str, **values: Schedule) -> None:
    _check(name, "above 0", lambda number: 0 < number < math.inf, values)


def _not_negative(name: str, **values: Schedule) -> None:
    _check(name, "of at least 0", lambda number: 0 <= number < math.inf, values)


def share(name: str, **values: Schedule) -> None:
    """Raise ConfigError unless all values are numbers in [0, 1] or schedules of such numbers."""
    _check(name, "from 0 to 1", lambda number: 0 <= number <= 1, values)


@dataclass(frozen=True)
class Greedy:
    """Always the greedy action."""

    kinds: ClassVar[frozenset[str]] = BOTH

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _StillNoise() if action.kind == "box" else _GreedyChoice(action)


class _StillNoise(_Noise):
    def __call__(self, scores: Tensor, inputs: ExplorationInput, clock: Clock, generator: torch.Generator) -> Tensor:
        return scores


class _GreedyChoice(_Choices):
    def choose(
        self, scores: Tensor, action_mask: Tensor | None, clock: Clock, generator: torch.Generator, place: int
    ) -> Tensor:
        return scores.argmax(-1)


@dataclass(frozen=True)
class Uniform:
    """Uniformly random, whatever the scores."""

    kinds: ClassVar[frozenset[str]] = BOTH

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _UniformNoise() if action.kind == "box" else _UniformChoice(action)


class _UniformNoise(_Noise):
    def __call__(self, scores: Tensor, inputs: ExplorationInput, clock: Clock, generator: torch.Generator) -> Tensor:
        return drawn(lambda x: x.uniform_(-1, 1, generator=generator), scores, generator)


class _UniformChoice(_Choices):
    def choose(
        self, scores: Tensor, action_mask: Tensor | None, clock: Clock, generator: torch.Generator, place: int
    ) -> Tensor:
        return uniform_choice(scores, action_mask, generator)


@dataclass(frozen=True)
class EpsilonGreedy:
    """With probability epsilon a uniform legal choice, else the greedy one.

    Args:
        epsilon: a number or a schedule.
        spread: 0: all copies alike; above 0: copy ``e`` uses ``epsilon ** (1 + spread e / (E - 1))`` (Horgan et al.
            2018).
    """

    epsilon: Schedule = FALLING
    spread: float = 0.0
    kinds: ClassVar[frozenset[str]] = CHOICES

    def __post_init__(self) -> None:
        """Check the numbers."""
        share("EpsilonGreedy", epsilon=self.epsilon)
        _not_negative("EpsilonGreedy", spread=self.spread)

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _EpsilonGreedy(self, action, num_envs, device)


class _EpsilonGreedy(_Choices):
    def __init__(self, settings: EpsilonGreedy, action: ActionSpec, num_envs: int, device: torch.device | str) -> None:
        super().__init__(action)
        self.epsilon = settings.epsilon
        copies = torch.arange(num_envs, device=device, dtype=torch.float32) / max(num_envs - 1, 1)
        self.power = (1 + settings.spread * copies).unsqueeze(1) if settings.spread else None  # (E, 1)
        # Torch compares with a tensor in a third of the time that it takes with a number.
        self._value, self._share = math.nan, torch.zeros((), device=device, dtype=torch.float32)  # () or (E, 1)

    def choose(
        self, scores: Tensor, action_mask: Tensor | None, clock: Clock, generator: torch.Generator, place: int
    ) -> Tensor:
        value = value_at(self.epsilon, clock)
        if value != self._value:
            self._value = value
            self._share = self._share.fill_(value) if self.power is None else value**self.power
        share = self._share if self.power is None else own_part(self._share, generator)
        chance = uniform(scores.shape[:-1], generator, scores.device)
        return stray(scores, chance, share, uniform_choice(scores, action_mask, generator))


@dataclass(frozen=True)
class Boltzmann:
    """A draw from ``softmax(scores / temperature)``.

    Args:
        temperature: a number or a schedule.
        clip: scores are clipped to plus and minus this before; None: are not.
    """

    temperature: Schedule = 1.0
    clip: float | None = None
    kinds: ClassVar[frozenset[str]] = CHOICES

    def __post_init__(self) -> None:
        """Check the numbers."""
        _positive("Boltzmann", temperature=self.temperature, **({} if self.clip is None else {"clip": self.clip}))

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _Boltzmann(action, self.temperature, self.clip, 1.0)


@dataclass(frozen=True)
class MaxBoltzmann:
    """With probability epsilon a Boltzmann draw, else the greedy choice (Wiering 1999).

    Args:
        epsilon: a number or a schedule.
        temperature: as for :class:`Boltzmann`.
        clip: as for :class:`Boltzmann`.
    """

    epsilon: Schedule = 0.1
    temperature: Schedule = 1.0
    clip: float | None = None
    kinds: ClassVar[frozenset[str]] = CHOICES

    def __post_init__(self) -> None:
        """Check the numbers."""
        share("MaxBoltzmann", epsilon=self.epsilon)
        _positive("MaxBoltzmann", temperature=self.temperature, **({} if self.clip is None else {"clip": self.clip}))

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _Boltzmann(action, self.temperature, self.clip, self.epsilon)


@dataclass(frozen=True)
class GumbelSample:
    """``argmax(logits / temperature + Gumbel)``: a draw from the softmax, as discrete DDPG explores.

    Args:
        temperature: a number or a schedule.
    """

    temperature: Schedule = 1.0
    kinds: ClassVar[frozenset[str]] = CHOICES

    def __post_init__(self) -> None:
        """Check the number."""
        _positive("GumbelSample", temperature=self.temperature)

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _Boltzmann(action, self.temperature, None, 1.0)


class _Boltzmann(_Choices):
    def __init__(self, action: ActionSpec, temperature: Schedule, clip: float | None, epsilon: Schedule) -> None:
        super().__init__(action)
        self.temperature, self.clip, self.epsilon = temperature, clip, epsilon

    def choose(
        self, scores: Tensor, action_mask: Tensor | None, clock: Clock, generator: torch.Generator, place: int
    ) -> Tensor:
        logits = scores if self.clip is None else mask_logits(scores.clamp(-self.clip, self.clip), action_mask)
        sampled = gumbel_argmax(logits / value_at(self.temperature, clock), generator)
        epsilon = value_at(self.epsilon, clock)
        if epsilon >= 1:
            return sampled
        stray = uniform(scores.shape[:-1], generator, scores.device) < epsilon
        return torch.where(stray, sampled, scores.argmax(-1))


@dataclass(frozen=True)
class BoltzmannGumbel:
    """``argmax(score_a + C / sqrt(n_a) G_a)``, ``n_a`` visits, ``G_a`` Gumbel (Cesa-Bianchi et al. 2017).

    Args:
        scale: ``C``.
    """

    scale: float = 1.0
    kinds: ClassVar[frozenset[str]] = CHOICES

    def __post_init__(self) -> None:
        """Check the number."""
        _positive("BoltzmannGumbel", scale=self.scale)

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _BoltzmannGumbel(action, self.scale, device)


class _BoltzmannGumbel(_Choices):
    def __init__(self, action: ActionSpec, scale: float, device: torch.device | str) -> None:
        super().__init__(action)
        self.scale = scale
        agents = len(action.widths)
        # Visits of all copies together: they are one agent's experience.
        self.visits = [torch.ones(agents, size, device=device, dtype=torch.float32) for size in self.sizes]

    def __call__(self, scores: Tensor, inputs: ExplorationInput, clock: Clock, generator: torch.Generator) -> Tensor:
        action = super().__call__(scores, inputs, clock, generator)
        for visits, chosen in zip(self.visits, [action] if self.flat else action.unbind(-1), strict=True):
            taken = torch.nn.functional.one_hot(chosen, visits.shape[-1])  # (E, N, A)
            visits += (taken * inputs.acting.unsqueeze(-1)).sum(0)
        return action

    def choose(
        self, scores: Tensor, action_mask: Tensor | None, clock: Clock, generator: torch.Generator, place: int
    ) -> Tensor:
        visits = self.visits[place]  # (N, A)
        gumbel = -torch.empty_like(scores).exponential_(generator=generator).log()
        return mask_logits(scores + self.scale * visits.rsqrt() * gumbel, action_mask).argmax(-1)  # (E, N)

    def state_dict(self) -> dict[str, Any]:
        return {"visits": list(self.visits)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for visits, saved in zip(self.visits, state["visits"], strict=True):
            visits.copy_(saved)


@dataclass(frozen=True)
class GaussianNoise:
    """Independent normal noise on unit actions, clipped to the box.

    Args:
        scale: standard deviation, a number or a schedule.
    """

    scale: Schedule = 0.1
    kinds: ClassVar[frozenset[str]] = BOX

    def __post_init__(self) -> None:
        """Check the number."""
        _not_negative("GaussianNoise", scale=self.scale)

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _GaussianNoise(self.scale)


class _GaussianNoise(_Noise):
    def __init__(self, scale: Schedule) -> None:
        self.scale = scale

    def __call__(self, scores: Tensor, inputs: ExplorationInput, clock: Clock, generator: torch.Generator) -> Tensor:
        noise = drawn(lambda x: x.normal_(generator=generator), scores, generator)
        return torch.add(scores, noise, alpha=value_at(self.scale, clock)).clamp_(-1, 1)


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """Correlated noise: ``x <- x - theta x dt + scale sqrt(dt) n``, from 0 at each episode's start.

    Args:
        theta: pull towards 0.
        scale: a number or a schedule.
        dt: length of a step.
    """

    theta: float = 0.15
    scale: Schedule = 0.2
    dt: float = 1.0
    kinds: ClassVar[frozenset[str]] = BOX

    def __post_init__(self) -> None:
        """Check the numbers."""
        _positive("OrnsteinUhlenbeck", theta=self.theta, dt=self.dt)
        _not_negative("OrnsteinUhlenbeck", scale=self.scale)

    def build(self, action: ActionSpec, num_envs: int, device: torch.device | str) -> Explorer:
        """Make the explorer of one team."""
        return _OrnsteinUhlenbeck(self, device)


class _OrnsteinUhlenbeck(_Noise):
    def __init__(self, settings: OrnsteinUhlenbeck, device: torch.device | str) -> None:
        self.settings = settings
        self.noise = torch.zeros(0, device=device, dtype=torch.float32)  # (E, N, A), once there are copies

    def __call__(self, scores: Tensor, inputs: ExplorationInput, clock: Clock, generator: torch.Generator) -> Tensor:
        settings = self.settings
        if self.noise.shape != scores.shape:  # other copies than those that it was saved of
            self.noise = scores.new_zeros(scores.shape)  # whatever the layout of scores: a saved one has none
        fresh = drawn(lambda x: x.normal_(generator=generator), self.noise, generator)
        self.noise.masked_fill_(inputs.started[:, None, None], 0.0)
        self.noise.mul_(1 - settings.theta * settings.dt)
        self.noise.add_(fresh, alpha=value_at(settings.scale, clock) * math.sqrt(settings.dt))
        return (scores + self.noise).clamp_(-1, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"noise": self.noise}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.noise = state["noise"].to(self.noise.device, copy=True)
