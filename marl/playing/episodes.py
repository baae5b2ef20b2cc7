"""The episode loop in which frozen policies play, and recording of its episodes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from marl.curriculum.evaluation_tasks import EvaluationTasks
from marl.playing.actor import Actor
from marl.types import Array, BatchEnv, ConfigError, Episode, Spec, Step

EVALUATION = 0xE7A1  # evaluation seeds are spawned from (seed, EVALUATION): never the training seeds
LONG_EPISODE, ENDLESS_EPISODE = 10_000, 100_000  # steps after which the loop says that it waits, and waits no more


class StepWatcher(Protocol):
    """Called in every step, before the environment overwrites its arrays and after."""

    def acted(self, step: Step, actions: Sequence[Array]) -> None:
        """Before the environment steps: the step acted on, and the joint action."""
        ...

    def stepped(self, step: Step) -> None:
        """After the environment has stepped."""
        ...


def evaluation_seeds(seed: int) -> tuple[int, int, int]:
    """The seeds of an evaluation's environments, of its actions and of its tasks; training never uses them."""
    first, second, third = np.random.SeedSequence([seed, EVALUATION]).generate_state(3, np.uint32).tolist()
    return first, second, third


def play_episodes(
    env: BatchEnv,
    actor: Actor,
    episodes: int,
    seed: int,
    target: EvaluationTasks | None = None,
    watchers: Sequence[StepWatcher] = (),
) -> Iterator[Episode]:
    """Play until every copy has given its fixed share of the episodes, so that short ones are not preferred.

    Args:
        env: copies that play side by side.
        actor: what gives everybody's actions.
        episodes: how many are yielded, in the order in which they end.
        seed: of the environment.
        target: the tasks to play; None: whatever the environment does by itself.
        watchers: what looks on; an episode's last step has been shown to them when it is yielded.

    Raises:
        ConfigError: if an episode has not ended after ``ENDLESS_EPISODE`` steps.
    """
    share = np.full(env.num_envs, episodes // env.num_envs)
    share[: episodes % env.num_envs] += 1
    step = env.reset(seed, None if target is None else target.first())
    if target is not None:
        target.renew(range(env.num_envs))
    length = np.zeros(env.num_envs, dtype=np.int64)
    while share.any():
        actions = actor.act(step)
        for watcher in watchers:
            watcher.acted(step, actions)
        step = env.step(actions)
        for watcher in watchers:
            watcher.stepped(step)
        length += 1
        length[step.started] = 0
        _check_length(env.spec.env, int(length.max()))
        if target is not None:
            target.renew([episode.copy for episode in step.finished])
        for episode in step.finished:
            if share[episode.copy]:
                share[episode.copy] -= 1
                yield episode


def _check_length(env: str, length: int) -> None:
    """Warn about an episode that may never end, and raise ConfigError where it is certain."""
    if length == LONG_EPISODE:
        logging.getLogger("marl.playing").warning(
            "evaluation: an episode of %s has not ended after %s steps; if none ends by itself, max_steps= cuts them",
            *(env, f"{length:,}"),
        )
    elif length == ENDLESS_EPISODE:
        raise ConfigError(
            f"evaluation: an episode of {env} has not ended after {length:,} steps; give max_steps= to cut episodes"
        )


@dataclass(frozen=True)
class EpisodeRecord:
    """One whole episode of ``T`` steps, as ``evaluate(metrics=...)`` shows it to functions. All arrays are copies.

    Args:
        episode: raw returns, length, and what the environment reported as it ended (``episode.info``).
        observations: by agent, ``(T + 1, *O)``: what each step was acted on, and the true successor of the last one;
            zeros for an agent that is dead, and for the places by which other agents of its team see more.
        actions: by agent, ``(T,)`` or ``(T, A)``, as the environment got them.
        rewards: by agent, ``(T,)``, unshaped.
        acting: by agent, ``(T,)`` bool: who was alive and had the move.
        states: the global state, ``(T + 1, S)``; None where there is none.
        infos: by agent, ``T`` mappings: what the environment said of it in each step; empty where it said nothing. Of
            native worlds there is what they report as the episode ends, ``episode.info``, alone.
    """

    episode: Episode
    observations: Mapping[str, Array]
    actions: Mapping[str, Array]
    rewards: Mapping[str, Array]
    acting: Mapping[str, Array]
    states: Array | None
    infos: Mapping[str, tuple[Mapping[str, Any], ...]]


Row = tuple[tuple[Array, ...], tuple[Array, ...], tuple[Array, ...], tuple[Array, ...], Array | None, Mapping[str, Any]]


class Recorder:
    """Keeps the running episode of every copy; :meth:`of` gives the one that has just ended there."""

    def __init__(self, spec: Spec, num_envs: int) -> None:
        """Nothing is known yet."""
        self.spec = spec
        self._rows: list[list[Row]] = [[] for _ in range(num_envs)]
        self._ended: dict[int, tuple[list[Row], tuple[Array, ...], Array | None]] = {}

    def acted(self, step: Step, actions: Sequence[Array]) -> None:
        """Copy the step and the joint action."""
        self._seen = [team.obs.copy() for team in step.teams]
        self._acting = [team.acting.copy() for team in step.teams]
        self._actions = [action.copy() for action in actions]
        self._state = None if step.state is None else step.state.copy()

    def stepped(self, step: Step) -> None:
        """Copy the rewards and the true successors."""
        rewards = [team.reward.copy() for team in step.teams]
        for e, rows in enumerate(self._rows):
            columns = (self._seen, self._actions, rewards, self._acting)
            seen, actions, paid, acting = (tuple(array[e] for array in arrays) for arrays in columns)
            infos = {} if step.infos is None else step.infos[e]
            rows.append((seen, actions, paid, acting, None if self._state is None else self._state[e], infos))
            if step.started[e]:
                last = tuple(team.next_obs[e].copy() for team in step.teams)
                state = None if step.next_state is None else step.next_state[e].copy()
                self._ended[e] = rows, last, state
                self._rows[e] = []

    def of(self, episode: Episode) -> EpisodeRecord:
        """The record of an episode that ended in the newest step."""
        rows, last, state = self._ended[episode.copy]
        observations, actions, rewards, acting = {}, {}, {}, {}
        for place, team in enumerate(self.spec.teams):
            for n, name in enumerate(team.agents):
                observations[name] = np.stack([*(row[0][place][n] for row in rows), last[place][n]])
                actions[name] = np.stack([row[1][place][n] for row in rows])
                rewards[name] = np.stack([row[2][place][n] for row in rows])
                acting[name] = np.stack([row[3][place][n] for row in rows])
        states = [*(row[4] for row in rows), state]
        known = [one for one in states if one is not None]
        whole = np.stack(known) if len(known) == len(states) else None
        infos = {name: tuple(row[5].get(name, {}) for row in rows) for name in self.spec.agents}
        return EpisodeRecord(episode, observations, actions, rewards, acting, whole, infos)
