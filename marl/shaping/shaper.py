"""The hooks of all teams in a training run, and the shaped returns of their episodes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from marl.schedules import Clock
from marl.shaping.hook import (
    Hook,
    HookContext,
    Needs,
    Shaping,
    Stateful,
    TeamTransition,
    check_needs,
    needs_of,
    shaped_like,
)
from marl.teams import team_named
from marl.types import Array, ConfigError, Spec, Step

RECENT = 100  # episodes that the logged shaped return is the mean of


@runtime_checkable
class HasDiscount(Protocol):
    """A learner's settings with a discount."""

    @property
    def discount(self) -> float:
        """Gamma."""
        ...


Hooks = Sequence[Shaping] | Mapping[str, Sequence[Shaping]]


def checked_hooks(shaping: Hooks) -> Hooks:
    """The hooks as tuples. Raises ConfigError for anything but hooks."""
    lists = shaping if isinstance(shaping, Mapping) else {"": shaping}
    for team, hooks in lists.items():
        where = f"shaping of {team!r}" if team else "shaping"
        if isinstance(hooks, str) or not isinstance(hooks, Sequence):
            raise ConfigError(f"{where}: expected a list of hooks such as [marl.shaping.StepCost(0.01)], got {hooks!r}")
        for hook in hooks:
            if isinstance(hook, type) or not (hasattr(hook, "build") and hasattr(hook, "invariant")):
                raise ConfigError(f"{where}: expected hooks such as marl.shaping.StepCost(0.01), got {hook!r}")
            if isinstance(hook, Needs):
                check_needs(type(hook).__name__, hook.needs)
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


def reads_state(shaping: Hooks) -> bool:
    """Whether a hook needs the environment's ``state()``."""
    lists = shaping.values() if isinstance(shaping, Mapping) else (shaping,)
    return any("state" in needs_of(hooks) for hooks in lists)


def infos_of(step: Step) -> dict[str, Array]:
    """What the environment reported of episodes that ended in this step: ``(E,)`` by name, NaN in all other copies."""
    found: dict[str, Array] = {}
    for episode in step.finished:
        for name, value in episode.info.items():
            found.setdefault(name, np.full(len(step.started), np.nan))[episode.copy] = value
    return found


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
        self.spec, self.configs, self.discounts = spec, dict(shaping), dict(discounts)
        self.hooks: dict[str, list[Hook]] = {}
        self.needs: dict[str, frozenset[str]] = {}
        for team, own in zip(spec.teams, seed.spawn(len(spec.teams)), strict=True):
            configs = shaping.get(team.name, ())
            self.needs[team.name] = needs_of(configs)
            if "state" in self.needs[team.name] and spec.state_shape is None:
                (name, *_) = (type(hook).__name__ for hook in configs if "state" in needs_of([hook]))
                raise ConfigError(f"shaping of {team.name!r}: {name} needs a state(), and {spec.env} has none")
            contexts = [HookContext(team, num_envs, discounts[team.name], child) for child in own.spawn(len(configs))]
            if configs:
                self.hooks[team.name] = [hook.build(context) for hook, context in zip(configs, contexts, strict=True)]
        self.returns = {name: np.zeros(num_envs) for name in self.hooks}
        self.finished: dict[str, deque[float]] = {name: deque(maxlen=RECENT) for name in self.hooks}
        self._before: dict[str, tuple[Array, Array]] = {}
        self._state: Array | None = None
        self._said = False

    def announce(self) -> None:
        """Log once which hooks may change the optimal policies."""
        if self._said:
            return
        self._said = True
        for team, hooks in self.configs.items():
            names = ", ".join(type(hook).__name__ for hook in hooks if not hook.invariant)
            if names:
                logging.getLogger("marl.shaping").warning(
                    "shaping of %s: %s may change what is optimal; raw returns are what is reported", team, names
                )

    def remember(self, step: Step) -> None:
        """Copy the observations to act on, before the environment overwrites them."""
        self._state = None if step.state is None else step.state.copy()
        for team, seen in zip(self.spec.teams, step.teams, strict=True):
            if team.name in self.hooks:
                self._before[team.name] = seen.obs.copy(), seen.acting.copy()

    def __call__(self, step: Step, actions: Sequence[Array], before: Clock, now: Clock) -> list[Array | None]:
        """The rewards that each team learns from, ``(E, N)``; None for the raw ones."""
        rewards: list[Array | None] = []
        for team, own, action in zip(self.spec.teams, step.teams, actions, strict=True):
            if team.name not in self.hooks:
                rewards.append(None)
                continue
            obs, acting = self._before[team.name]
            # Alive in a copy that has just started again means alive in the next episode.
            has_future = (own.acting & ~own.terminated & ~step.started[:, None]) | own.truncated
            needs = self.needs[team.name]
            transition = TeamTransition(
                obs, own.next_obs, action, own.reward, own.terminated, own.truncated, acting, has_future, step.started,
                self._state, step.next_state, before, now, actions=tuple(actions) if "actions" in needs else None,
                infos=infos_of(step) if "infos" in needs else None,
            )  # fmt: skip
            reward: Array = own.reward
            for hook in self.hooks[team.name]:
                reward = shaped_like(type(hook).__name__, hook(transition, reward), own.reward)
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
                "hooks": [hook.state_dict() if isinstance(hook, Stateful) else {} for hook in hooks],
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
                if isinstance(hook, Stateful):
                    hook.load_state_dict(own)
