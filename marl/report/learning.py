"""What learning sees of an episode and the agents do not: what critics expect, and what shaping adds to rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from marl.learners import Learner
from marl.learners.base import Judges
from marl.schedules import Clock
from marl.shaping.hook import Stateful
from marl.shaping.shaper import Shaper
from marl.types import Array, Episode, Spec, Step


class ByCopy:
    """Rows of the running episode of every copy, and those of the one that has ended there."""

    def __init__(self, num_envs: int) -> None:
        """There are none yet."""
        self._running: list[list[Mapping[str, Array]]] = [[] for _ in range(num_envs)]
        self._ended: dict[int, list[Mapping[str, Array]]] = {}

    def add(self, rows: Mapping[str, Array], started: Array) -> None:
        """Rows ``(E, ...)`` by name, of the step that has just been taken."""
        for e, running in enumerate(self._running):
            running.append({name: row[e] for name, row in rows.items()})
            if started[e]:
                self._ended[e], self._running[e] = running, []

    def of(self, episode: Episode) -> dict[str, Array]:
        """Of an episode that has just ended, ``(T, ...)`` by name."""
        rows = self._ended.pop(episode.copy)
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class Expected:
    """Watches steps: the return that each critic expects of a step and the actions taken in it.

    A critic's value is discounted, and of shaped rewards where these are shaped. Learners whose critics do not say give
    none.
    """

    def __init__(self, spec: Spec, learners: Sequence[Learner | None], num_envs: int) -> None:
        """``learners``: one for each team, None where somebody else plays; nothing of them changes."""
        self._spec, self._rows = spec, ByCopy(num_envs)
        self._learners = [learner if isinstance(learner, Judges) else None for learner in learners]
        self._carries: list[Tensor | None] = [None] * len(learners)
        self._now: dict[str, Array] = {}

    def acted(self, step: Step, actions: Sequence[Array]) -> None:
        """Ask the critics."""
        for place, (team, learner) in enumerate(zip(self._spec.teams, self._learners, strict=True)):
            if learner is not None:
                values, self._carries[place] = learner.expected(step, place, actions[place], self._carries[place])
                self._now |= {name: values[:, n].copy() for n, name in enumerate(team.agents)}

    def stepped(self, step: Step) -> None:
        """Keep what they said."""
        self._rows.add(self._now, step.started)

    def of(self, episode: Episode) -> dict[str, Array]:
        """Of an episode that has just ended: ``(T,)`` by agent."""
        return self._rows.of(episode)


class Shaped:
    """Watches steps: what the hooks of training add to each reward, by agent. Raw rewards stay what is reported.

    Hooks that remember what was seen in training (novelty, normalization) are of its copies alone: teams with such give
    none.
    """

    def __init__(self, spec: Spec, shaper: Shaper | None, num_envs: int, clock: Clock) -> None:
        """``shaper``: of training, which does not change; None: there is none. ``clock``: of schedules."""
        self._spec, self._clock, self._rows = spec, clock, ByCopy(num_envs)
        self._shaper: Shaper | None = None
        if shaper is not None:
            kept = {
                name: shaper.configs[name]
                for name, hooks in shaper.hooks.items()
                if not any(isinstance(hook, Stateful) for hook in hooks)
            }
            self._shaper = Shaper(kept, spec, num_envs, np.random.SeedSequence(0), shaper.discounts)
        self._actions: Sequence[Array] = ()

    def acted(self, step: Step, actions: Sequence[Array]) -> None:
        """Copy the step."""
        if self._shaper is not None:
            self._shaper.remember(step)
            self._actions = [action.copy() for action in actions]

    def stepped(self, step: Step) -> None:
        """Keep what the hooks add."""
        found: dict[str, Array] = {}
        if self._shaper is not None:
            rewards = self._shaper(step, self._actions, self._clock, self._clock)
            for team, own, reward in zip(self._spec.teams, step.teams, rewards, strict=True):
                if reward is not None:
                    found |= {name: reward[:, n] - own.reward[:, n] for n, name in enumerate(team.agents)}
        self._rows.add(found, step.started)

    def of(self, episode: Episode) -> dict[str, Array]:
        """Of an episode that has just ended: ``(T,)`` by agent."""
        return self._rows.of(episode)
