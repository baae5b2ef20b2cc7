"""What is trained: a scenario as it is, by another of its algorithms, or any environment by a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marl.scenario import Scenario
    from marl.types import Spec
from marl.cli.output import quiet
from marl.cli.status import UsageError, config_error


@dataclass(frozen=True)
class Task:
    """What is trained.

    scenario: a shipped one, a file's, or one made here for an environment.
    agents: its learners in words, as ``--agents`` says them; none where they are the scenario's own.
    note: what was chosen, and why.
    made: whether it was made here, so that nobody has said how long to train.
    """

    scenario: Scenario
    agents: tuple[str, ...] = ()
    note: str = ""
    made: bool = False


def task_named(
    reference: str,
    algorithm: str | None = None,
    agents: Sequence[str] = (),
    assignments: Sequence[str] = (),
    *,
    choose: bool = True,
) -> Task:
    """The task that a scenario's or environment's name means, by an algorithm, or with agents in words.

    Args:
        reference: a scenario, an id, a module, ``module:attribute``, a file, or ``file.py:NAME``.
        algorithm: a recipe, or another of the algorithms that the scenario has settings for.
        agents: learners in words, instead of that.
        assignments: the ``--set`` of the run: an environment may need its keywords to be looked at.
        choose: look at an environment to choose its recipe. Where nobody trains, any will do.

    Raises:
        ConfigError: for names of neither, and algorithms that there are not.
    """
    from marl.overrides import agents_said
    from marl.scenario import find, resolve_scenario, variant

    if algorithm is not None and agents:
        raise UsageError("--algorithm and --agents exclude each other: --agents 'mappo(lr=1e-3)' says both")
    with quiet():
        scenario = resolve_scenario(reference)
    if scenario is None:
        return _of_env(reference, algorithm, agents, assignments, choose)
    divided = variant(reference)
    note = "" if divided is None else f"{reference} is short for: {divided[0]} --algorithm {divided[1]}"
    if agents:
        return Task(replace(scenario, agents=agents_said(agents), algorithms={}), tuple(agents), note)
    if algorithm is None:
        return Task(replace(scenario, algorithms={}), note=note)
    return _by_algorithm(scenario if divided is None else find(divided[0]), algorithm)


def _by_algorithm(scenario: Scenario, algorithm: str) -> Task:
    """A scenario by an algorithm: with its own settings for that if it has some, else with the recipe's defaults."""
    from marl.overrides import agents_said
    from marl.recipes import canonical, names_of, recipe_named

    own = names_of(scenario.agents)
    tuned = {canonical(name): name for name in scenario.algorithms}
    if canonical(algorithm) == canonical(own):
        return Task(replace(scenario, algorithms={}))
    if canonical(algorithm) in tuned:
        return Task(scenario.by(tuned[canonical(algorithm)]))
    recipe_named(algorithm, f"--algorithm {algorithm}", list(scenario.algorithms))
    patterns = scenario.agents if isinstance(scenario.agents, Mapping) else None
    said = [f"{algorithm}()"] if patterns is None else [f"{pattern}={algorithm}()" for pattern in patterns]
    return Task(
        replace(scenario, agents=agents_said(said), algorithms={}),
        tuple(said),
        f"{scenario.name} has no settings for {algorithm} (it has for: {', '.join([own, *scenario.algorithms])}); "
        "the recipe's defaults are used, with the scenario's number of steps and copies",
    )


def _of_env(
    reference: str, algorithm: str | None, agents: Sequence[str], assignments: Sequence[str], choose: bool
) -> Task:
    """A scenario for an environment, whose agents train by a recipe."""
    from marl import sources
    from marl.overrides import agents_said, override
    from marl.recipes import recipe_named
    from marl.scenario import Scenario

    name = reference
    if (file := sources.split(reference)) is not None:
        path, inside = file
        reference, name = (f"{one}:{inside}" if inside else str(one) for one in (path, path.name))
    placeholder = "ippo()" if algorithm is None else f"{algorithm}()"
    if algorithm is not None:
        recipe_named(algorithm, f"--algorithm {algorithm}")
    said, note = tuple(agents) or (placeholder,), ""
    scenario = Scenario(name=name, env=reference, agents=agents_said(said), reference=reference)
    if choose and not agents:
        keywords = [text for text in assignments if text.startswith("env_kwargs.")]
        patterns, spec = _looked_at(override(scenario, keywords))
        chosen = algorithm or ("ppo" if len(spec.agents) == 1 else "ippo")
        said = (f"{chosen}()",) if patterns is None else tuple(f"{pattern}={chosen}()" for pattern in patterns)
        scenario = replace(scenario, agents=agents_said(said))
        note = "" if algorithm is not None else _why(name, chosen, spec)
    return Task(scenario, said, note, made=True)


def _why(name: str, chosen: str, spec: Spec) -> str:
    """Which recipe was chosen for an environment, and why."""
    from marl.conformance.spaces import WORDS
    from marl.recipes import fitting

    kinds = list(dict.fromkeys(team.action.kind for team in spec.teams))
    others = [other for other in fitting(kinds, len(spec.agents)) if other != chosen]
    count = len(spec.agents)
    return (
        f"{name}: {count} agent{'s' * (count != 1)} with {' and '.join(WORDS[kind] for kind in kinds)} actions, "
        f"trained by {chosen}, which fits every kind of action; --algorithm takes these too: {', '.join(others)}"
    )


def _looked_at(scenario: Scenario) -> tuple[list[str] | None, Spec]:
    """What an environment looks like, and the patterns of teams that it needs; None: one team holds all agents."""
    from marl.types import ConfigError

    try:
        return None, _spec_of(scenario, None)
    except ConfigError as error:
        patterns = _stems(scenario) if "cannot be padded together" in str(error) else []
        if len(patterns) < 2:
            raise
        return patterns, _spec_of(scenario, patterns)


def _spec_of(scenario: Scenario, patterns: Sequence[str] | None) -> Spec:
    """What a scenario's environment looks like: one copy is made and closed. Raises ConfigError."""
    from marl import adapters
    from marl.adapters import lifecycle

    with quiet():
        batch = adapters.make(scenario.env, 1, patterns, env_kwargs=scenario.env_kwargs)
        lifecycle.close(batch)
    return batch.spec


def _stems(scenario: Scenario) -> list[str]:
    """A pattern for the agents of each name, as ``walker_*`` for ``walker_0``."""
    from marl.adapters import lifecycle
    from marl.adapters.resolve import resolve

    with quiet():
        env = lifecycle.open_env(resolve(scenario.env, scenario.env_kwargs)[0])
        agents = [str(agent) for agent in getattr(env, "possible_agents", ())]
        lifecycle.close_env(env)
    return list(dict.fromkeys(re.sub(r"\d+$", "*", agent) for agent in agents))


def misfit(scenario: Scenario) -> Exception | None:
    """The error of a learner that cannot act in its team's action space, with the recipes that can; None if all can."""
    from marl.conformance.spaces import WORDS
    from marl.recipes import fits, fitting, name_of
    from marl.setup import Setup
    from marl.types import MarlError

    setup = Setup(agents=scenario.agents)
    try:
        spec = _spec_of(scenario, setup.patterns)
    except MarlError:
        return None  # something else is wrong
    for one, team in zip(setup.configs, spec.teams, strict=True):
        kind = team.action.kind
        if not fits(one, [kind]):
            able = ", ".join(fitting([kind], len(spec.agents)))
            return config_error(
                f"{scenario.name}: {name_of(one)} cannot take the {WORDS[kind]} actions of team {team.name!r}; these "
                f"can: {able}"
            )
    return None


def file_name(reference: str) -> str:
    """What runs of a scenario or environment are called: without folders."""
    from marl import sources
    from marl.logs.files import safe_name

    file = sources.split(reference)
    parts = [reference] if file is None else [Path(file[0]).stem, *([file[1]] if file[1] else [])]
    return safe_name("-".join(parts).replace(":", "-"))
