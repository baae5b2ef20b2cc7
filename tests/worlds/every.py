"""Every world on disk, and something to do in it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import marl_envs
import numpy as np
from marl_envs.world import World

from marl.types import BatchEnv


def worlds_on_disk() -> Iterator[type[World]]:
    """Every World defined in a module of the package."""
    for found in pkgutil.iter_modules(marl_envs.__path__):
        module = importlib.import_module(f"marl_envs.{found.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and issubclass(value, World) and value.__module__ == module.__name__
            if own and hasattr(value, "kernels"):
                yield value


WORLDS = list(worlds_on_disk())


def random_actions(batch: BatchEnv, rng: np.random.Generator) -> list[np.ndarray]:
    """Uniform over what each agent truly has."""
    actions = []
    for team in batch.spec.teams:
        shape = (batch.num_envs, team.num_agents, *team.action.shape)
        if team.action.kind == "box":
            actions.append(rng.uniform(np.array(team.action.low), np.array(team.action.high), shape).astype(np.float32))
        else:
            actions.append(rng.integers(0, np.array(team.action.widths), shape))
    return actions
