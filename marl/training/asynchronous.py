"""Training on fragments that actors collect by themselves: the learner takes those that have come, and never waits for
one of them in particular."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch

from marl import parallel
from marl.adapters import lifecycle
from marl.adapters.sendable import dumps
from marl.cluster import Actors
from marl.compiled import backend
from marl.learners.off_policy import OffPolicyLearner
from marl.memory.base import Decision
from marl.training.collecting import Collected, Policies, restore_streams
from marl.training.fleet import Fleet
from marl.training.history import History
from marl.training.intake import at_actors, intake, rows_of
from marl.training.loop import Course, Request
from marl.training.refusals import refuse_asynchronous
from marl.training.state import TrainingState
from marl.types import BatchEnv, ConfigError

COUNTS = ("version", "begun", "learned", "discarded")


def train(
    state: TrainingState,
    asked: Request,
    log: Callable[[dict[str, float]], None] | None = None,
    tick: Callable[[], bool] | None = None,
) -> History:
    """Train as :func:`marl.training.loop.train` does, an update after the other instead of steps.

    Raises:
        ConfigError: for what actors cannot collect.
        ResourceError: if the cluster cannot be had, or actors are lost too often.
        NonFiniteError: if losses or gradients stay NaN or infinite.
    """
    with parallel.one_thread_each():
        return Learning(state, asked, log, tick).to_end()


class Learning(Course):
    """A training on its way, as many fragments as actors at a time."""

    def _opened(self) -> BatchEnv:
        """The actors, unless they collect already."""
        self.fleet = opened(self.state)
        self._stale: list[int] = []  # of the fragments since the last row of metrics
        return cast(BatchEnv, self.fleet)  # what is asked of it from here on are faults

    def advance(self, decisions: Sequence[Decision] | None = None) -> None:
        """Take the next fragments."""
        state, counts, before = self.state, self.state.asynchronous, time.perf_counter()
        version, lockstep = counts["version"], self.fleet.bound == 0
        taken = self.fleet.take(version, lambda: Policies.of(state, version, lockstep))
        state.spent["environment"] += time.perf_counter() - before
        ranks, found = [rank for rank, _ in taken], [one for _, one in taken]
        for take_in in self.fleet.intakes:
            take_in(ranks, found)
        if lockstep:
            restore_streams(state, found[0].streams)  # all have drawn alike
        self._note(version, found)
        state.steps += self.fleet.rows * state.num_envs
        ended = [(row, episode) for one in found for row, episode in one.episodes]
        state.record([episode for _, episode in sorted(ended, key=lambda one: one[0])])
        counts["version"] = version + 1  # after the update that follows
        self._updated = False

    def _note(self, version: int, found: Sequence[Collected]) -> None:
        """How old the policies are that played, for the next row of metrics."""
        pending, counts = self.state.pending, self.state.asynchronous
        if "staleness" not in pending:
            self._stale = []
        self._stale += [version - one.version for one in found]
        pending["staleness"] = torch.tensor(float(np.mean(self._stale)))
        pending["staleness_max"] = torch.tensor(float(max(self._stale)))
        pending["discarded_steps"] = torch.tensor(float(counts["discarded"]))


def opened(state: TrainingState) -> Fleet:
    """The actors, begun when first needed. Raises ConfigError, ResourceError."""
    environments, actors = state.environments, state.environments.asynchronous
    assert actors is not None
    if state.ranks is not None:
        raise ConfigError("torchrun: staleness= is not built for several ranks; leave it out, or train in one process")
    refuse_asynchronous(state.setup, actors)
    if not isinstance(environments.training, Fleet):
        state.refuse_lost()
        sample = environments.open(state.num_envs, 0, state.spec)
        state.build(sample)
        lifecycle.close(sample)  # there may be room for few
        environments.training = None
        environments.training = cast(BatchEnv, _begun(state, actors))
    fleet = cast(Fleet, environments.training)
    for start in state.hooks.start:
        start()
    return fleet


def _begun(state: TrainingState, actors: Actors) -> Fleet:
    counts = {name: int(state.asynchronous.get(name, 0)) for name in COUNTS}
    counts["discarded"] = counts["begun"] - counts["learned"]  # what was on its way was not saved
    state.asynchronous, state.step, state.saved_env = counts, None, None
    if state.steps:
        logging.getLogger("marl.training").warning(
            "not bit-exact: actors begin new episodes at step %s; parameters, moments, normalizers and counters go on",
            f"{state.steps:,}",
        )
    off_policy = [isinstance(learner, OffPolicyLearner) for learner in state.learners]
    state.refill(state.num_envs // actors.count if all(off_policy) else state.num_envs)
    rows = max(rows_of(learner, state.num_envs) for learner in state.learners)
    agents: Any = state.setup.agents
    if isinstance(agents, Mapping):
        agents = {pattern: at_actors(config, rows) for pattern, config in agents.items()}
    else:
        agents = at_actors(agents, rows)
    setup = replace(state.setup, agents=agents, ray=None, actors=None, staleness=None, workers=0, device="cpu")
    try:
        payload = dumps((setup, state.spec, backend.word))
    except Exception as error:
        raise ConfigError(
            f"staleness: the environment or a learner's settings cannot be sent to actors ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); define what they need in a module, or leave staleness out"
        ) from error
    fleet = Fleet(actors, state.spec, state.num_envs, rows, payload, state.env_seed, state.steps, counts)
    fleet.intakes = [intake(place, learner) for place, learner in enumerate(state.learners)]
    return fleet
