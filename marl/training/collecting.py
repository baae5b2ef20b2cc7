"""An actor that holds the policy and its share of the copies, and collects whole fragments by itself.

It is one of several that act alike, as ranks do: it builds the system's learners, acts by the loop's own step, and
sends its memories once they are full. What goes each way is one ``bytes``, which Ray sends as it is.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from marl import parallel, ranks
from marl.adapters.faults import faults_of
from marl.adapters.serve import attempt
from marl.adapters.spawn import THREAD_VARIABLES
from marl.compiled import use
from marl.environments import Environments
from marl.learners import Learner
from marl.learners.base import HasPolicyNet, restore_generator
from marl.memory.fragments import Fragment, packed
from marl.memory.recorder import Recorded, Recorder, kept
from marl.memory.rollout import Rollout
from marl.setup import Setup
from marl.training import loop
from marl.training.state import TrainingState
from marl.types import Array, BatchEnv, Episode, MarlError, Spec, Step

Seeds = tuple[int, int] | None  # of copies and of actions; None: those of one process


@dataclass(frozen=True)
class Policies:
    """What actors play with.

    version: how many updates have made it.
    steps, total: the learner's clock.
    seen: how many environment steps each team's memory has seen, where it counts them.
    networks: of each team's policy everything that acting reads, by name.
    streams: the states of the teams' random streams, where actors and learner take turns in drawing from them.
    """

    version: int
    steps: int
    total: int | None
    seen: list[int]
    networks: list[dict[str, Array]]
    streams: list[Array] | None

    @staticmethod
    def of(state: TrainingState, version: int, take_turns: bool) -> Policies:
        """Those of the learners as they are now."""
        networks = [{name: x.cpu().numpy() for name, x in net_of(one).state_dict().items()} for one in state.learners]
        streams = streams_of(state) if take_turns else None
        seen = [int(getattr(learner.memory, "seen_steps", 0)) for learner in state.learners]
        return Policies(version, state.steps, state.total, seen, networks, streams)


@dataclass(frozen=True)
class Collected:
    """What an actor has collected.

    number: how many the actor has collected before.
    version: of the policies that played.
    parts: of each team, for :mod:`marl.training.intake`.
    steps: the first one and those that followed, where a replay is to be told of them.
    episodes: those that ended, with the row in which each did.
    streams: as they are after it.
    faults: what went wrong in its copies so far.
    """

    number: int
    version: int
    parts: list[Fragment | Recorded]
    steps: list[Step]
    episodes: list[tuple[int, Episode]]
    streams: list[Array]
    faults: dict[str, int]


class Collector:
    """The far end of one actor."""

    def __init__(self, rank: int, size: int) -> None:
        """``rank``: which of ``size`` actors; nothing is made yet."""
        self._member = ranks.Member(rank, size)
        self._told: list[tuple[str, str]] = []
        self._version: int | None = None
        self._number = 0

    def create(self, payload: bytes, seeds: Seeds) -> bytes:
        """Make the learners and the copies."""
        for name in THREAD_VARIABLES:
            os.environ[name] = "1"
        torch.set_num_threads(1)
        return self._answer(lambda: self._create(payload, seeds))

    def collect(self, policies: bytes) -> bytes:
        """Fill all memories, and send what is in them."""
        return self._answer(lambda: self._collect(policies))

    def close(self) -> None:
        """Close the environments."""
        self._environments.close()

    def _create(self, payload: bytes, seeds: Seeds) -> None:
        # From the learner, over Ray, which could make us run anything.
        setup, spec, compiled = pickle.loads(payload)
        assert isinstance(setup, Setup)
        assert isinstance(spec, Spec)
        use(compiled)  # as the learner does, whose draws these are
        with ranks.among(self._member):
            self._environments = Environments(setup)
            self._state = TrainingState(setup, spec, torch.device("cpu"), self._environments)
        self._state.join(_nobody)
        if seeds is not None:
            self._state.env_seed, stream = seeds
            for place, learner in enumerate(self._state.learners):
                learner.generator.manual_seed(stream + place)  # type: ignore[attr-defined]
        self._env: BatchEnv = self._state.open()
        ledger = getattr(self._env, "ledger", None)
        if ledger is not None:
            ledger.tell = lambda kind, text: self._told.append((kind, text))

    def _collect(self, policies: bytes) -> Collected:
        found: Policies = pickle.loads(policies)  # likewise
        state = self._state
        if found.version != self._version:
            for learner, network in zip(state.learners, found.networks, strict=True):
                net_of(learner).load_state_dict({name: torch.from_numpy(x.copy()) for name, x in network.items()})
            self._version = found.version
            if found.streams is not None:
                restore_streams(state, found.streams)
        state.steps, state.total = found.steps, found.total
        memories = [memory_of(learner) for learner in state.learners]
        for memory, seen in zip(memories, found.seen, strict=True):
            if memory.full:  # it was sent as it lay there
                memory.restart()
            if isinstance(memory, Recorder):
                memory.seen_steps = seen
        told = any(isinstance(memory, Recorder) for memory in memories)
        assert state.seen is not None
        steps = [kept(state.seen)] if told else []
        with parallel.one_thread_each():
            while not all(memory.full for memory in memories):
                for learner in state.learners:
                    learner.ready(state.clock)  # by which it explores
                loop.advance(state, self._env)
                steps += [kept(state.seen)] if told else []
        held, state.log.held = state.log.held, []
        episodes = [((step - found.steps) // state.num_envs, episode) for step, episode in held]
        parts = [memory.packed() if isinstance(memory, Recorder) else packed(memory) for memory in memories]
        number, self._number = self._number, self._number + 1
        return Collected(number, found.version, parts, steps, episodes, streams_of(state), faults_of(self._env))

    def _answer(self, action: Any) -> bytes:
        verdict, value = attempt(action)
        told, self._told = self._told, []
        return pickle.dumps((os.getpid(), told, verdict, value), protocol=5)


def net_of(learner: Learner) -> torch.nn.Module:
    """The network that a learner acts with."""
    assert isinstance(learner, HasPolicyNet)
    return learner.policy_net


def memory_of(learner: Learner) -> Rollout | Recorder:
    """The memory of an actor's learner."""
    assert isinstance(learner.memory, Rollout | Recorder)
    return learner.memory


def rollout_of(learner: Learner) -> Rollout:
    """The memory of an on-policy learner."""
    assert isinstance(learner.memory, Rollout)
    return learner.memory


def streams_of(state: TrainingState) -> list[Array]:
    """The states of the learners' random streams."""
    return [np.asarray(learner.generator.get_state()) for learner in state.learners]  # type: ignore[attr-defined]


def restore_streams(state: TrainingState, streams: list[Array]) -> None:
    """Go on with these."""
    for learner, stream in zip(state.learners, streams, strict=True):
        restore_generator(learner.generator, torch.from_numpy(stream.copy()))  # type: ignore[attr-defined]


def _nobody(path: object) -> Any:
    raise MarlError(f"{path}: actors load no policies")
