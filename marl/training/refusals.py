"""What several processes cannot train together: refused in a line that says what to do."""

from __future__ import annotations

from collections.abc import Sequence

from marl.adapters.resolve import is_instance
from marl.cluster import Actors
from marl.exploration import BoltzmannGumbel, Exploration
from marl.learners import Learner
from marl.learners.base import LearnsInRanks
from marl.learners.off_policy import OffPolicy
from marl.learners.on_policy import OnPolicy
from marl.memory.replay import ReplayMemory
from marl.ranks import Member
from marl.setup import Setup
from marl.types import ConfigError, Spec


def _one_process_alone(setup: Setup) -> dict[str, bool]:
    """Arguments that only one process trains with, and whether each is given."""
    return {
        "league=": setup.league is not None,
        "curriculum=": setup.curriculum is not None,
        "shaping=": bool(setup.shaping),
        "channel=": setup.channel is not None,
        "parts=": bool(setup.parts),
    }


def refuse_ranks(setup: Setup) -> None:
    """Raise ConfigError for what several ranks cannot train."""
    found = _one_process_alone(setup) | {
        "workers=: give torchrun more ranks instead; workers": bool(setup.workers),
        "ray=: give torchrun more ranks instead; ray": setup.ray is not None,
    }
    for what, used in found.items():
        if used:
            raise ConfigError(f"torchrun: {what} is not built for several ranks; leave it out, or train in one process")


def refuse_learners(learners: Sequence[Learner], spec: Spec) -> None:
    """Raise ConfigError for learners that several ranks cannot share."""
    for learner, team in zip(learners, spec.teams, strict=True):
        name = type(learner).__name__.removesuffix("Learner")
        if not isinstance(learner, LearnsInRanks):
            raise ConfigError(
                f"torchrun: {name} on team {team.name!r} is not built for several ranks; PPO, A2C, DQN, DDPG, TD3 and "
                "SAC (ippo, mappo, qmix, maddpg, ...) are; train it in one process, with --workers"
            )
        if learner.refuses_ranks:
            raise ConfigError(
                f"torchrun: {name} on team {team.name!r}: {learner.refuses_ranks} is not built for several ranks; "
                "leave it out, or train in one process"
            )


def _refuse_replay(name: str, config: OffPolicy) -> None:
    """Raise ConfigError for what of an off-policy learner is not built for actors that hold the policy."""
    exploration = config.exploration
    found = {
        "overlap=True updates while copies step, which actors do anyway; leave it out": config.overlap,
        "memory= of your own cannot be told of several actors in turns; use ReplayMemory()": not (
            config.memory is None or isinstance(config.memory, ReplayMemory)
        ),
        "exploration=BoltzmannGumbel() counts the visits of all copies; use another one": isinstance(
            exploration, BoltzmannGumbel
        ),
        "exploration= of your own is not built for actors that hold the policy; use one of marl.exploration": (
            type(exploration).__module__ not in (Exploration.__module__, "builtins")
        ),
        "a learned channel= is not built for actors that hold the policy; use channel=None": config.channel is not None,
    }
    for what, used in found.items():
        if used:
            raise ConfigError(f"staleness: {name}: {what}, or leave staleness out (actors then step the copies only)")


def refuse_asynchronous(setup: Setup, actors: Actors) -> None:
    """Raise ConfigError for what actors that hold the policy cannot collect, or nobody can learn from it."""
    Member(0, actors.count).share(setup.num_envs or 1)
    found = _one_process_alone(setup)
    for what, used in found.items():
        if used:
            raise ConfigError(
                f"staleness: {what} is not built for actors that hold the policy; leave it out, or leave staleness out "
                "(actors then step the copies only)"
            )
    if is_instance(setup.env):
        raise ConfigError(
            "staleness: every actor makes environments of its own; pass a function that makes the environment, e.g. "
            "lambda: MyEnv()"
        )
    rollouts: set[int | None] = set()
    for config in setup.configs:
        name = type(config).__name__
        if isinstance(config, OffPolicy):
            rollouts.add(None)
            _refuse_replay(name, config)
            continue
        if not isinstance(config, OnPolicy):
            raise ConfigError(
                f"staleness: {name} does not learn from what actors collect; use a learner of the library, or leave "
                "staleness out (actors then step the copies only)"
            )
        rollouts.add(config.rollout)
        if actors.staleness and config.correction is None:
            raise ConfigError(
                f"staleness={actors.staleness}: {name} learns from rollouts of its own policy; use "
                "correction=marl.VTrace() (marl.impala, marl.appo), or staleness=0"
            )
        if config.lag:
            raise ConfigError(
                f"staleness: lag={config.lag} delays the policy where it plays in this process; use lag=0: actors are "
                "behind by themselves"
            )
        if config.channel is not None:
            raise ConfigError(
                "staleness: a learned channel= is not built for actors that hold the policy; use channel=None, or "
                "leave staleness out (actors then step the copies only)"
            )
    if len(rollouts) > 1 and None in rollouts:
        raise ConfigError(
            "staleness: actors collect rollouts of all teams or for replays of all teams; give the teams PPO and A2C, "
            "or DQN, DDPG, TD3 and SAC"
        )
    if len(rollouts) > 1:
        raise ConfigError(
            f"staleness: actors collect whole rollouts of all teams; give the teams one rollout=, not {rollouts}"
        )
