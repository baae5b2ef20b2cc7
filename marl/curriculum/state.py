"""The curricula of a training run: the tasks of every copy's present and next episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from marl.adapters.tasks import TaskRange
from marl.curriculum.rules import TaskOutcome, outcome_of
from marl.curriculum.scheduler import Curriculum, KnowsTasks, Scheduler
from marl.curriculum.tasks import Task, check_task, ranges_of, with_tasks
from marl.schedules import Clock
from marl.types import Array, BatchEnv, ConfigError, Episode

Curricula = Curriculum | Mapping[str, Curriculum]


def checked_curricula(curriculum: Curricula, steps: int | None) -> Curricula:
    """The curricula. Raises ConfigError for anything else, or for one that cannot finish in so many steps."""
    for one in curriculum.values() if isinstance(curriculum, Mapping) else (curriculum,):
        if isinstance(one, type) or not (hasattr(one, "build") and hasattr(one, "target") and hasattr(one, "check")):
            raise ConfigError(f"curriculum: expected one such as marl.curriculum.Stages([...]), got {one!r}")
        one.check(steps)
    return curriculum


def task_ranges(curriculum: Curricula | None) -> dict[str, TaskRange]:
    """The values of tasks in training and evaluation, as far as curricula can list theirs."""
    tasks: list[Task] = []
    for one in curriculum.values() if isinstance(curriculum, Mapping) else [curriculum]:
        if one is not None and isinstance(one, KnowsTasks):
            tasks += [*one.tasks, one.target]
    return ranges_of(tasks)


class CurriculumState:
    """The curricula of a training run: what every copy plays now, and what it will play next."""

    def __init__(self, curricula: Mapping[str | None, Curriculum], env: BatchEnv, seed: np.random.SeedSequence) -> None:
        """``curricula`` by team name; None: of all teams together."""
        self.spec, self.num_envs, self.curricula = env.spec, env.num_envs, dict(curricula)
        space = with_tasks(env).task_space
        owners: dict[str, str | None] = {}
        self.schedulers: dict[str | None, Scheduler] = {}
        for (team, curriculum), own in zip(curricula.items(), seed.spawn(len(curricula)), strict=True):
            for name in curriculum.parameters:
                if name in owners:
                    raise ConfigError(
                        f"curriculum: task parameter {name!r} is chosen by {owners[name]!r} and by {team!r}: one only"
                    )
                owners[name] = team
            check_task("target", curriculum.target, space)
            self.schedulers[team] = curriculum.build(space, own)
        self.playing = {team: np.zeros(self.num_envs, dtype=np.int64) for team in self.schedulers}
        self.coming = {team: np.zeros(self.num_envs, dtype=np.int64) for team in self.schedulers}
        self.tasks = {name: np.zeros(self.num_envs) for name in sorted(owners)}
        self.next_tasks = {name: np.zeros(self.num_envs) for name in sorted(owners)}

    def first(self) -> dict[str, Any]:
        """Draw the first tasks: options for the reset."""
        clock = Clock(0)
        everywhere = np.arange(self.num_envs)
        self._draw(everywhere, clock)
        self._move(everywhere)
        return {"task": {name: values.copy() for name, values in self.tasks.items()}}

    def begin(self, env: BatchEnv, clock: Clock) -> None:
        """After the reset: choose the second episodes."""
        self._choose(np.arange(self.num_envs), env, clock)

    def take(self, episodes: Sequence[Episode], started: Array, env: BatchEnv, clock: Clock) -> None:
        """Learn from finished episodes, and choose the next ones of the copies that began one in this step."""
        if not started.any():
            return
        redraw = False
        for team, scheduler in self.schedulers.items():
            success = self.curricula[team].success
            outcomes = [
                TaskOutcome(int(self.playing[team][episode.copy]), outcome_of(episode, self.spec, team, success))
                for episode in episodes
                if not episode.info.get(f"absent/{team}")  # a league's: what others did there teaches nothing
            ]
            redraw |= scheduler.learn(outcomes, clock)
        begun = np.flatnonzero(started)
        self._move(begun)
        self._choose(np.arange(self.num_envs) if redraw else begun, env, clock)

    def _move(self, copies: Array) -> None:
        """Make the next tasks the current ones."""
        for team in self.schedulers:
            self.playing[team][copies] = self.coming[team][copies]
        for name, values in self.tasks.items():
            values[copies] = self.next_tasks[name][copies]

    def _draw(self, copies: Array, clock: Clock) -> None:
        for team, scheduler in self.schedulers.items():
            chosen, tasks = scheduler.draw(len(copies), clock)
            self.coming[team][copies] = chosen
            for name, values in tasks.items():
                self.next_tasks[name][copies] = values

    def _choose(self, copies: Array, env: BatchEnv, clock: Clock) -> None:
        self._draw(copies, clock)
        with_tasks(env).set_tasks({name: values[copies] for name, values in self.next_tasks.items()}, copies.tolist())

    def metrics(self) -> dict[str, float]:
        """Stages and the like, and the mean of every parameter over what the copies play now."""
        found: dict[str, float] = {}
        for team, scheduler in self.schedulers.items():
            prefix = "curriculum/" if team is None else f"{team}/curriculum/"
            found |= {prefix + name: value for name, value in scheduler.metrics().items()}
        return found | {f"curriculum/task/{name}": float(values.mean()) for name, values in self.tasks.items()}

    def state_dict(self) -> dict[str, Any]:
        """Current tasks, next tasks, and every scheduler."""
        return {
            "tasks": {name: values.copy() for name, values in self.tasks.items()},
            "next_tasks": {name: values.copy() for name, values in self.next_tasks.items()},
            "schedulers": {
                team or "": {
                    "playing": self.playing[team].copy(),
                    "coming": self.coming[team].copy(),
                    "state": scheduler.state_dict(),
                }
                for team, scheduler in self.schedulers.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        for name, values in self.tasks.items():
            values[:] = state["tasks"][name]
            self.next_tasks[name][:] = state["next_tasks"][name]
        for team, scheduler in self.schedulers.items():
            saved = state["schedulers"][team or ""]
            self.playing[team][:], self.coming[team][:] = saved["playing"], saved["coming"]
            scheduler.load_state_dict(saved["state"])
