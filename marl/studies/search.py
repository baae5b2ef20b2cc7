"""Search spaces: which settings may be what, and how the best of them is looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from marl import sources
from marl.config import check_whole, in_words, unknown
from marl.scenario import Scenario
from marl.studies.spaces import Dimension, IntUniform
from marl.studies.study import named_in, only
from marl.types import ConfigError

SAMPLERS = ("tpe", "random", "qmc", "gp")  # of Optuna
PRUNERS = ("halving", "hyperband", "median", "none")
EVALUATIONS = 9  # of a run, so that rungs of a third of each other fall on some
MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Search:
    """Which settings may be what, and how ``marl tune`` looks for the best of them.

    A trial is one choice of settings, trained once for each seed, one after the other. Its value is the mean over seeds
    of the last evaluation's return. The pruner ends trials whose evaluations are worse than others' at the same step,
    so that the seeds of a bad trial that come later are not trained at all.

    Args:
        space: what each setting may be, by the name that ``marl train --set`` knows it by.
        task: what is tuned, a scenario or whatever ``marl train`` takes; None: what the command line names, else the
            only scenario of the file that the search is in.
        algorithm: by another algorithm than the task's own.
        settings: ``KEY=VALUE`` for all trials and for the default that the best is compared with.
        trials: how many.
        seeds: of each trial, from 0 on.
        steps: environment steps of each run; None: the scenario's.
        sampler: what proposes settings: ``"tpe"``, ``"random"``, ``"qmc"`` or ``"gp"``, of Optuna.
        pruner: what ends bad trials: ``"halving"`` (asynchronous successive halving), ``"hyperband"``, ``"median"`` or
            ``"none"``.
        reduction: of halving and Hyperband: one of so many trials goes on from a rung to the next, which is so many
            times as far.
        evaluate_every: steps between evaluations, the first of which is the first rung; None: a ninth of a run.
        evaluate_episodes: episodes of each.
        evaluate_seed: of these evaluations, the same episodes for all trials.
        seed: of the sampler.
        final_seeds: how many training seeds the best and the default are compared with at the end; no trial had these.
            Five are too few to tell anything apart at 95 %.
        episodes: of each evaluation at the end, in episodes that no trial was evaluated in.
        threads: of each run.
        device: where runs compute.

    Raises:
        ConfigError: for an empty space, and names of nothing.
    """

    space: Mapping[str, Dimension]
    task: str | Scenario | None = field(default=None, kw_only=True)
    algorithm: str | None = field(default=None, kw_only=True)
    settings: Sequence[str] = field(default=(), kw_only=True)
    trials: int = field(default=30, kw_only=True)
    seeds: int = field(default=2, kw_only=True)
    steps: int | None = field(default=None, kw_only=True)
    sampler: str = field(default="tpe", kw_only=True)
    pruner: str = field(default="halving", kw_only=True)
    reduction: int = field(default=4, kw_only=True)
    evaluate_every: int | None = field(default=None, kw_only=True)
    evaluate_episodes: int = field(default=20, kw_only=True)
    evaluate_seed: int = field(default=0, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    final_seeds: int = field(default=6, kw_only=True)
    episodes: int = field(default=100, kw_only=True)
    threads: int = field(default=1, kw_only=True)
    device: str = field(default="cpu", kw_only=True)

    def __post_init__(self) -> None:
        """Check it."""
        if not isinstance(self.space, Mapping):
            raise ConfigError(f"search: space: expected settings by name, got {self.space!r:.80}")
        if not self.space:
            raise ConfigError("search: space: it is empty, so there is nothing to search")
        for key, dimension in self.space.items():
            if not isinstance(key, str) or not key:
                raise ConfigError(f"search: space: expected names of settings, got {key!r:.80}")
            if not isinstance(dimension, Dimension):
                raise ConfigError(
                    f"search: space[{key!r}]: expected marl.LogUniform, Uniform, IntUniform or Choice, "
                    f"got {dimension!r:.80}"
                )
        self._check_given()
        if isinstance(self.settings, str) or not all(isinstance(text, str) for text in self.settings):
            raise ConfigError(f"search: settings: expected a list of KEY=VALUE, got {self.settings!r:.80}")
        for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if getattr(self, name) not in known:
                raise ConfigError(unknown("search", str(getattr(self, name)), known, name))
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None or name not in ("steps", "evaluate_every"):
                check_whole(f"search: {name}", value, least)
        check_whole(f"search: trials, of which there may be {MOST_TRIALS:,}", MOST_TRIALS - self.trials, 0)

    def _check_given(self) -> None:
        """Raise ConfigError for conditions on nothing, and on what is itself conditional in a circle."""
        for key, dimension in self.space.items():
            for other, value in dimension.given.items():
                if other not in self.space or other == key:
                    known = [name for name in self.space if name != key]
                    raise ConfigError(unknown(f"search: space[{key!r}]: given", other, known, "setting of the space"))
                if in_words(value) not in self.space[other].ends():
                    raise ConfigError(
                        f"search: space[{key!r}]: given: {other} is never {in_words(value)} "
                        f"(it may be {', '.join(self.space[other].ends())})"
                    )
        self.ordered()

    def ordered(self) -> dict[str, Dimension]:
        """The space, each setting after those that it depends on. Raises ConfigError for a circle."""
        found: dict[str, Dimension] = {}
        while len(found) < len(self.space):
            ready = [key for key, one in self.space.items() if key not in found and set(one.given) <= set(found)]
            if not ready:
                circle = ", ".join(key for key in self.space if key not in found)
                raise ConfigError(f"search: space: given: each of these waits for another one: {circle}")
            found |= {key: self.space[key] for key in ready}
        return found

    def asked_for(self, key: str, chosen: Mapping[str, str]) -> bool:
        """Whether a setting is in the space where others, in words, have been chosen."""
        return all(chosen.get(other) == in_words(value) for other, value in self.space[key].given.items())

    def probes(self) -> list[tuple[str, ...]]:
        """Settings ``KEY=VALUE`` at the ends of the space, each of which has to make sense: one setting at a time."""
        found = []
        for key, dimension in self.space.items():
            for word in dimension.ends():
                found.append((*self._before(key), f"{key}={word}"))
        return found

    def _before(self, key: str) -> list[str]:
        """What has to be set for a setting to be in the space."""
        texts: list[str] = []
        for other, value in self.space[key].given.items():
            texts += [*self._before(other), f"{other}={in_words(value)}"]
        return texts

    def identity(self) -> dict[str, Any]:
        """What has to be the same for a search to be gone on with, as JSON."""
        free = ("space", "task", "trials", "final_seeds", "episodes")
        said: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in free}
        said["settings"] = list(self.settings)
        said["space"] = {key: _described(one) for key, one in self.space.items()}
        return said

    def __repr__(self) -> str:
        """What is searched, and how."""
        return f"<Search of {', '.join(self.space)}: {self.trials} trials by {self.sampler}, pruner {self.pruner}>"


LEAST = {
    **{"trials": 1, "seeds": 1, "steps": 1, "reduction": 2, "evaluate_every": 1, "evaluate_episodes": 1},
    **{"evaluate_seed": 0, "seed": 0, "final_seeds": 0, "episodes": 1, "threads": 1},
}


@dataclass(frozen=True)
class FoundSearch:
    """A search, and where it was found.

    Args:
        search: the search.
        task: what ``marl train`` takes for what is tuned.
        file: that the search is in.
    """

    search: Search
    task: str
    file: Path


def find_search(what: str | None, reference: str | None) -> FoundSearch:
    """A search and what it tunes.

    Args:
        what: to tune, as ``marl train`` takes it; or the file with the search, where ``reference`` is None.
        reference: of the search, ``FILE.py`` or ``FILE.py:NAME``.

    Raises:
        ConfigError: if there is no search there, or several, or nothing says what is tuned.
    """
    named = reference if reference is not None else what
    file = None if named is None else sources.split(named)
    if file is None:
        raise ConfigError(f"search: expected a file with a marl.Search, got {named!r}: marl tune WHAT --search FILE.py")
    path, name = file
    module = sources.module_of(path)
    search = only(module, str(path), name, Search, "search")
    if reference is not None and what is not None:
        return FoundSearch(search, what, path)
    if search.task is not None:
        return FoundSearch(search, named_in(module, str(path), search.task, "search: task", path), path)
    return FoundSearch(search, named_in(module, str(path), _only_scenario(module, path), "search: task", path), path)


def _only_scenario(module: Any, path: Path) -> Scenario:
    own = {id(value): value for value in vars(module).values() if isinstance(value, Scenario)}
    if len(own) != 1:
        raise ConfigError(
            f"file {path}: nothing says what is tuned: give the search a task=, or name it: "
            f"marl tune WHAT --search {path.name}"
        )
    return next(iter(own.values()))


def _described(dimension: Dimension) -> dict[str, Any]:
    """A dimension as JSON."""
    said: dict[str, Any] = {"kind": type(dimension).__name__, "ends": dimension.ends()}
    said |= {"log": True} if isinstance(dimension, IntUniform) and dimension.log else {}
    given = {key: in_words(value) for key, value in dimension.given.items()}
    return said | ({"given": given} if given else {})
