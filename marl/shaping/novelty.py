"""Novelty bonuses: counts, random network distillation, episodic novelty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from marl.nets.stacked import orthogonal
from marl.ops import IntrinsicRewardState, episodic_memory_intrinsic_rewards
from marl.renamed import old_fields
from marl.schedules import Schedule, value_at
from marl.shaping.hook import Hook, HookContext, TeamTransition, check_number
from marl.shaping.rows import Moments, rows_of
from marl.types import Array


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

    def build(self, context: HookContext) -> Hook:
        """An empty table that the team shares."""
        return _CountBonus(self, context)


class _CountBonus:
    def __init__(self, config: CountBonus, context: HookContext) -> None:
        self.config = config
        random = np.random.default_rng(context.seed)
        width = math.prod(context.team.obs.shape)
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

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        places = self.hash(transition.next_obs)  # (E, N)
        np.add.at(self.counts, places[transition.acting], 1)
        bonus = np.where(transition.acting, 1 / np.sqrt(np.maximum(self.counts[places], 1)), 0.0)
        paid: Array = reward + value_at(self.config.weight, transition.now) * bonus
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

    def build(self, context: HookContext) -> Hook:
        """Both networks, which the team shares."""
        return _RND(self, context)


class _RND:
    def __init__(self, config: RND, context: HookContext) -> None:
        self.config = config
        generator = torch.Generator().manual_seed(int(context.seed.generate_state(1, np.uint64)[0] >> 1))
        width = math.prod(context.team.obs.shape)
        sizes = [(width, config.width), (config.width, config.width)]
        self.target = [orthogonal(size, math.sqrt(2), generator) for size in sizes]
        self.predictor = [orthogonal(size, math.sqrt(2), generator).requires_grad_() for size in sizes]
        self.adam = torch.optim.Adam(self.predictor, lr=config.lr)
        self.seen, self.errors = Moments(width), Moments(1)

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        rows = rows_of(transition.next_obs)[transition.acting.reshape(-1)]  # (M, D)
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
            bonus[transition.acting] = errors / self.errors.std
        return reward + value_at(self.config.weight, transition.now) * bonus

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


@old_fields(neighbours="neighbors")
@dataclass(frozen=True)
class EpisodicNovelty:
    """``r + w b``, where ``b`` is great far from everything the agent has seen in this episode (Badia et al. 2020).

    The kernel over nearest neighbors is :func:`marl.ops.episodic_memory_intrinsic_rewards`; what is remembered is a
    random projection of the observation.

    Args:
        weight: a number or schedule.
        neighbors: how many count.
        memory: observations that are remembered, the last ones of an episode.
        width: of the projection.
    """

    weight: Schedule = 0.1
    neighbors: int = 10
    memory: int = 100
    width: int = 16
    invariant: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_number("EpisodicNovelty.weight", self.weight)
        check_number("EpisodicNovelty.neighbors", self.neighbors, 1)
        check_number("EpisodicNovelty.memory", self.memory, self.neighbors)
        check_number("EpisodicNovelty.width", self.width, 1)

    def build(self, context: HookContext) -> Hook:
        """A memory of every agent of every copy."""
        return _EpisodicNovelty(self, context)


class _EpisodicNovelty:
    def __init__(self, config: EpisodicNovelty, context: HookContext) -> None:
        self.config = config
        width, rows = math.prod(context.team.obs.shape), context.num_envs * context.team.num_agents
        random = np.random.default_rng(context.seed)
        scale = 1 / math.sqrt(width)
        self.projection = (random.standard_normal((width, config.width)) * scale).astype(np.float32)
        self.num_agents = context.team.num_agents
        self.memory = torch.zeros(rows, config.memory, config.width, dtype=torch.float32)  # (R, M, D)
        self.written = torch.zeros(rows, dtype=torch.int64)
        self.distance_sum = torch.zeros(rows, dtype=torch.float32)
        self.distance_count = torch.zeros_like(self.distance_sum)
        self._forget(torch.ones(rows, dtype=torch.bool))

    def _forget(self, rows: Tensor) -> None:
        """An episode begins: empty memories of neighbors at the origin."""
        self.memory[rows] = torch.inf
        self.memory[rows, : self.config.neighbors] = 0
        for kept in (self.written, self.distance_sum, self.distance_count):
            kept[rows] = 0

    def __call__(self, transition: TeamTransition, reward: Array) -> Array:
        embedded = torch.from_numpy(rows_of(transition.next_obs) @ self.projection)  # (R, D)

        def one(x: Tensor, memory: Tensor, written: Tensor, total: Tensor, count: Tensor) -> tuple[Tensor, ...]:
            before = IntrinsicRewardState(memory, written, total, count)  # type: ignore[arg-type]
            bonus, after = episodic_memory_intrinsic_rewards(x[None], self.config.neighbors, 1.0, before)
            return bonus[0], *after  # type: ignore[return-value]

        kept = (self.memory, self.written, self.distance_sum, self.distance_count)
        bonus, *after = torch.func.vmap(one)(embedded, *kept)
        acting = torch.from_numpy(transition.acting.reshape(-1))
        for old, new in zip(kept, after, strict=True):
            old[acting] = new[acting]
        self._forget(torch.from_numpy(np.repeat(transition.started, self.num_agents)))
        paid = np.where(transition.acting, bonus.numpy().reshape(reward.shape), 0.0)
        return reward + value_at(self.config.weight, transition.now) * paid

    def state_dict(self) -> dict[str, Any]:
        names = ("memory", "written", "distance_sum", "distance_count")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            getattr(self, name).copy_(value)
