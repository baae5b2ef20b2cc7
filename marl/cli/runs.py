"""Which scenario, run and checkpoint is meant, and what of it may run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.scenario import Scenario
    from marl.system import MultiAgentSystem
from marl.cli.output import note, quiet
from marl.cli.status import config_error

LONGEST_SETTING = 10_000  # characters of a --set that a config.json holds


def scenario_named(reference: str) -> Scenario:
    """A scenario, or a helpful word about what was given instead."""
    from marl.scenario import find, names
    from marl.types import ConfigError

    with quiet():
        try:
            return find(reference)
        except ConfigError as error:
            if reference in names() or ":" in reference or reference.endswith(".py") or not _is_env(reference):
                raise
            raise ConfigError(
                f"{reference!r} is an environment, and a scenario is needed: put marl.Scenario(name='mine', "
                f"env={reference!r}, agents=marl.ippo()) into a .py file and train that ({error})"
            ) from None


def _is_env(reference: str) -> bool:
    import gymnasium
    import pettingzoo

    known = (gymnasium.registry, pettingzoo.parallel_registry, pettingzoo.aec_registry)
    return any(reference in registry for registry in known)


def load_system(path: Path, device: str, env: Any, trust: bool) -> MultiAgentSystem:
    """A system from a checkpoint; its learners come from there too unless they hold code of the user's."""
    from marl.system import MultiAgentSystem

    return MultiAgentSystem.load(path, env=env, device=device, trust=trust)


def open_run(folder: Path, which: str, device: str, trust: bool, env: Any = None) -> tuple[Path, MultiAgentSystem]:
    """A run's agents. ``env``: what the user names as their environment, in place of what the run says."""
    from marl.run import candidates, first_valid
    from marl.types import ConfigError

    paths = candidates(folder, which)
    source = env if env is not None else _scenario_of(paths[0], trust)
    explicit = len(paths) == 1 and (which not in ("best", "last") or paths[0] == folder)
    with quiet():
        if explicit:
            return paths[0], load_system(paths[0], device, source, trust)
        found = first_valid(paths, lambda path: load_system(path, device, source, trust), note)
    if found is None:
        raise ConfigError(f"run {folder} has no checkpoint yet")
    return found


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
    return chosen_scenario(file, config["scenario"], config["set"], trust)


def chosen_scenario(
    file: Path, reference: str, stored: Sequence[Any], trust: bool, named: bool = False, own: Sequence[str] = ()
) -> Scenario:
    """A scenario with --set as a run's config.json has them, then the user's ``own``.

    ``named``: the user has named the scenario again.

    Raises:
        CheckpointError: if that would run code of whoever wrote the file.
    """
    from marl import received
    from marl.overrides import override

    if not all(isinstance(item, str) and len(item) <= LONGEST_SETTING for item in stored):
        raise config_error(f"{file}: 'set': expected texts of at most {LONGEST_SETTING:,} characters")
    if not trust and not named:
        received.refuse_scenario(str(file), reference)
    plain = scenario_named(reference)
    scenario = override(plain, [*stored, *own])
    if not trust:
        received.refuse_side_effects(
            str(file), received.side_effects_of(scenario), received.side_effects_of(override(plain, own))
        )
    return scenario


def same_reference(named: str, reference: object) -> bool:
    """Whether what the user names is what a run names."""
    if named.endswith(".py") and isinstance(reference, str) and reference.endswith(".py"):
        return os.path.abspath(named) == os.path.abspath(reference)
    return named == reference


def is_shipped(name: str) -> bool:
    """Whether it names an installed scenario."""
    from marl.scenario import names

    return name in names()
