"""The plan of a training run: from the command line, the run to be resumed, and the scenario."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.callbacks import Callback
    from marl.cli.asked import Asked
    from marl.cluster import Actors
    from marl.logs import Logger
    from marl.scenario import Scenario
    from marl.system import MultiAgentSystem
from marl.cli.runs import LONGEST_SETTING, chosen_task
from marl.cli.status import UsageError, config_error, need
from marl.cli.task import Task, file_name, misfit, task_named

MISSING = "WHAT is missing: marl train WHAT, a scenario (see marl list) or any environment"
# What a config.json may ask for.
LEAST = {
    **{"num_envs": 1, "seed": 0, "steps": 1, "workers": 0, "threads": 1},
    **{"evaluate_every": 1, "evaluate_episodes": 1, "evaluate_seed": 0},
}
MOST = {"num_envs": 2**20, "workers": 2**10, "threads": 2**10}


def loggers_of(asked: Asked) -> list[Logger]:
    """The loggers that are named on the command line.

    Raises:
        ConfigError: if there is no such logger, or what one needs is not installed.
    """
    from marl.logs import logger_named

    names = dict.fromkeys((*asked.log, *["tensorboard"] * asked.tensorboard))
    for extra in ("tensorboard", "wandb", "mlflow"):
        if extra in names:
            need(extra, extra)
    return [logger_named(name) for name in names]


def check_numbers(asked: Asked) -> None:
    """Raise ConfigError or UsageError for numbers that make no sense."""
    from marl.config import check_whole

    for field in dataclasses.fields(asked):
        value = getattr(asked, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            least = 0 if field.name in ("seed", "evaluate_seed", "workers", "staleness") else 1
            check_whole(f"--{field.name.replace('_', '-')}", value, least)
    if asked.actors is not None and asked.ray is None:
        raise UsageError("--actors: on which cluster? Give --ray auto as well, or --ray HOST:PORT")
    if asked.staleness is not None and asked.ray is None:
        raise UsageError("--staleness: of whose rollouts? Give --ray auto and --actors 2 as well")
    if asked.ray is not None and asked.actors is None:
        raise UsageError("--ray: how many actors step the copies? Give --actors 2 as well")
    if asked.actors is not None and asked.workers:
        raise UsageError("--workers, --actors: copies are stepped by the one or by the other; leave one out")
    if not asked.save_minutes > 0:
        raise UsageError(f"--save-minutes: expected a number above 0, got {asked.save_minutes:g}")


ONE_COMMAND = (
    "resume",
    "pause_at",
    "force",
    "trust",
    "quiet",
    "json",
    "log",
    "ray",
    "actors",
    "staleness",
    "given",
)  # what concerns one command and not the run
OF_A_RUN: dict[str, tuple[type, ...]] = {  # options that have a default and stay as they were asked for
    "device": (str,),
    "evaluate_episodes": (int,),
    "evaluate": (bool,),
    "episodes": (int,),
    "save_every": (int, type(None)),
    "save_minutes": (int, float),
    "keep": (int,),
    "tensorboard": (bool,),
}


def as_before(asked: Asked, stored: Mapping[str, Any]) -> Asked:
    """The options of the earlier command, overridden by those given now."""
    before = stored.get("asked")
    kept = {} if not isinstance(before, Mapping) else {k: v for k, v in before.items() if k in OF_A_RUN}
    for name, value in kept.items():
        if not isinstance(value, OF_A_RUN[name]) or (isinstance(value, bool) and bool not in OF_A_RUN[name]):
            raise config_error(f"config.json: asked.{name} makes no sense: {value!r:.80}; was it edited?")
    again = dataclasses.replace(asked, **{name: value for name, value in kept.items() if name not in asked.given})
    check_numbers(again)
    return again


@dataclass(frozen=True)
class Plan:
    """What a run comes to, once defaults, the scenario, --set and a run to be resumed have had their say."""

    scenario: Scenario
    agents: tuple[str, ...]  # its learners in words, where they are not the scenario's own
    looking_on: tuple[str, ...]  # callbacks in words, beside the scenario's own
    notes: tuple[str, ...]  # what was chosen, since nobody said it
    assignments: tuple[str, ...]
    steps: int
    seed: int
    threads: int | None
    evaluate_every: int | None
    evaluate_episodes: int
    evaluate_seed: int | None
    save_every: int
    device: str
    actors: Actors | None  # that step the copies
    before: Mapping[str, Any]  # what the commands so far have asked for

    def build(self) -> MultiAgentSystem:
        """A fresh system; whatever draws from PyTorch's own stream (a dropout of the user's) is seeded too.

        Raises:
            ConfigError: for what has no meaning; where learners cannot act in the environment, with those that can.
        """
        import torch

        from marl.system import MultiAgentSystem
        from marl.types import ConfigError

        torch.manual_seed(self.seed)
        try:
            on = self.actors
            said: dict[str, Any] = (
                {} if on is None else {"ray": on.address, "actors": on.count, "staleness": on.staleness}
            )
            return MultiAgentSystem(None, self.scenario, seed=self.seed, device=self.device, **said)
        except ConfigError as error:
            raise misfit(self.scenario) or error from None

    def callbacks(self) -> list[Callback]:
        """New callbacks. Raises ConfigError for what is none."""
        from marl.overrides import callbacks_said

        return callbacks_said(self.looking_on)

    @property
    def identity(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it goes on with."""
        from marl.setup import Setup

        return {"name": self.scenario.name, **Setup(seed=self.seed).over(self.scenario).identity()}

    def config(self, asked: Asked) -> dict[str, Any]:
        """Everything, for config.json."""
        from marl.checkpoint import fingerprint
        from marl.config import described

        words = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked) if field.name != "given"}
        kept = {k: v for k, v in self.before.items() if k in words and k not in (*ONE_COMMAND, *asked.given)}
        words |= kept | {"set": self.assignments, "scenario": asked.scenario or kept.get("scenario")}
        words |= {"callback": self.looking_on}
        return {
            "asked": {name: str(value) if isinstance(value, Path) else value for name, value in words.items()},
            "scenario": self.scenario.reference,
            "agents": list(self.agents),
            "callbacks": list(self.looking_on),
            "set": list(self.assignments),
            "settings": self.identity,
            "tunable": {
                "steps": self.steps,
                "workers": self.scenario.workers,
                "device": self.device,
                "threads": self.threads,
                "stop": described(self.scenario.stop),
                "evaluate_every": self.evaluate_every,
                "evaluate_episodes": self.evaluate_episodes,
                "evaluate_seed": self.evaluate_seed,
            },
            "versions": fingerprint(),
        }


def folder_of(asked: Asked) -> Path:
    """Where the run goes: as asked; next to the checkpoint to resume; the latest of the scenario; or a new folder."""
    if asked.run_dir is not None:
        return asked.run_dir.absolute()
    explicit = explicit_checkpoint(asked)
    if explicit is not None:
        if explicit.parent.name == "checkpoints":
            return explicit.parent.parent
        raise UsageError(f"--resume {explicit}: is in no run folder; say by --run-dir where to go on")
    if asked.scenario is None:
        raise UsageError(MISSING)
    name = file_name(asked.scenario) + (f"-{file_name(asked.algorithm)}" if asked.algorithm is not None else "")
    if asked.resume is not None:
        seed = r"\d+" if asked.seed is None else str(asked.seed)
        pattern = re.compile(rf"{re.escape(name)}-{seed}-\d{{8}}-\d{{6}}(-\d+)?")
        files = [file for file in Path("runs").glob("*/config.json") if pattern.fullmatch(file.parent.name)]
        found = sorted(files, key=lambda file: file.stat().st_mtime)
        if not found:
            raise UsageError(f"--resume: no run of {asked.scenario} in runs/; say by --run-dir which one to go on with")
        return found[-1].parent.absolute()
    stem = Path("runs") / f"{name}-{asked.seed or 0}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, count = stem, 1
    while folder.exists():
        count += 1
        folder = stem.with_name(f"{stem.name}-{count}")
    return folder.absolute()


def explicit_checkpoint(asked: Asked) -> Path | None:
    """The checkpoint that --resume names."""
    return None if asked.resume in (None, "", "auto") else Path(str(asked.resume)).absolute()


def stored_config(asked: Asked, folder: Path) -> dict[str, Any] | None:
    """The config.json of the run to go on with."""
    from marl.config import today
    from marl.logs.files import read_json
    from marl.renamed import assignment
    from marl.run import CONFIG

    if asked.resume is None:
        return None
    explicit = explicit_checkpoint(asked)
    sources = [folder] if explicit is None else [folder, explicit.parent.parent]
    for source in sources:
        if (source / CONFIG).exists():
            stored = read_json(source / CONFIG)
            for key, kind in (("scenario", str), ("set", list), ("settings", dict), ("tunable", dict)):
                if not isinstance(stored.get(key), kind):
                    raise config_error(f"{source / CONFIG}: {key!r} is missing or no {kind.__name__}; was it edited?")
            _check_stored(source / CONFIG, stored)
            renamed = [assignment(text) for text in stored["set"]]
            return stored | {"settings": today(stored["settings"]), "set": renamed}
    return None


def _check_stored(file: Path, stored: Mapping[str, Any]) -> None:
    """Raise ConfigError for what no run has written: people may have edited the file, or sent it."""
    if not all(isinstance(text, str) for text in stored["set"]):
        raise config_error(f"{file}: 'set' must be a list of texts KEY=VALUE; was it edited?")
    said = {**stored["settings"], **stored["tunable"]}
    for key, least in LEAST.items():
        value = said.get(key)
        wrong = type(value) is not int or not least <= value <= MOST.get(key, 2**128)
        if wrong and (
            key in said and not (value is None and key in ("threads", "evaluate_every", "evaluate_seed", "steps"))
        ):
            expected = f"a whole number of at least {least}"
            raise config_error(f"{file}: {key}: expected {expected}, got {value!r:.80}; was it edited?")
    if not isinstance(said.get("device", "cpu"), str):
        raise config_error(f"{file}: device: expected a text, got {said['device']!r:.80}; was it edited?")


def make_plan(asked: Asked, stored: Mapping[str, Any] | None) -> Plan:
    """Put together what was asked now, what was asked then, and the scenario."""
    from marl.cluster import asked_actors
    from marl.overrides import override

    then: Mapping[str, Any] = {} if stored is None else {**stored["settings"], **stored["tunable"]}
    reference = asked.scenario if asked.scenario is not None else (stored or {}).get("scenario")
    if reference is None:
        absent = f"--resume: {asked.run_dir} holds no run yet, so " if asked.resume is not None else ""
        raise UsageError(f"{absent}{MISSING}")
    assignments = (*(stored or {}).get("set", ()), *asked.set)
    if stored is None:
        task = task_named(reference, asked.algorithm, asked.agents, assignments)
        task = dataclasses.replace(task, scenario=override(task.scenario, assignments))
    else:
        folder = folder_of(asked)
        task = chosen_task(folder, stored, asked.trust, asked.scenario, asked.algorithm, asked.agents, asked.set)
    scenario = task.scenario

    set_now = {text.partition("=")[0].strip() for text in asked.set}

    def pick(name: str, default: Any) -> Any:
        now = getattr(asked, name)
        if now is None and name not in set_now:
            now = then.get(name)
        return now if now is not None else default

    steps = int(pick("steps", scenario.steps))
    scenario = dataclasses.replace(
        scenario,
        steps=steps,
        num_envs=pick("num_envs", scenario.num_envs),
        workers=pick("workers", scenario.workers),
    )
    before = (stored or {}).get("asked")
    plan = Plan(
        scenario,
        task.agents,
        asked.callback or _stored_callbacks(stored, asked),
        () if stored is not None else _notes(task, pick("steps", None) is None and "steps" not in set_now),
        assignments,
        steps,
        pick("seed", 0),
        pick("threads", None),
        pick("evaluate_every", None),
        asked.evaluate_episodes,
        pick("evaluate_seed", None),
        asked.save_every or max(1, steps // 10),
        asked.device,
        asked_actors(asked.ray, asked.actors, asked.staleness),
        before if isinstance(before, Mapping) else {},
    )
    plan.callbacks()
    if stored is not None:
        for key, value in (("num_envs", scenario.num_envs), ("workers", scenario.workers)):
            if value > MOST[key]:
                raise config_error(f"--resume: {key}: expected at most {MOST[key]:,}, got {value:,}")
        _refuse_other(stored, plan)
    return plan


def _stored_callbacks(stored: Mapping[str, Any] | None, asked: Asked) -> tuple[str, ...]:
    """The callbacks of the run that is gone on with, in words. Raises CheckpointError for one that writes files."""
    from marl import received
    from marl.overrides import callbacks_said

    texts = (stored or {}).get("callbacks", [])
    if not isinstance(texts, list) or not all(isinstance(text, str) and len(text) <= LONGEST_SETTING for text in texts):
        raise config_error(f"config.json: 'callbacks': expected texts of at most {LONGEST_SETTING:,} characters")
    folders = [getattr(one, "folder", None) for one in callbacks_said(texts)]
    writes = [f"write to {folder} ({text})" for folder, text in zip(folders, texts, strict=True) if folder is not None]
    received.refuse_side_effects("config.json", () if asked.trust else writes)
    return tuple(texts)


def _notes(task: Task, untold: bool) -> tuple[str, ...]:
    """What was chosen, since nobody said it; ``untold``: the number of steps too."""
    steps = f"{task.scenario.name}: {task.scenario.steps:,} steps, unless --steps says otherwise"
    return tuple(filter(None, (task.note, steps if task.made and untold else "")))


def _refuse_other(stored: Mapping[str, Any], plan: Plan) -> None:
    from marl.config import other_settings

    found = other_settings(stored["settings"], plan.identity)
    if found:
        more = [f"and {len(found) - 6} more"] if len(found) > 6 else []
        raise config_error(
            f"--resume: this is not the run that was begun ({'; '.join(found[:6] + more)}); undo that, or use another "
            "--run-dir (only steps, workers, device, threads, stop and the evaluation may change)"
        )
