"""The state of a training run: learners, the step to act on, the clock, the history, and the parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl import renamed
from marl.curriculum.tasks import Task
from marl.environments import Environments
from marl.league import PSRO, LeagueState
from marl.league.state import PolicySource
from marl.learners import Learner
from marl.learners.base import OverlapsEnvStep
from marl.playing.evaluate import Players
from marl.schedules import Clock
from marl.setup import Setup
from marl.training.history import EpisodeLog
from marl.training.part import Part, PartHooks
from marl.training.parts import AFTER, BEFORE, LEAGUE, Context, LeaguePart, Recipe, recipes
from marl.types import BatchEnv, CheckpointError, ConfigError, Spec, Step

EARLY = ("shaping", "cross_team")  # parts that need no environment to be built
NEEDED_BY_TASKS = ("curriculum", "tasks")  # settings without which nobody knows what to play

NAMES = 2  # of the keys of a saved state; in 0.1 they had others


class TrainingState:
    """Everything that changes while a system trains."""

    def __init__(self, setup: Setup, spec: Spec, device: torch.device, environments: Environments) -> None:
        """Build one learner per team and start all counters."""
        self.setup, self.spec, self.device, self.environments = setup, spec, device, environments
        self.num_envs, self.workers = setup.num_envs or 1, setup.workers or 0
        seeds = np.random.SeedSequence(setup.seed).spawn(len(setup.configs) + 1)
        self.env_seed = int(seeds[0].generate_state(1, np.uint32)[0])
        self.learners: list[Learner] = [
            config.build(spec, team, self.num_envs, seed, device)
            for config, team, seed in zip(setup.configs, spec.teams, seeds[1:], strict=True)
        ]
        self.steps, self.logged_at = 0, 0
        self.total: int | None = None  # the step at which training ends, for schedules
        self.log = EpisodeLog(spec)
        self.step: Step | None = None
        self.seen: Step | None = None
        self.finished = False  # whether an episode ended in the newest step
        self.pending: dict[str, Tensor] = {}  # metrics of learners since the last row
        self.restarts: list[int] = []  # places of the learners to build anew before the next step
        self.parts: dict[str, Part] = {}  # those that are built
        self.saved: dict[str, Any] = {}  # states of parts that are not
        self.saved_env: Any = None
        self.lost: str | None = None  # a part that the checkpoint had, and that nobody can make again
        self.told_of_losses = False
        self._recipes: dict[str, Recipe] = {}
        self.connect()

    @property
    def clock(self) -> Clock:
        """The current step and the total."""
        return Clock(self.steps, self.total)

    # --- parts --------------------------------------------------------------------------------------------------------

    def join(self, load: Callable[[Path], PolicySource]) -> None:
        """Set the parts of this setup; each is built when it is first needed. ``load``: a system from a folder."""
        self._recipes = recipes(
            Context(
                self.setup,
                self.spec,
                self.device,
                self.learners,
                make_env=self.environments.another,
                load=load,
                target=lambda: {} if self.lost in NEEDED_BY_TASKS else self.setup.target,
                entries_of=self.environments.message_entries,
            )
        )
        for name in EARLY:
            if name in self._recipes:
                self.part(name)

    def part(self, name: str, env: BatchEnv | None = None) -> Part:
        """A part, built and brought back to its saved state when it is first asked for.

        Raises:
            CheckpointError: if the saved state does not fit.
        """
        if name not in self.parts:
            part = self._recipes[name](env)
            part.connect(self.learners)
            if self.saved.get(name) is not None:
                try:
                    part.load_state_dict(self.saved[name])
                except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                    own = getattr(self.setup, name, "this setup")
                    raise CheckpointError(f"the saved {name} does not fit {own}: {error!r}") from error
            self.saved.pop(name, None)
            self.parts[name] = part
            self.parts = {name: self.parts[name] for name in self._recipes if name in self.parts}
            self.hooks = PartHooks(list(self.parts.values()))
        return self.parts[name]

    def build(self, env: BatchEnv) -> None:
        """Build all parts that are not yet."""
        for name in self._recipes:
            self.part(name, env)

    def connect(self) -> None:
        """Give every part the learners."""
        self.overlaps = [
            isinstance(learner, OverlapsEnvStep) and learner.overlaps_env_step for learner in self.learners
        ]
        self.overlapping = any(self.overlaps)
        for part in self.parts.values():
            part.connect(self.learners)
        self.hooks = PartHooks(list(self.parts.values()))  # who has something to do depends on the learners

    def refuse_lost(self) -> None:
        """Raise CheckpointError if the checkpoint had a part that is not here."""
        if self.lost is None:
            return
        if self.lost in {field.name for field in fields(Setup)}:
            raise CheckpointError(f"its {self.lost} holds code of yours: pass {self.lost}= to MultiAgentSystem.load")
        raise CheckpointError(
            f"it was trained with a part {self.lost!r} of yours: pass parts= to MultiAgentSystem.load"
        )

    @property
    def league_state(self) -> LeagueState:
        """The league as it runs. Raises ConfigError if there is none."""
        if self.setup.league is None:
            raise ConfigError("this system has no league: give league=marl.League() or marl.PSRO()")
        part = self.part("league")
        assert isinstance(part, LeaguePart)
        return part.league_state

    @property
    def target(self) -> Task:
        """The tasks that evaluation plays. Raises CheckpointError if the checkpoint's curriculum is not here."""
        if self.lost in NEEDED_BY_TASKS:
            self.refuse_lost()
        return self.setup.target

    @property
    def players(self) -> Players:
        """What plays where these learners do: frozen copies of them, or the mixtures of a PSRO run."""
        if self.lost == "league" and "mixture" in self.saved.get("league", {}):
            self.refuse_lost()
        mixes = isinstance(self.setup.league, PSRO)
        mixtures = [self.league_state.strategy(team.name) if mixes else () for team in self.spec.teams]
        return Players(
            self.spec, self.device, self.learners, self.setup.channels,
            self.league_state.sides if mixes else (), mixtures, self.setup.seed, self.setup.channel,
        )  # fmt: skip

    def show(self, step: Step) -> Step:
        """The step as learners see it."""
        for show in self.hooks.show:
            step = show(step)
        return step

    def restart(self) -> None:
        """Build anew the learners that a part wants restarted; of episodes that run they learn nothing."""
        assert self.step is not None
        self.seen = self.show(self.step)
        for place in self.restarts:
            seed = np.random.SeedSequence([self.setup.seed, LEAGUE, place, self.steps])
            team = self.spec.teams[place]
            learner = self.setup.configs[place].build(self.spec, team, self.num_envs, seed, self.device)
            learner.memory.start(self.seen)
            self.learners[place] = learner
        self.restarts = []
        self.connect()

    # --- the environment ----------------------------------------------------------------------------------------------

    def open(self) -> BatchEnv:
        """The environment, at the step to act on."""
        self.refuse_lost()
        env = self.environments.open(self.num_envs, self.workers, self.spec)
        self.build(env)
        for start in self.hooks.start:
            start()
        if self.step is None and self.saved_env is not None:
            try:
                self.step, self.saved_env = env.load_state_dict(self.saved_env), None
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"the saved environment makes no sense here: {error!r:.200}") from error
            self.seen = self.show(self.step)
            self._tell_lost_copies(self.step)
        elif self.step is None:
            options = {name: value for ask in self.hooks.options for name, value in ask().items()}
            self.step = env.reset(self.env_seed, options or None)
            for begin in self.hooks.begin:
                begin(env, self.step, self.clock)
            self.seen = self.show(self.step)
            for learner in self.learners:
                learner.memory.start(self.seen)
        return env

    def _tell_lost_copies(self, step: Step) -> None:
        """Which copies of a loaded system could not go on with their episodes."""
        lost = np.flatnonzero(step.discarded)
        if lost.size:
            which = ", ".join(map(str, lost[:8])) + (", ..." if lost.size > 8 else "")
            logging.getLogger("marl.training").warning(
                "not bit-exact: %s does not come back in copies %s, where the same seed and actions lead to another "
                "observation (it is not deterministic, or has changed) or the episode was too long to be repeated; "
                "they begin new episodes",
                *(self.spec.env, which),
            )

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, as a tree of tensors, arrays and JSON values."""
        training = self.environments.training
        on_the_way = self.step is not None and training is not None
        parts = self.saved | {name: part.state_dict() for name, part in self.parts.items()}
        return {
            "learners": {
                team.name: learner.state_dict() for team, learner in zip(self.spec.teams, self.learners, strict=True)
            },
            "env": training.state_dict() if on_the_way and training is not None else self.saved_env,
            "parts": {name: state for name, state in parts.items() if state is not None},
            "names": NAMES,
            "restarts": list(self.restarts),
            "steps": self.steps,
            "total": self.total,
            "logged_at": self.logged_at,
            "pending": dict(self.pending),
            "torch_rng": torch.get_rng_state(),
            **self.log.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state; the environment and what needs it are brought back when training goes on."""
        state = migrated(state)
        for team, learner in zip(self.spec.teams, self.learners, strict=True):
            learner.load_state_dict(state["learners"][team.name])
        self.saved_env, self.step, self.seen = state["env"], None, None
        self.saved = dict(state["parts"])
        self.lost = next((name for name, own in self.saved.items() if name not in self._recipes), None)
        self.parts = {}
        for name in EARLY:
            if name in self._recipes:
                self.part(name)
        self.hooks = PartHooks(list(self.parts.values()))
        self.restarts = [int(place) for place in state["restarts"]]
        self.steps, self.total = int(state["steps"]), state["total"]
        self.logged_at, self.pending = int(state["logged_at"]), dict(state["pending"])
        self.log.load_state_dict(state)
        torch.set_rng_state(state["torch_rng"])


def migrated(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state in today's form, with today's names. In the first schema every part stood beside the learners."""
    if state.get("names") == NAMES:
        return state
    if "parts" in state:
        of_users = {name: own for name, own in state["parts"].items() if name not in (*BEFORE, *AFTER)}
        today: dict[str, Any] = renamed.state({**state, "parts": {}})
        return today | {"parts": renamed.state(state["parts"]) | of_users}
    names = ("shaping", "league", "curriculum", "messages")
    parts: dict[str, Any] = {name: own for name in names if (own := state.get(name)) is not None}
    restarts: Sequence[int] = ()
    if "league" in parts:
        league = dict(parts["league"])
        restarts = [int(place) for place in league.pop("anew", ())]
        waits = list(league["waits"])
        for place in restarts:
            waits[place] = np.ones_like(waits[place])
        parts["league"] = league | {"waits": waits}
    kept = {name: own for name, own in state.items() if name not in names}
    return migrated({**kept, "parts": parts, "restarts": restarts})
