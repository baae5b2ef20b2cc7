"""Recipes by name: which there are, what one agent's are called, and which fit an environment's actions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from marl import algorithms
from marl.config import described, unknown
from marl.grid import Counterfactual
from marl.learners import A2C, DDPG, DQN, PPO, SAC, TD3, LearnerConfig
from marl.types import ConfigError

Recipe = Callable[..., LearnerConfig]
PLAIN = {"ppo": "ippo", "a2c": "ia2c", "dqn": "iql", "ddpg": "iddpg", "td3": "itd3", "sac": "isac"}  # of one agent
LEARNERS: Mapping[str, Recipe] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "ddpg": DDPG, "td3": TD3, "sac": SAC}
# What tells one recipe from another of the same learner, the most telling first.
AXES = (("critic", "credit", "sequential", "correction"), ("critic", "sequential", "correction"), ("correction",))


def recipes() -> dict[str, Recipe]:
    """All recipes of :mod:`marl.algorithms` by name."""
    own = vars(algorithms).items()
    return {
        name: value
        for name, value in own
        if inspect.isfunction(value) and value.__module__ == algorithms.__name__ and not name.startswith("_")
    }


def canonical(name: str) -> str:
    """A recipe's name; a learner's plain name is that of the recipe with local critics, ``ppo`` is ``ippo``."""
    return PLAIN.get(name, name)


def recipe_named(name: str, where: str, more: Sequence[str] = ()) -> Recipe:
    """A recipe by its name, or by its learner's plain name the learner itself with its own defaults.

    Args:
        name: of the recipe.
        where: what names it, for the error.
        more: further names that would have been right there.

    Raises:
        ConfigError: if there is none, naming the nearest.
    """
    known = {**recipes(), **LEARNERS}
    if name not in known:
        raise ConfigError(unknown(where, name, dict.fromkeys([*more, *PLAIN, *known]), "algorithm"))
    return known[name]


def name_of(settings: LearnerConfig) -> str:
    """The recipe that a learner's settings are one of, with its plain name where critics are local."""
    return name_said(described(settings))


def name_said(settings: Mapping[str, Any]) -> str:
    """The same of settings as a run's ``config.json`` describes them, of which nothing is made."""
    plain = {recipe: name for name, recipe in PLAIN.items()}
    for axes in AXES:
        for name, recipe in _described().items():
            if _kinds(recipe, axes) == _kinds(settings, axes):
                return plain.get(name, name)
    return str(settings.get("$class", "unknown")).rpartition(":")[2].lower()


@functools.cache
def _described() -> dict[str, Mapping[str, Any]]:
    """All recipes by name, as run folders describe them."""
    return {name: described(recipe()) for name, recipe in recipes().items()}


def _kinds(settings: Mapping[str, Any], axes: Sequence[str]) -> list[Any]:
    """The learner, and what it has on some axes."""
    return [settings.get("$class"), *(_kind(settings.get(axis)) for axis in axes)]


def _kind(value: Any) -> Any:
    return value.get("$class", value.get("$code")) if isinstance(value, Mapping) else value


def names_of(agents: LearnerConfig | Mapping[str, LearnerConfig]) -> str:
    """The recipes of all teams in words: ``mappo``, or ``mappo, ppo``."""
    settings = agents.values() if isinstance(agents, Mapping) else [agents]
    return ", ".join(dict.fromkeys(map(name_of, settings)))


def fits(settings: LearnerConfig, kinds: Sequence[str]) -> bool:
    """Whether a learner acts in all of these kinds of action."""
    one_choice = isinstance(getattr(settings, "credit", None), Counterfactual)
    return set(kinds) <= (frozenset(("discrete",)) if one_choice else settings.action_kinds)


def fitting(kinds: Sequence[str], num_agents: int) -> list[str]:
    """The recipes that act in all of these kinds of action; for one agent the plain ones, which are the same there."""
    known = recipes()
    return [name for name in (PLAIN if num_agents == 1 else known) if fits(known[canonical(name)](), kinds)]
