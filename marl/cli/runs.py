"""Which scenario, run and checkpoint is meant, and what of it may run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.scenario import Scenario
    from marl.system import MultiAgentSystem
from marl.cli.output import note, quiet
from marl.cli.status import config_error
from marl.cli.task import Task, task_named

LONGEST_SETTING = 10_000  # characters of a --set that a config.json holds


def load_system(path: Path, device: str, env: Any, trust: bool) -> MultiAgentSystem:
    """A system from a checkpoint; its learners come from there too unless they hold code of the user's."""
    from marl.system import MultiAgentSystem

    return MultiAgentSystem.load(path, env=env, device=device, trust=trust)


def open_run(folder: Path, which: str, device: str, trust: bool, env: Any = None) -> tuple[Path, MultiAgentSystem]:
    """A run's agents. ``env``: what the user names as their environment or scenario, in place of what the run says."""
    from marl.run import candidates, first_valid
    from marl.types import ConfigError

    paths = candidates(folder, which)
    source = _scenario_of(paths[0], trust) if env is None else _named_again(paths[0], trust, env)
    explicit = len(paths) == 1 and (which not in ("best", "last") or paths[0] == folder)
    with quiet():
        if explicit:
            return paths[0], load_system(paths[0], device, source, trust)
        found = first_valid(paths, lambda path: load_system(path, device, source, trust), note)
    if found is None:
        raise ConfigError(f"run {folder} has no checkpoint yet")
    return found


def folder_of(asked: Path, checkpoint: Path) -> Path:
    """The run folder that the user named, or in which the checkpoint lies that they named."""
    return asked if (asked / "checkpoints").is_dir() else checkpoint.absolute().parent.parent


def config_of(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """The config.json of the run that a checkpoint lies in; None where there is no such run."""
    from marl.logs.files import read_json
    from marl.renamed import assignment
    from marl.run import CONFIG

    file = path.absolute().parent.parent / CONFIG
    if not os.path.lexists(file):
        return file, None
    config = read_json(file)
    if not isinstance(config.get("scenario", 0), str | None) or not isinstance(config.get("set"), list):
        raise config_error(f"{file}: 'scenario' or 'set' is missing; was it edited?")
    return file, config | {"set": [assignment(text) if isinstance(text, str) else text for text in config["set"]]}


def _scenario_of(path: Path, trust: bool) -> Scenario | None:
    """The scenario of the run that a checkpoint lies in, with its --set; None where there is no such run."""
    file, config = config_of(path)
    if config is None or config["scenario"] is None:  # a run that began in Python: its checkpoints say it
        return None
    return chosen_task(file, config, trust).scenario


def _named_again(path: Path, trust: bool, env: Any) -> Any:
    """The scenario of the run that a checkpoint lies in, with its --set, where ``env`` names it; else ``env``."""
    file, config = config_of(path)
    if config is None or not isinstance(env, str) or not same_reference(env, config["scenario"]):
        return env
    return chosen_task(file, config, trust, env).scenario


def chosen_task(
    file: Path,
    config: Mapping[str, Any],
    trust: bool,
    named: str | None = None,
    algorithm: str | None = None,
    agents: Sequence[str] = (),
    own: Sequence[str] = (),
) -> Task:
    """The task of a run, with agents and --set as its config.json has them.

    Args:
        file: where that came from.
        config: the config.json.
        trust: whether it may name whatever it likes.
        named: what the user has named again.
        algorithm: the user's, instead of those then; likewise ``agents``.
        own: the user's further --set.

    Raises:
        CheckpointError: if that would run code of whoever wrote the file.
    """
    from marl import received
    from marl.overrides import override

    stored, words = config["set"], config.get("agents") or []
    for key, texts in (("set", stored), ("agents", words)):
        right = isinstance(texts, list | tuple)
        if not right or not all(isinstance(item, str) and len(item) <= LONGEST_SETTING for item in texts):
            raise config_error(f"{file}: {key!r}: expected texts of at most {LONGEST_SETTING:,} characters")
    if not trust and named is None:
        received.refuse_scenario(str(file), config["scenario"])
    again = named is None or same_reference(named, config["scenario"])
    reference = config["scenario"] if again and algorithm is None else named or config["scenario"]
    if algorithm is not None or not again:
        words = []
    if not trust:  # before an environment is made with it
        bare = task_named(reference, choose=False).scenario
        now = override(bare, _for_env(own))
        allowed = [*received.side_effects_of(bare), *received.side_effects_of(now)]
        wanted = received.side_effects_of(override(bare, [*_for_env(stored), *_for_env(own)]))
        received.refuse_side_effects(str(file), wanted, allowed)
    asked = task_named(reference, algorithm, agents or words, [*stored, *own], choose=algorithm is not None)
    plain = asked if agents or not words else task_named(reference, choose=False)
    scenario = override(asked.scenario, [*stored, *own])
    if not trust:
        then = received.side_effects_of(asked.scenario)
        mine = [effect for effect in received.side_effects_of(override(asked.scenario, own)) if effect not in then]
        allowed = [*received.side_effects_of(plain.scenario), *mine]
        received.refuse_side_effects(str(file), received.side_effects_of(scenario), allowed)
    return replace(asked, scenario=scenario)


def _for_env(assignments: Sequence[str]) -> list[str]:
    """Those of the assignments KEY=VALUE that say what an environment is made with."""
    from marl.received import FOR_ENV

    return [text for text in assignments if text.partition("=")[0].strip().partition(".")[0] in FOR_ENV]


def same_reference(named: str, reference: object) -> bool:
    """Whether what the user names is what a run names: the same, or one of its algorithms."""
    from marl import sources
    from marl.scenario import resolve_scenario

    if not isinstance(reference, str):
        return False
    here, there = sources.split(named), sources.split(reference)
    if here is not None and there is not None and here[0] == there[0]:
        # The user named the file, and not whatever callable in it a received folder names.
        return here[1] == there[1] or (not here[1] and resolve_scenario(reference) is not None)
    if named == reference or here is not None:
        return named == reference
    scenario = resolve_scenario(named) if reference.startswith(f"{named}_") else None
    return scenario is not None and any(scenario.by(name).reference == reference for name in scenario.algorithms)


def is_known(name: str) -> bool:
    """Whether it names an installed scenario or a registered environment, which a run may name too."""
    from marl.adapters.resolve import comes_with_library
    from marl.scenario import is_installed

    return is_installed(name) or comes_with_library(name)
