"""A bundle where a command takes a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marl.cli.output import quiet

if TYPE_CHECKING:
    from marl.playing import Report
    from marl.system import MultiAgentSystem
    from marl_runtime import Team


def is_bundle(path: Path) -> bool:
    """Whether a folder looks like a bundle rather than a run or checkpoint."""
    return os.path.lexists(path / "policy_0.json") and os.path.lexists(path / "manifest.json")


def world_of(team: Team, env: Any = None, trust: bool = False) -> MultiAgentSystem:
    """The environment of a bundle, as a system of random learners. ``env``: named again, or another one.

    Raises:
        CheckpointError: if the bundle names code, files or addresses that are not trusted.
    """
    from marl import received
    from marl.config import from_json
    from marl.learners import Random
    from marl.system import MultiAgentSystem
    from marl.types import CheckpointError

    where = f"bundle {team.path}"
    with received.explained(where):
        world = team.manifest["world"]
        if env is None:
            if not isinstance(world["reference"], str):
                raise CheckpointError(f"{where}: it names no environment: name it by --env")
            if not trust:
                received.refuse_env(where, world["reference"])
        for name in received.FOR_ENV if not trust else ():
            received.refuse_side_effects(where, received.side_effects(world["options"].get(name), name))
        options = {name: from_json(value) for name, value in world["options"].items()}
        patterns = world["patterns"]
        agents = Random() if patterns is None else {str(pattern): Random() for pattern in patterns}
        return MultiAgentSystem(agents, world["reference"] if env is None else env, num_envs=1, **options)


def evaluate_bundle(team: Team, system: MultiAgentSystem, engine: str, plan: Any) -> Report:
    """Play whole episodes with exported agents."""
    from marl.deploy.playing import BundlePlayers
    from marl.playing.evaluate import evaluate

    players = BundlePlayers.of(system.training.players, team, engine, trained=False)
    with quiet():
        lender = system.environments.lender(None, False, False)
        return evaluate(players, plan, lender, system.environments.message_entries)
