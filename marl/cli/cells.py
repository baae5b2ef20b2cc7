"""A study's cells as commands of ``marl train``, and what of them is there already."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.studies.study import Cell, FoundStudy
    from marl.studies.study_folder import CellState
from marl.cli.asked import Asked
from marl.cli.plan import ONE_COMMAND, make_plan
from marl.cli.status import config_error

ENDED_BY_SIGNAL = (75, 130)
EVALUATIONS = 20  # of a run, unless the study says how many steps lie between them
# Of what a command was asked: what concerns the command alone, and names that stand in config.json as what they mean.
NOT_COMPARED = (*ONE_COMMAND, "run_dir", "scenario", "algorithm")


@dataclass(frozen=True)
class PlannedCell:
    """A cell as ``marl train`` takes it.

    Args:
        cell: which.
        folder: its run folder.
        asked: the command.
        config: what the run's config.json will say, but for versions.
    """

    cell: Cell
    folder: Path
    asked: Asked
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of the cell."""
        return self.cell.name

    @property
    def steps(self) -> int:
        """Of the whole run."""
        steps: int = self.config["tunable"]["steps"]
        return steps

    @property
    def words(self) -> tuple[str, ...]:
        """The command that trains it from the beginning, without its folder."""
        return words_of(self.asked)

    def command(self, begun: bool) -> list[str]:
        """The words of the command that trains it, or goes on with it where it has begun.

        What a run that has begun was asked for stands in its config.json, so only the task is named again.
        """
        words = ("train", str(self.config["scenario"]), "--resume=auto") if begun else self.words
        return [*words, "--run-dir", str(self.folder), "--quiet"]

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self.folder / "config.json").exists()

    def fault(self, code: int) -> str | None:
        """Why it is not finished, though its command has ended with this status; None: it is."""
        state, changed = is_there(self, None)
        if code == 0:
            return f"trained something else than the study asks for ({changed[0]})" if changed else None
        return f"ended by a signal at step {state.steps:,}" if code in ENDED_BY_SIGNAL else state.error

    def options(self, begun: bool) -> Asked:
        """The same command as data."""
        asked = Asked(scenario=str(self.config["scenario"]), resume="auto") if begun else self.asked
        return dataclasses.replace(asked, run_dir=self.folder, quiet=True)

    def changes(self, stored: Mapping[str, Any]) -> list[str]:
        """How what a config.json says differs from what the study asks for now; empty: nothing does."""
        from marl.config import differences, other_settings, today

        there, here = (_compared(config) for config in (stored, self.config))
        settings = other_settings(today(there.pop("settings")), here.pop("settings"))
        said = settings or differences(there["tunable"], here["tunable"])
        return said or differences(there, here)


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config.json decides what is trained, as JSON."""
    kept = {key: config.get(key) for key in ("scenario", "agents", "callbacks", "set")}
    for key in ("asked", "settings", "tunable"):
        said = config.get(key)
        if not isinstance(said, Mapping):
            raise config_error(f"config.json: {key!r} is missing or no object; was it edited?")
        kept[key] = {name: value for name, value in said.items() if key != "asked" or name not in NOT_COMPARED}
    found: dict[str, Any] = json.loads(json.dumps(kept))
    return found


def words_of(asked: Asked) -> tuple[str, ...]:
    """The command line that asks for this."""
    words = ["train", *([asked.scenario] if asked.scenario is not None else [])]
    for field in dataclasses.fields(asked):
        value = getattr(asked, field.name)
        if field.name in ("scenario", "given") or value == field.default:
            continue
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option.removeprefix('--')}")
        else:
            words += [word for one in (value if isinstance(value, tuple) else [value]) for word in (option, str(one))]
    return tuple(words)


def planned_cells(found: FoundStudy, out: Path) -> list[PlannedCell]:
    """Every cell of a study as ``marl train`` takes it, checked as that checks it.

    Raises:
        ConfigError: for what ``marl train`` would refuse, naming the first such cell.
    """
    from marl.studies.study_folder import CELLS
    from marl.types import MarlError

    plans: dict[tuple[Any, ...], tuple[Asked, dict[str, Any]]] = {}
    cells = []
    for cell in found.study.cells():
        group = (cell.task, cell.algorithm, cell.settings)
        if group not in plans:
            try:
                plans[group] = plan_of(found, cell)
            except MarlError as error:
                name = cell.name.rpartition("/")[0]
                raise config_error(f"study {found.study.name!r}: {name}: {error}") from None
        cells.append(of_seed(cell, out / CELLS / cell.name, *plans[group]))
    return cells


def of_seed(cell: Cell, folder: Path, asked: Asked, config: Mapping[str, Any]) -> PlannedCell:
    """A cell in a folder, from what :func:`planned` returned for any seed."""
    own = {key: {**config[key], "seed": cell.seed} for key in ("asked", "settings")}
    return PlannedCell(cell, folder, dataclasses.replace(asked, seed=cell.seed), {**config, **own})


def plan_of(found: FoundStudy, cell: Cell) -> tuple[Asked, dict[str, Any]]:
    """The command of a cell, and what its config.json will say."""
    from collections.abc import Mapping as Teams

    from marl.config import in_words
    from marl.studies.study import OWN

    study = found.study
    what = study.learners(cell.algorithm, cell.task)
    algorithm: str | None = None
    agents: tuple[str, ...] = ()
    if isinstance(what, Teams):
        agents = tuple(f"{pattern}={in_words(one)}" for pattern, one in what.items())
    elif not isinstance(what, str):
        agents = (in_words(what),)
    elif what != OWN:
        algorithm = what
    steps = study.steps.get(cell.task) if isinstance(study.steps, Teams) else study.steps
    asked = Asked(
        scenario=found.reference(cell.task),
        algorithm=algorithm,
        agents=agents,
        steps=steps,
        seed=cell.seed,
        device=study.device,
        threads=study.threads,
        set=(*study.settings, *(f"{key}={value}" for key, value in cell.settings)),
        evaluate_every=study.evaluate_every,
        evaluate_episodes=study.evaluate_episodes,
        evaluate_seed=study.evaluate_seed,
        episodes=study.episodes,
        keep=study.keep,
    )
    return planned(asked, EVALUATIONS)


def planned(asked: Asked, evaluations: int) -> tuple[Asked, dict[str, Any]]:
    """A command and what its config.json will say; evaluations of a run, where it says not how often.

    Raises:
        ConfigError: for what ``marl train`` would refuse.
    """
    plan = make_plan(asked, None)
    if asked.evaluate_every is None:
        every = max(1, plan.steps // evaluations)
        asked, plan = dataclasses.replace(asked, evaluate_every=every), dataclasses.replace(plan, evaluate_every=every)
    config = plan.config(asked)
    config["asked"]["set"], config["set"] = list(plan.assignments), list(plan.assignments)
    return asked, config


def is_there(cell: PlannedCell, attempt: Mapping[str, Any] | None) -> tuple[CellState, list[str]]:
    """How far a cell has come, and how the run that is there differs from what the study asks for now."""
    from marl.studies.study_folder import config_of, state_of

    stored = config_of(cell.folder)
    return state_of(cell.folder, attempt), [] if stored is None else cell.changes(stored)


def sources_of(found: FoundStudy) -> dict[Path, str]:
    """The files that a study is made of, with a hash of each: its own, and those of its tasks."""
    from marl import sources

    named = [found.reference(task) for task in found.study.task_sources()]
    paths = {split[0] for split in map(sources.split, named) if split is not None}
    return {path: hash_of(path) for path in sorted({*paths, *([found.file] if found.file else [])})}


def hash_of(path: Path) -> str:
    """Of a file's contents; of none where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
