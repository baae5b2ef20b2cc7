"""Reward shaping: what agents are paid for learning. What is measured stays the raw reward.

A list of hooks turns a team's raw rewards ``(E, N)`` into those its learner sees, one hook after the other. Histories,
episodes and evaluations know nothing of it; the shaped return is logged beside the raw one.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from marl.config import unknown
from marl.nets.stacked import orthogonal
from marl.ops import IntrinsicRewardState, episodic_memory_intrinsic_rewards
from marl.schedules import Clock, Exponential, Linear, Logarithmic, Schedule, value_at
from marl.types import Array, ConfigError, Spec, Step, TeamSpec

RECENT = 100  # episodes that the logged shaped return is the mean of


@dataclass(frozen=True)
class Seen:
    """What a hook sees of one step of a team. Arrays are only lent: copy what you keep.

    Args:
        obs: ``(E, N, *O)`` acted on.
        next_obs: ``(E, N, *O)`` the true successor, never a reset observation.
        action: ``(E, N)`` or ``(E, N, A)``, as the environment got it.
        reward: ``(E, N)`` raw.
        terminated: ``(E, N)`` bool.
        truncated: ``(E, N)`` bool.
        acting: ``(E, N)`` bool: who chose ``action``; the dead and those who wait for their turn did not.
        onward: ``(E, N)`` bool: whose ``next_obs`` has a future: about to act, or cut off.
        started: ``(E,)`` bool: the copy's episode ended and the next one has begun.
        state: ``(E, S)`` or None; next_state likewise.
        next_state: its true successor.
        before: the clock at ``obs``.
        now: the clock at ``next_obs``.
    """

    obs: Array
    next_obs: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    acting: Array
    onward: Array
    started: Array
    state: Array | None
    next_state: Array | None
    before: Clock
    now: Clock


class Hook(Protocol):
    """A built hook. One with memory also has ``state_dict`` and ``load_state_dict``."""

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """From the reward so far ``(E, N)`` to the next."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A hook with memory."""

    def state_dict(self) -> dict[str, Any]:
        """A tree of arrays, tensors and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a hook is built: its team, how many copies, what its learner discounts by, and a seed of its own."""

    team: TeamSpec
    num_envs: int
    discount: float | None
    seed: np.random.SeedSequence


class Shaping(Protocol):
    """A frozen dataclass that builds a hook. ``invariant``: whether optimal policies stay what they were."""

    invariant: ClassVar[bool]

    def build(self, place: Place) -> Hook:
        """Make the hook. Raises ConfigError for what has no meaning there."""
        ...


@runtime_checkable
class Discounts(Protocol):
    """A learner's settings that say what the future is worth."""

    @property
    def discount(self) -> float:
        """Gamma."""
        ...


def _shaped_like(name: str, found: Array, expected: Array) -> Array:
    if np.shape(found) != expected.shape:
        raise ConfigError(f"{name}: expected shape {expected.shape} (copies, agents), got {np.shape(found)}")
    return np.asarray(found)


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ConfigError unless a number (both ends of a schedule) lies in the range."""
    ends = [value.start, value.end] if isinstance(value, Linear | Exponential | Logarithmic) else [value]
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int | float) or not low <= end <= high or math.isinf(end):
            raise ConfigError(f"{name}: expected a number in [{low:g}, {high:g}], got {end!r}")


# --- plain hooks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PotentialBased:
    """``F = gamma w' phi(s') - w phi(s)``: more frequent rewards, the same optimal policies (Ng et al. 1999).

    ``phi`` is 0 where the task ended and ``phi(s')`` where the episode was cut off, since learning goes on from there.
    A weight that changes with time is part of the potential (Devlin and Kudenko 2012), so it is invariant too. In games
    of turns the difference runs from an agent's turn to its next one.

    Args:
        phi: from observations ``(E, N, *O)`` to potentials ``(E, N)``; from states ``(E, S)`` to ``(E,)``.
        of: ``"obs"`` or ``"state"``.
        discount: gamma; None takes the learner's, and any other would change what is optimal.
        weight: a number or schedule that multiplies ``phi``.
    """

    phi: Callable[[Array], Array]
    of: str = "obs"
    discount: float | None = None
    weight: Schedule = 1.0
    invariant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not callable(self.phi) or self.of not in ("obs", "state"):
            raise ConfigError(
                f"PotentialBased: expected a function and of='obs' or 'state', got {self.phi!r}, {self.of!r}"
            )
        check_number("PotentialBased.weight", self.weight)

    def build(self, place: Place) -> Hook:
        """Settle the discount."""
        gamma = place.discount if self.discount is None else self.discount
        if gamma is None or (place.discount is not None and gamma != place.discount):
            raise ConfigError(
                f"PotentialBased.discount: expected the learner's own ({place.discount}), since any other changes what "
                f"is optimal; got {self.discount}"
            )
        return lambda seen, reward: reward + self._difference(seen, float(gamma))

    def _difference(self, seen: Seen, gamma: float) -> Array:
        now = self._potential(seen.obs, seen.state, seen.reward) * value_at(self.weight, seen.before)  # (E, N)
        then = self._potential(seen.next_obs, seen.next_state, seen.reward) * value_at(self.weight, seen.now)  # (E, N)
        difference: Array = np.where(seen.onward, gamma * then, 0.0) - np.where(seen.acting, now, 0.0)
        return difference

    def _potential(self, obs: Array, state: Array | None, like: Array) -> Array:
        if self.of == "obs":
            return _shaped_like("PotentialBased.phi", self.phi(obs), like)
        if state is None:
            raise ConfigError("PotentialBased(of='state'): the environment has no state; use of='obs'")
        values = _shaped_like("PotentialBased.phi", self.phi(state), like[:, 0])
        return np.repeat(values[:, None], like.shape[1], axis=1)


@dataclass(frozen=True)
class Function:
    """``r + w f(seen)``: a bonus of your own.

    Args:
        function: from :class:`Seen` to ``(E, N)``; only those who acted are paid.
        weight: a number or schedule.
    """

    function: Callable[[Seen], Array]
    weight: Schedule = 1.0
    invariant: ClassVar[bool] = False

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        bonus = _shaped_like("Function.function", self.function(seen), reward)
        return reward + value_at(self.weight, seen.now) * np.where(seen.acting, bonus, 0.0)


@dataclass(frozen=True)
class TeamSpirit:
    """``r_i <- (1 - w) r_i + w mean_j r_j``: from selfish to sharing everything (OpenAI Five, Berner et al. 2019).

    Args:
        weight: a number or schedule in [0, 1].
    """

    weight: Schedule = 1.0
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the weight."""
        check_number("TeamSpirit.weight", self.weight, 0, 1)

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        spirit = value_at(self.weight, seen.now)
        mixed: Array = (1 - spirit) * reward + spirit * reward.mean(axis=1, keepdims=True)
        return mixed


@dataclass(frozen=True)
class StepCost:
    """``r - w`` for whoever acted.

    Args:
        cost: a number or schedule.
    """

    cost: Schedule = 0.01
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the cost."""
        check_number("StepCost.cost", self.cost)

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        return reward - value_at(self.cost, seen.now) * seen.acting


@dataclass(frozen=True)
class Scale:
    """``w r``.

    Args:
        factor: a number or schedule.
    """

    factor: Schedule = 1.0
    invariant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Only positive factors keep what is better better."""
        check_number("Scale.factor", self.factor, 1e-12)

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        return reward * value_at(self.factor, seen.now)


@dataclass(frozen=True)
class Clip:
    """``min(max(r, low), high)``.

    Args:
        low: least reward.
        high: greatest reward.
    """

    low: float = -1.0
    high: float = 1.0
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the ends."""
        if not self.low < self.high:
            raise ConfigError(f"Clip: expected low below high, got {self.low!r} and {self.high!r}")

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        return reward.clip(self.low, self.high)


@dataclass(frozen=True)
class DifferenceReward:
    """``D_i = G(z) - G(z with i's default)``: what an agent's own doing changed for the team (Wolpert and Tumer 2002).

    ``G`` is the sum of the team's rewards so far; the world, or a model of it, has to say the other.

    Args:
        counterfactual: from :class:`Seen` to ``(E, N)``: the team's sum had agent ``i`` done its default instead.
    """

    counterfactual: Callable[[Seen], Array]
    invariant: ClassVar[bool] = False

    def build(self, place: Place) -> Hook:
        """Itself."""
        return self

    def __call__(self, seen: Seen, reward: Array) -> Array:
        """See the class."""
        without = _shaped_like("DifferenceReward.counterfactual", self.counterfactual(seen), reward)
        difference: Array = np.where(seen.acting, reward.sum(axis=1, keepdims=True) - without, 0.0)
        return difference


# --- hooks with memory ------------------------------------------------------------------------------------------------


class Moments:
    """Mean and variance of rows ``(M, D)`` so far, merged exactly (Chan et al. 1983)."""

    def __init__(self, width: int) -> None:
        """Of ``D`` columns, each as if of variance 1 before anything is known."""
        self.mean, self.variance, self.count = np.zeros(width), np.ones(width), 0

    def update(self, rows: Array) -> None:
        """Take in some rows."""
        if not len(rows):
            return
        count, total = len(rows), self.count + len(rows)
        shift = rows.mean(axis=0) - self.mean
        squares = self.variance * self.count + rows.var(axis=0) * count + shift**2 * (self.count * count / total)
        self.mean, self.variance, self.count = self.mean + shift * (count / total), squares / total, total

    @property
    def std(self) -> Array:
        """Standard deviation ``(D,)``, never 0."""
        return np.sqrt(self.variance + 1e-8)

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.mean, self.variance = np.array(state["mean"]), np.array(state["variance"])
        self.count = int(state["count"])


@dataclass(frozen=True)
class RunningNormalize:
    """``r / std(R)`` with ``R <- gamma R + r`` so far, clipped: rewards whose returns vary by about one.

    Args:
        discount: gamma of ``R``.
        clip: greatest absolute reward.
    """

    discount: float = 0.99
    clip: float = 10.0
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_number("RunningNormalize.discount", self.discount, 0, 1)
        check_number("RunningNormalize.clip", self.clip, 1e-12)

    def build(self, place: Place) -> Hook:
        """Returns of every copy and agent, and their variance."""
        return _RunningNormalize(self, place)


class _RunningNormalize:
    def __init__(self, config: RunningNormalize, place: Place) -> None:
        self.config = config
        self.returns = np.zeros((place.num_envs, place.team.num_agents))
        self.moments = Moments(1)

    def __call__(self, seen: Seen, reward: Array) -> Array:
        self.returns = self.returns * self.config.discount + reward  # (E, N)
        self.moments.update(self.returns[seen.acting][:, None])
        self.returns[seen.started] = 0.0
        scaled: Array = (reward / self.moments.std).clip(-self.config.clip, self.config.clip)
        return scaled

    def state_dict(self) -> dict[str, Any]:
        return {"returns": self.returns, "moments": self.moments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.returns = np.array(state["returns"])
        self.moments.load_state_dict(state["moments"])


def rows_of(obs: Array) -> Array:
    """Observations ``(E, N, *O)`` as float32 rows ``(E * N, D)``, images in [0, 1]."""
    rows: Array = obs.reshape(obs.shape[0] * obs.shape[1], -1).astype(np.float32)
    return rows / 255 if obs.dtype == np.uint8 else rows


@dataclass(frozen=True)
class CountBonus:
    """``r + w / sqrt(n(h(s')))``: rarely visited successors pay more; ``h`` is a hash (Tang et al. 2017).

    Args:
        weight: a number or schedule.
        bits: the table has ``2 ** bits`` places.
        cell: observations are told apart to this precision; None: by the signs of ``bits`` random projections, so that
            similar observations share a count.
    """

    weight: Schedule = 0.1
    bits: int = 16
    cell: float | None = None
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_number("CountBonus.weight", self.weight)
        check_number("CountBonus.bits", self.bits, 1, 24)
        if self.cell is not None:
            check_number("CountBonus.cell", self.cell, 1e-12)

    def build(self, place: Place) -> Hook:
        """An empty table that the team shares."""
        return _CountBonus(self, place)


class _CountBonus:
    def __init__(self, config: CountBonus, place: Place) -> None:
        self.config = config
        random = np.random.default_rng(place.seed)
        width = math.prod(place.team.obs.shape)
        self.projections = random.standard_normal((width, config.bits)).astype(np.float32)
        self.odd = random.integers(0, 2**63, size=width, dtype=np.uint64) | np.uint64(1)
        self.counts = np.zeros(2**config.bits, dtype=np.int64)

    def hash(self, obs: Array) -> Array:
        """Where observations ``(E, N, *O)`` are counted, ``(E, N)``."""
        rows = rows_of(obs)  # (E * N, D)
        if self.config.cell is None:
            places = (rows @ self.projections > 0) @ (1 << np.arange(self.config.bits))
        else:
            cells = np.round(rows / self.config.cell).astype(np.int64).view(np.uint64)
            # Multiply and shift: sums modulo 2^64 of odd multiples, of which the high bits are well mixed.
            places = (cells * self.odd).sum(axis=1) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - self.config.bits)
        return places.astype(np.int64).reshape(obs.shape[:2])

    def __call__(self, seen: Seen, reward: Array) -> Array:
        places = self.hash(seen.next_obs)  # (E, N)
        np.add.at(self.counts, places[seen.acting], 1)
        bonus = np.where(seen.acting, 1 / np.sqrt(np.maximum(self.counts[places], 1)), 0.0)
        paid: Array = reward + value_at(self.config.weight, seen.now) * bonus
        return paid

    def state_dict(self) -> dict[str, Any]:
        places = np.flatnonzero(self.counts)
        return {"places": places, "counts": self.counts[places]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.counts[:] = 0
        self.counts[np.asarray(state["places"])] = np.asarray(state["counts"])


@dataclass(frozen=True)
class RND:
    """``r + w |f(s') - g(s')|^2 / std``: a trained ``f`` errs about a random ``g`` where it is new (Burda et al. 2018).

    Args:
        weight: a number or schedule.
        width: of the hidden layer and of the output.
        lr: step size of Adam; one step per environment step, on what was just seen.
    """

    weight: Schedule = 0.1
    width: int = 64
    lr: float = 1e-3
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_number("RND.weight", self.weight)
        check_number("RND.width", self.width, 1)
        check_number("RND.lr", self.lr, 1e-12)

    def build(self, place: Place) -> Hook:
        """Both networks, which the team shares."""
        return _RND(self, place)


class _RND:
    def __init__(self, config: RND, place: Place) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(int(place.seed.generate_state(1, np.uint64)[0] >> 1))
        width = math.prod(place.team.obs.shape)
        sizes = [(width, config.width), (config.width, config.width)]
        self.target = [orthogonal(size, math.sqrt(2), generator) for size in sizes]
        self.predictor = [orthogonal(size, math.sqrt(2), generator).requires_grad_() for size in sizes]
        self.adam = torch.optim.Adam(self.predictor, lr=config.lr)
        self.seen, self.errors = Moments(width), Moments(1)

    def __call__(self, seen: Seen, reward: Array) -> Array:
        rows = rows_of(seen.next_obs)[seen.acting.reshape(-1)]  # (M, D)
        bonus = np.zeros(reward.shape)
        if len(rows):
            self.seen.update(rows)
            x = torch.from_numpy(((rows - self.seen.mean) / self.seen.std).clip(-5, 5).astype(np.float32))
            error = (self._net(self.predictor, x) - self._net(self.target, x)).square().mean(-1)  # (M,)
            self.adam.zero_grad()
            error.mean().backward()  # type: ignore[no-untyped-call]
            self.adam.step()
            errors = error.detach().double().numpy()
            self.errors.update(errors[:, None])
            bonus[seen.acting] = errors / self.errors.std
        return reward + value_at(self.config.weight, seen.now) * bonus

    @staticmethod
    def _net(weights: Sequence[Tensor], x: Tensor) -> Tensor:
        return functional.elu(x @ weights[0]) @ weights[1]

    def state_dict(self) -> dict[str, Any]:
        moments = [{name: value.clone() for name, value in self.adam.state[w].items()} for w in self.predictor]
        return {
            "predictor": [weight.detach().clone() for weight in self.predictor],
            "adam": moments,
            "seen": self.seen.state_dict(),
            "errors": self.errors.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for weight, saved, moments in zip(self.predictor, state["predictor"], state["adam"], strict=True):
                weight.copy_(saved)
                if moments:
                    self.adam.state[weight] = {name: value.clone() for name, value in moments.items()}
        self.seen.load_state_dict(state["seen"])
        self.errors.load_state_dict(state["errors"])


@dataclass(frozen=True)
class EpisodicNovelty:
    """``r + w b``, where ``b`` is great far from everything the agent has seen in this episode (Badia et al. 2020).

    The kernel over nearest neighbours is :func:`marl.ops.episodic_memory_intrinsic_rewards`; what is remembered is a
    random projection of the observation.

    Args:
        weight: a number or schedule.
        neighbours: how many count.
        memory: observations that are remembered, the last ones of an episode.
        width: of the projection.
    """

    weight: Schedule = 0.1
    neighbours: int = 10
    memory: int = 100
    width: int = 16
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_number("EpisodicNovelty.weight", self.weight)
        check_number("EpisodicNovelty.neighbours", self.neighbours, 1)
        check_number("EpisodicNovelty.memory", self.memory, self.neighbours)
        check_number("EpisodicNovelty.width", self.width, 1)

    def build(self, place: Place) -> Hook:
        """A memory of every agent of every copy."""
        return _EpisodicNovelty(self, place)


class _EpisodicNovelty:
    def __init__(self, config: EpisodicNovelty, place: Place) -> None:
        self.config = config
        width, rows = math.prod(place.team.obs.shape), place.num_envs * place.team.num_agents
        random = np.random.default_rng(place.seed)
        scale = 1 / math.sqrt(width)
        self.projection = (random.standard_normal((width, config.width)) * scale).astype(np.float32)
        self.num_agents = place.team.num_agents
        self.memory = torch.zeros(rows, config.memory, config.width, dtype=torch.float32)  # (R, M, D)
        self.written = torch.zeros(rows, dtype=torch.int64)
        self.distance_sum = torch.zeros(rows, dtype=torch.float32)
        self.distance_count = torch.zeros_like(self.distance_sum)
        self._forget(torch.ones(rows, dtype=torch.bool))

    def _forget(self, rows: Tensor) -> None:
        """An episode begins: empty memories of neighbours at the origin."""
        self.memory[rows] = torch.inf
        self.memory[rows, : self.config.neighbours] = 0
        for kept in (self.written, self.distance_sum, self.distance_count):
            kept[rows] = 0

    def __call__(self, seen: Seen, reward: Array) -> Array:
        embedded = torch.from_numpy(rows_of(seen.next_obs) @ self.projection)  # (R, D)

        def one(x: Tensor, memory: Tensor, written: Tensor, total: Tensor, count: Tensor) -> tuple[Tensor, ...]:
            before = IntrinsicRewardState(memory, written, total, count)  # type: ignore[arg-type]
            bonus, after = episodic_memory_intrinsic_rewards(x[None], self.config.neighbours, 1.0, before)
            return bonus[0], *after  # type: ignore[return-value]

        kept = (self.memory, self.written, self.distance_sum, self.distance_count)
        bonus, *after = torch.func.vmap(one)(embedded, *kept)
        acting = torch.from_numpy(seen.acting.reshape(-1))
        for old, new in zip(kept, after, strict=True):
            old[acting] = new[acting]
        self._forget(torch.from_numpy(np.repeat(seen.started, self.num_agents)))
        paid = np.where(seen.acting, bonus.numpy().reshape(reward.shape), 0.0)
        return reward + value_at(self.config.weight, seen.now) * paid

    def state_dict(self) -> dict[str, Any]:
        names = ("memory", "written", "distance_sum", "distance_count")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)


# --- all teams --------------------------------------------------------------------------------------------------------

Hooks = Sequence[Shaping] | Mapping[str, Sequence[Shaping]]


def checked(shaping: Hooks) -> Hooks:
    """The same, as tuples. Raises ConfigError for what is no hook."""
    lists = shaping if isinstance(shaping, Mapping) else {"": shaping}
    for team, hooks in lists.items():
        where = f"shaping of {team!r}" if team else "shaping"
        if isinstance(hooks, str) or not isinstance(hooks, Sequence):
            raise ConfigError(f"{where}: expected a list of hooks such as [marl.StepCost(0.01)], got {hooks!r}")
        for hook in hooks:
            if isinstance(hook, type) or not (hasattr(hook, "build") and hasattr(hook, "invariant")):
                raise ConfigError(f"{where}: expected hooks such as marl.StepCost(0.01), got {hook!r}")
    if isinstance(shaping, Mapping):
        return {team: tuple(hooks) for team, hooks in shaping.items()}
    return tuple(shaping)


def by_team(shaping: Hooks, spec: Spec, patterns: Sequence[str] | None) -> dict[str, tuple[Shaping, ...]]:
    """The hooks of each team that has any. Raises ConfigError for a team that there is not."""
    if not isinstance(shaping, Mapping):
        return {team.name: tuple(shaping) for team in spec.teams} if shaping else {}
    found = {}
    for key, hooks in shaping.items():
        found[team_named(key, spec, patterns, "shaping")] = tuple(hooks)
    return {name: hooks for name, hooks in found.items() if hooks}


def team_named(key: str, spec: Spec, patterns: Sequence[str] | None, what: str) -> str:
    """The team's name, from its name or its pattern. Raises ConfigError for a team that there is not."""
    names = [team.name for team in spec.teams]
    names_of = {**dict(zip(patterns or (), names, strict=False)), **{name: name for name in names}}
    if key not in names_of:
        raise ConfigError(unknown(what, key, names_of, "team"))
    return names_of[key]


def reads_state(shaping: Hooks) -> bool:
    """Whether a hook needs the environment's ``state()``; functions of one's own are shown it only if another does."""
    lists = shaping.values() if isinstance(shaping, Mapping) else (shaping,)
    return any(isinstance(hook, PotentialBased) and hook.of == "state" for hooks in lists for hook in hooks)


class Shaper:
    """The hooks of all teams, and the shaped returns of their episodes."""

    def __init__(
        self,
        shaping: Mapping[str, Sequence[Shaping]],
        spec: Spec,
        num_envs: int,
        seed: np.random.SeedSequence,
        discounts: Mapping[str, float | None],
    ) -> None:
        """``shaping`` and ``discounts`` by team name."""
        self.spec, self.configs = spec, dict(shaping)
        self.hooks: dict[str, list[Hook]] = {}
        for team, own in zip(spec.teams, seed.spawn(len(spec.teams)), strict=True):
            configs = shaping.get(team.name, ())
            places = [Place(team, num_envs, discounts[team.name], child) for child in own.spawn(len(configs))]
            if configs:
                self.hooks[team.name] = [hook.build(place) for hook, place in zip(configs, places, strict=True)]
        self.returns = {name: np.zeros(num_envs) for name in self.hooks}
        self.finished: dict[str, deque[float]] = {name: deque(maxlen=RECENT) for name in self.hooks}
        self._before: dict[str, tuple[Array, Array]] = {}
        self._state: Array | None = None
        self._said = False

    def announce(self) -> None:
        """Say once which hooks change what is optimal."""
        if self._said:
            return
        self._said = True
        for team, hooks in self.configs.items():
            names = ", ".join(type(hook).__name__ for hook in hooks if not hook.invariant)
            if names:
                logging.getLogger("marl.shaping").warning(
                    "shaping of %s: %s may change what is optimal; raw returns are what is reported", team, names
                )

    def look(self, step: Step) -> None:
        """Keep what is about to be acted on: the environment will overwrite it."""
        self._state = None if step.state is None else step.state.copy()
        for team, seen in zip(self.spec.teams, step.teams, strict=True):
            if team.name in self.hooks:
                self._before[team.name] = seen.obs.copy(), seen.alive.copy()

    def __call__(self, step: Step, actions: Sequence[Array], before: Clock, now: Clock) -> list[Array | None]:
        """The rewards that each team learns from, ``(E, N)``; None for the raw ones."""
        rewards: list[Array | None] = []
        for team, own, action in zip(self.spec.teams, step.teams, actions, strict=True):
            if team.name not in self.hooks:
                rewards.append(None)
                continue
            obs, acting = self._before[team.name]
            # Alive in a copy that has just started again means alive in the next episode.
            onward = (own.alive & ~own.terminated & ~step.started[:, None]) | own.truncated
            seen = Seen(
                obs, own.next_obs, action, own.reward, own.terminated, own.truncated, acting, onward, step.started,
                self._state, step.next_state, before, now,
            )  # fmt: skip
            reward: Array = own.reward
            for hook in self.hooks[team.name]:
                reward = _shaped_like(type(hook).__name__, hook(seen, reward), own.reward)
            reward = np.array(reward, dtype=np.float32)  # a copy: the raw array belongs to the environment
            rewards.append(reward)
            returns = self.returns[team.name]
            returns += reward.sum(axis=1)
            if step.started.any():
                self.finished[team.name].extend(returns[step.started & ~step.discarded].tolist())
                returns[step.started] = 0.0
        return rewards

    def metrics(self) -> dict[str, float]:
        """The mean shaped return of the last episodes, summed over the team's agents as ``mean_return`` is."""
        prefix = "" if len(self.spec.teams) == 1 else "{}/"
        return {
            f"{prefix.format(name)}shaped_return": sum(recent) / len(recent)
            for name, recent in self.finished.items()
            if recent
        }

    def state_dict(self) -> dict[str, Any]:
        """Memories of hooks and returns so far, by team."""
        return {
            name: {
                "returns": self.returns[name].copy(),
                "finished": list(self.finished[name]),
                "hooks": [hook.state_dict() if isinstance(hook, Remembers) else {} for hook in hooks],
            }
            for name, hooks in self.hooks.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, hooks in self.hooks.items():
            saved = state[name]
            self.returns[name][:] = saved["returns"]
            self.finished[name] = deque(saved["finished"], maxlen=RECENT)
            for hook, own in zip(hooks, saved["hooks"], strict=True):
                if isinstance(hook, Remembers):
                    hook.load_state_dict(own)
