"""Studies: tasks, algorithms, seeds and settings whose every combination is a run of its own."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from marl import sources
from marl.config import check_whole, in_words, unknown
from marl.installed import installed_studies
from marl.learners import LearnerConfig
from marl.logs.files import safe_name
from marl.scenario import Scenario, is_installed
from marl.types import ConfigError

T = TypeVar("T")
OWN = "own"  # the algorithm whose settings are the scenario's own
MOST_CELLS = 100_000


@dataclass(frozen=True)
class Axis:
    """Values of a setting that only some runs of a study vary.

    Args:
        values: what it is set to, one after the other.
        algorithms: whose runs; empty: all.
        tasks: on which; empty: all.
        given: and only where other axes have these values, ``{"learner.optimizer": marl.optim.RMSprop()}``.

    Raises:
        ConfigError: if there are no values, or the same twice.
    """

    values: Sequence[Any]
    algorithms: Sequence[str] = field(default=(), kw_only=True)
    tasks: Sequence[str] = field(default=(), kw_only=True)
    given: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what varies nothing."""
        _listed("Axis.values", self.values)
        _listed("Axis.algorithms", self.algorithms, empty=True)
        _listed("Axis.tasks", self.tasks, empty=True)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Returns of a task that scores are normalized by: 0 for ``random``, 1 for ``best``.

    Args:
        random: the return of uniformly random play; None: as the study's own runs measure it.
        best: the best return that is known; None: nothing is normalized.
    """

    random: float | None = None
    best: float | None = None


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Args:
        task: on which, by its name in the study.
        algorithm: by which, by its name in the study.
        settings: what varies: keys and values in words.
        seed: of the run.
    """

    task: str
    algorithm: str
    settings: tuple[tuple[str, str], ...]
    seed: int

    @property
    def label(self) -> str:
        """The algorithm with what varies: ``qmix lr=0.001``. Runs that differ in their seeds alone share it."""
        varied = [f"{key.removeprefix('learner.')}={value}" for key, value in self.settings]
        return " ".join([self.algorithm, *varied])

    @property
    def name(self) -> str:
        """Where its run folder is within the study's: ``spread/qmix/lr=0.001/seed-0``."""
        varied = [f"{key.removeprefix('learner.')}={value}" for key, value in self.settings]
        return "/".join([*map(_folder, [self.task, self.algorithm, *varied]), f"seed-{self.seed}"])


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question in one file: which algorithms, on which tasks, with which settings, over which seeds.

    Every combination is a cell, an ordinary run of ``marl train``; ``marl study run FILE`` trains them all.

    Args:
        name: what it is called.
        tasks: scenarios, or whatever ``marl train`` takes; a mapping gives them names of its own.
        algorithms: names that ``marl train --algorithm`` takes, ``"own"`` for the scenario's own learners. A mapping
            gives names of its own to such names, to learners (``marl.qmix(lr=1e-3)``), to learners for each team by
            pattern, or to any of these for each task by its name, where None leaves a task out.
        seeds: how many, from 0 on, or which.
        steps: environment steps of each run, for all or by task; None: the scenario's for each algorithm.
        settings: ``KEY=VALUE`` for all runs, as ``marl train --set`` takes them, before those that vary.
        variations: values by setting, ``{"learner.lr": [1e-3, 3e-4]}``: every combination is trained. An ``Axis`` says
            which runs it is for.
        evaluate_every: steps between evaluations; None: a twentieth of the run.
        evaluate_episodes: episodes of each.
        evaluate_seed: of these evaluations: the same episodes for every run, which no run trains on.
        episodes: of the evaluation at the end, other ones, again the same for every run.
        references: returns by task that scores are normalized by.
        threads: of each run.
        device: where runs compute.
        keep: newest checkpoints that a run keeps, beside its best.
        about: the question in words.

    Raises:
        ConfigError: for an empty grid, the same cell twice, or names of nothing.
    """

    name: str
    tasks: Sequence[str | Scenario] | Mapping[str, str | Scenario]
    algorithms: Sequence[str] | Mapping[str, Any] = (OWN,)
    seeds: int | Sequence[int] = 5
    steps: int | Mapping[str, int] | None = None
    settings: Sequence[str] = ()
    variations: Mapping[str, Sequence[Any] | Axis] = field(default_factory=dict)
    evaluate_every: int | None = None
    evaluate_episodes: int = 20
    evaluate_seed: int = 0
    episodes: int = 100
    references: Mapping[str, Reference] = field(default_factory=dict)
    threads: int = 1
    device: str = "cpu"
    keep: int = 1
    about: str = ""

    def __post_init__(self) -> None:
        """Check it, down to every cell."""
        where = f"study {self.name!r}"
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"study: name: expected a word, got {self.name!r}")
        for name, least in (
            ("evaluate_episodes", 1),
            ("evaluate_seed", 0),
            ("episodes", 1),
            ("threads", 1),
            ("keep", 1),
        ):
            check_whole(f"{where}: {name}", getattr(self, name), least)
        if self.evaluate_every is not None:
            check_whole(f"{where}: evaluate_every", self.evaluate_every, 1)
        _listed(f"{where}: settings", self.settings, empty=True)
        tasks, algorithms = list(self.task_sources()), list(self.recipes())
        for seed in self.seed_list():
            check_whole(f"{where}: seeds", seed, 0)
        for task, steps in self.steps.items() if isinstance(self.steps, Mapping) else [("", self.steps)]:
            if task:
                _known(where, "steps", task, tasks)
            if steps is not None:
                check_whole(f"{where}: steps", steps, 1)
        for task in self.references:
            _known(where, "references", task, tasks)
        for key, axis in self.axes().items():
            for one in axis.algorithms:
                _known(f"{where}: variations", key, one, algorithms, "algorithm")
            for one in axis.tasks:
                _known(f"{where}: variations", key, one, tasks)
            for other in axis.given:
                _known(f"{where}: variations", key, other, [name for name in self.variations if name != key], "axis")
        for algorithm, meaning in self.recipes().items():
            _checked_learners(f"{where}: algorithms[{algorithm!r}]", meaning, tasks)
        self.cells()

    def task_sources(self) -> dict[str, str | Scenario]:
        """The tasks by name."""
        if isinstance(self.tasks, Mapping):
            named = dict(self.tasks)
        else:
            _listed(f"study {self.name!r}: tasks", self.tasks)
            named = {}
            for task in self.tasks:
                name = task.name if isinstance(task, Scenario) else _task_name(task)
                if name in named:
                    raise ConfigError(
                        f"study {self.name!r}: tasks: {name!r} is there twice; name them: tasks={{'first': ...}}"
                    )
                named[name] = task
        if not named:
            raise ConfigError(f"study {self.name!r}: tasks: there is none, so there is nothing to train")
        for name, task in named.items():
            if not isinstance(task, str | Scenario) or not task:
                raise ConfigError(
                    f"study {self.name!r}: tasks: expected scenarios or names, got {name!r}: {task!r:.80}"
                )
        return named

    def recipes(self) -> dict[str, Any]:
        """What each algorithm means, by its name."""
        if isinstance(self.algorithms, Mapping):
            named = dict(self.algorithms)
        else:
            _listed(f"study {self.name!r}: algorithms", self.algorithms)
            wrong = [one for one in self.algorithms if not isinstance(one, str)]
            if wrong:
                raise ConfigError(
                    f"study {self.name!r}: algorithms: learners have names: algorithms={{'mine': {wrong[0]!r:.40}...}}"
                )
            named = {one: one for one in self.algorithms}
        if not named:
            raise ConfigError(f"study {self.name!r}: algorithms: there is none, so there is nothing to train")
        return named

    def learners(self, algorithm: str, task: str) -> Any:
        """What an algorithm means on a task: a name, a learner, or learners by pattern; None: it is left out there."""
        meaning = self.recipes()[algorithm]
        if isinstance(meaning, Mapping) and _by_task(meaning, list(self.task_sources())):
            return meaning[task]
        return meaning

    def seed_list(self) -> list[int]:
        """The seeds."""
        if isinstance(self.seeds, int) and not isinstance(self.seeds, bool):
            return list(range(check_whole(f"study {self.name!r}: seeds", self.seeds, 1)))
        _listed(f"study {self.name!r}: seeds", self.seeds)
        return list(self.seeds)  # type: ignore[arg-type]

    def axes(self) -> dict[str, Axis]:
        """What varies, by setting."""
        found: dict[str, Axis] = {}
        for key, values in self.variations.items():
            try:
                found[key] = values if isinstance(values, Axis) else Axis(values)
            except ConfigError as error:
                raise ConfigError(f"study {self.name!r}: variations[{key!r}]: {error}") from None
        return found

    def cells(self) -> list[Cell]:
        """Every run: for each seed all tasks, algorithms and settings, so that the first seed is complete first.

        Raises:
            ConfigError: if there is none, or one twice.
        """
        groups: dict[tuple[str, str, tuple[tuple[str, str], ...]], None] = {}
        for task, algorithm in itertools.product(self.task_sources(), self.recipes()):
            if self.learners(algorithm, task) is not None:
                groups |= dict.fromkeys((task, algorithm, varied) for varied in self._varied(task, algorithm))
        seeds = self.seed_list()
        if not groups:
            raise ConfigError(f"study {self.name!r}: every algorithm is left out on every task: nothing to train")
        if len(groups) * len(seeds) > MOST_CELLS:
            raise ConfigError(
                f"study {self.name!r}: {len(groups) * len(seeds):,} runs; expected at most {MOST_CELLS:,}: vary less"
            )
        cells = [Cell(*group, seed) for seed in seeds for group in groups]
        names: dict[str, Cell] = {}
        for cell in cells:
            other = names.setdefault(cell.name.lower(), cell)  # some file systems do not tell A from a
            if other is not cell:
                raise ConfigError(f"study {self.name!r}: the same run twice: {other.name} and {cell.name}")
        return cells

    def _varied(self, task: str, algorithm: str) -> list[tuple[tuple[str, str], ...]]:
        """Every combination of settings that this algorithm has on this task."""
        found: list[tuple[tuple[str, str], ...]] = [()]
        axes = {
            key: axis
            for key, axis in self.axes().items()
            if algorithm in (axis.algorithms or [algorithm]) and task in (axis.tasks or [task])
        }
        for key in sorted(axes, key=lambda one: bool(axes[one].given)):  # an axis after those that it depends on
            axis = axes[key]
            given = {(name, in_words(value)) for name, value in axis.given.items()}
            values = [in_words(value) for value in axis.values]
            found = [
                (*one, *more)
                for one in found
                for more in ([((key, value),) for value in values] if given <= set(one) else [()])
            ]
        return found

    def __repr__(self) -> str:
        """Its name and its size."""
        cells = self.cells()
        groups = {(cell.task, cell.label) for cell in cells}
        return f"<Study {self.name!r}: {len(cells)} runs, {len(groups)} kinds, {len(self.seed_list())} seeds>"


@dataclass(frozen=True)
class FoundStudy:
    """A study, and where it was found.

    Args:
        study: the study.
        module: its module, in which its own scenarios have names.
        source: what names that module: a path, or a module's name.
        file: the file, if a user named one.
    """

    study: Study
    module: ModuleType
    source: str
    file: Path | None

    def reference(self, task: str) -> str:
        """What ``marl train`` takes for a task of the study; files are looked for beside the study's.

        Raises:
            ConfigError: for a scenario that has no name by which it can be found.
        """
        where = f"study {self.study.name!r}: task {task!r}"
        return named_in(self.module, self.source, self.study.task_sources()[task], where, self.file, task)


def find(reference: str) -> FoundStudy:
    """A study by the name of a shipped one, by path to a ``.py`` file, or as ``FILE.py:NAME``.

    Raises:
        ConfigError: if there is none, or several.
    """
    file = sources.split(reference)
    if file is not None:
        path, name = file
        module = sources.module_of(path)
        return FoundStudy(only(module, str(path), name, Study, "study"), module, str(path), path)
    installed = installed_studies()
    if reference not in installed:
        raise ConfigError(
            unknown("study", reference, sorted(installed), "study") + "; a study of your own is a file: FILE.py"
        )
    module = importlib.import_module(installed[reference])
    return FoundStudy(only(module, installed[reference], "", Study, "study"), module, installed[reference], None)


def only(module: ModuleType, source: str, name: str, kind: type[T], word: str) -> T:
    """The one value of a class at the top of a module, or the one of a name.

    Args:
        module: the module.
        source: what names it.
        name: of the value; empty: there is one.
        kind: the class, a public one.
        word: for such values, in errors.

    Raises:
        ConfigError: if there is none, or several.
    """
    found = {key: value for key, value in vars(module).items() if isinstance(value, kind)}
    if name and name not in found:
        raise ConfigError(unknown(f"file {source}", name, found, word))
    if not name and len(found) != 1:
        several = f"found {len(found)}: {', '.join(f'{source}:{one}' for one in found)}" if found else "found none"
        raise ConfigError(f"file {source}: expected one marl.{kind.__name__} at module level, {several}")
    return found[name] if name else next(iter(found.values()))


def named_in(
    module: ModuleType, source: str, what: str | Scenario, where: str, file: Path | None, name: str = "scenario"
) -> str:
    """What ``marl train`` takes for a task that a module names; files are looked for beside it.

    Args:
        module: in which its own scenarios have names.
        source: what names that module: a path, or a module's name.
        what: the task.
        where: an error is.
        file: the module's, if a user named one.
        name: for an example in an error.

    Raises:
        ConfigError: for a scenario that has no name by which it can be found.
    """
    if isinstance(what, str):
        beside = file is not None and sources.split(what) is not None and not Path(what).is_absolute()
        return str(file.parent / what) if beside and file is not None else what
    named = [key for key, value in vars(module).items() if value is what]
    if named:
        return f"{source}:{named[0]}"
    if is_installed(what.reference):
        return what.reference
    raise ConfigError(
        f"{where}: {source} must give it a name of its own, so that processes find it: "
        f"{re.sub(r'[^0-9A-Za-z_]', '_', name)} = marl.Scenario(...)"
    )


def _listed(where: str, values: Any, empty: bool = False) -> None:
    """Raise ConfigError for what is no list, for an empty one, or for the same twice."""
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise ConfigError(f"{where}: expected a list, got {values!r:.80}")
    if not values and not empty:
        raise ConfigError(f"{where}: it is empty, so there is nothing to train")
    said = [in_words(value) if not isinstance(value, Scenario) else value.name for value in values]
    twice = next((one for one in said if said.count(one) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where}: {twice} is there twice")


def _known(where: str, field: str, name: str, known: Sequence[str], what: str = "task") -> None:
    if name not in known:
        raise ConfigError(unknown(f"{where}: {field}", name, known, what))


def _by_task(meaning: Mapping[str, Any], tasks: Sequence[str]) -> bool:
    """Whether a mapping gives learners by task; else it does by agents' patterns."""
    return any(key in tasks for key in meaning)


def _checked_learners(where: str, meaning: Any, tasks: Sequence[str]) -> None:
    """Raise ConfigError for what names no learners."""
    if isinstance(meaning, Mapping) and _by_task(meaning, tasks):
        for key in meaning:
            _known(where, "by task", key, tasks)
        missing = [task for task in tasks if task not in meaning]
        if missing:
            raise ConfigError(f"{where}: nothing is said for task {missing[0]!r}; None leaves it out")
        for one in meaning.values():
            if one is not None:
                _checked_learners(where, one, ())
        return
    parts = meaning.values() if isinstance(meaning, Mapping) else [meaning]
    for part in parts:
        if not isinstance(part, LearnerConfig) and (isinstance(meaning, Mapping) or not isinstance(part, str)):
            raise ConfigError(f"{where}: expected the name of an algorithm or a learner, got {part!r:.80}")
        if isinstance(part, LearnerConfig):
            try:
                in_words(part)
            except ConfigError as error:
                raise ConfigError(
                    f"{where}: {error}; put learners with code of your own into a scenario's algorithms={{...}}"
                ) from None


def _task_name(reference: Any) -> str:
    """What a task is called that nobody gave a name: its scenario, id, or file."""
    if not isinstance(reference, str):
        raise ConfigError(f"study: tasks: expected scenarios or names, got {reference!r:.80}")
    file = sources.split(reference)
    if file is None:
        return reference
    return file[1] or file[0].stem


def _folder(text: str) -> str:
    """A folder's name for a text; where letters were left out, with a mark of the whole text."""
    plain = re.sub(r"[^A-Za-z0-9._=+-]+", "-", text).strip("-.")
    if plain == text and len(text) <= 60:
        return text
    return f"{safe_name(plain.replace('=', '_'), 50) if len(plain) > 50 else plain or 'x'}~{_mark(text)}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:6]
