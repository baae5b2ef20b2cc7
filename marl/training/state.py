"""The state of a training run: learners, the step to act on, the clock, the history, and the parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marl import checkpoint, ranks, reduce, renamed
from marl.adapters.tasks import ByKwargs, largest_task
from marl.config import described, from_json, to_json
from marl.curriculum.scheduler import Curriculum
from marl.curriculum.state import checked_curricula, task_ranges
from marl.curriculum.tasks import Task
from marl.environments import Environments
from marl.league import PSRO, LeagueState
from marl.league.state import PolicySource
from marl.learners import Learner
from marl.learners.base import OverlapsEnvStep, TakesChanges
from marl.playing.evaluate import Players
from marl.schedules import SCHEDULES, Clock, value_at
from marl.setup import Setup
from marl.training.callback import Callback, CallbacksPart
from marl.training.changes import Changeable
from marl.training.history import EpisodeLog
from marl.training.part import Part, PartHooks
from marl.training.parts import AFTER, BEFORE, LEAGUE, Context, LeaguePart, Recipe, recipes
from marl.training.refusals import refuse_asynchronous, refuse_learners, refuse_ranks
from marl.types import BatchEnv, CheckpointError, ConfigError, Episode, MarlError, Spec, Step

EARLY = ("shaping", "cross_team", "callbacks")  # parts that need no environment to be built
NEEDED_BY_TASKS = ("curriculum", "tasks")  # settings without which nobody knows what to play

MOST_CHANGES = 1_000  # that are told, the newest ones; of each setting the present value is kept in any case
TALK_EVERY = 8  # steps of all copies between two times that ranks tell each other of episodes
NAMES = 2  # of the keys of a saved state; in 0.1 they had others


class TrainingState:
    """Everything that changes while a system trains."""

    def __init__(self, setup: Setup, spec: Spec, device: torch.device, environments: Environments) -> None:
        """Build one learner per team and start all counters."""
        self.setup, self.spec, self.device, self.environments = setup, spec, device, environments
        self.asked = setup  # as it was before anything was changed
        self.changed: dict[str, Any] = {}  # the present values of settings that were changed, as JSON, by name
        self.changes: list[dict[str, Any]] = []  # when they were changed, for people
        self.num_envs, self.workers = setup.num_envs or 1, setup.workers or 0
        self.ranks = environments.ranks  # the processes that this training is spread over; None: this one
        self.copies = self.num_envs if self.ranks is None else self.ranks.share(self.num_envs)  # stepped here
        together = self.ranks is not None and self.ranks.learns
        if together:
            refuse_ranks(setup)
        seeds = np.random.SeedSequence(setup.seed).spawn(len(setup.configs) + 1)
        self.env_seed = int(seeds[0].generate_state(1, np.uint32)[0])
        self.learners: list[Learner] = self._learners()
        if together:
            refuse_learners(self.learners, spec)
        if environments.asynchronous is not None:
            refuse_asynchronous(setup, environments.asynchronous)
        self.steps, self.logged_at = 0, 0
        self.total: int | None = None  # the step at which training ends, for schedules
        self.log = EpisodeLog(spec)
        self.step: Step | None = None
        self.seen: Step | None = None
        self.finished = False  # whether an episode ended in the newest step
        self.newest: Sequence[Episode] = ()  # those that ended in it
        self.asynchronous: dict[str, Any] = {}  # what is counted where actors collect whole fragments
        self.pending: dict[str, Tensor] = {}  # metrics of learners since the last row
        self.restarts: list[int] = []  # places of the learners to build anew before the next step
        self.parts: dict[str, Part] = {}  # those that are built
        self.saved: dict[str, Any] = {}  # states of parts that are not
        self.saved_env: Any = None
        self.lost: str | None = None  # a part that the checkpoint had, and that nobody can make again
        self.told_of_losses = False
        self.spent = {"environment": 0.0, "learning": 0.0, "all": 0.0}  # seconds since it was made or loaded
        self.other_ranks = ""  # what to tell of a checkpoint of another number of ranks
        self._wish = False  # to end, of this rank
        self._talked_at, self._talks = 0, False  # when ranks last told each other of episodes; whether they do now
        self._recipes: dict[str, Recipe] = {}
        self._context: Context | None = None
        self.connect()

    @property
    def clock(self) -> Clock:
        """The current step and the total."""
        return Clock(self.steps, self.total)

    def _learners(self) -> list[Learner]:
        """New learners, with memories for as many copies as there are here."""
        seeds = np.random.SeedSequence(self.setup.seed).spawn(len(self.setup.configs) + 1)
        with reduce.use(self.ranks or reduce.current()):
            return [
                config.build(self.spec, team, self.copies, seed, self.device)
                for config, team, seed in zip(self.setup.configs, self.spec.teams, seeds[1:], strict=True)
            ]

    def take_copies(self, copies: int) -> None:
        """Go on with rows of so many copies: a replay of others is filled anew. ConfigError if they fit nowhere."""
        if copies == self.copies:
            return
        self.copies, before = copies, self.learners[:]
        self.learners[:] = self._learners()
        for old, new in zip(before, self.learners, strict=True):
            new.load_state_dict(_but_for_memory(old.state_dict(), new))
        self.connect()

    # --- parts --------------------------------------------------------------------------------------------------------

    def join(self, load: Callable[[Path], PolicySource]) -> None:
        """Set the parts of this setup; each is built when it is first needed. ``load``: a system from a folder."""
        self._context = Context(
            self.setup,
            self.spec,
            self.device,
            self.learners,
            make_env=self.environments.another,
            load=load,
            target=lambda: {} if self.lost in NEEDED_BY_TASKS else self.setup.target,
            entries_of=self.environments.message_entries,
        )
        self._recipes = recipes(self._context)
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
            self.bind()
        return self.parts[name]

    def bind(self) -> None:
        """Look anew at who has something to do."""
        self.hooks = PartHooks(list(self.parts.values()))

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
        self.bind()  # who has something to do depends on the learners

    @property
    def callbacks(self) -> CallbacksPart:
        """What tells callbacks."""
        part = self.part("callbacks")
        assert isinstance(part, CallbacksPart)
        return part

    @contextmanager
    def called(self, system: Any, callbacks: Sequence[Callback]) -> Iterator[None]:
        """Tell callbacks of a training of this system, and at last of its end. Raises ConfigError."""
        part = self.callbacks
        try:
            part.begin_training(system, callbacks)
            self.bind()
            yield
            part.tell_end()
        finally:
            part.end_training()
            self.bind()

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

    # --- changes ------------------------------------------------------------------------------------------------------

    def value(self, key: str) -> Any:
        """A setting that may change; of a schedule the value of now. Raises ConfigError if teams differ in it."""
        settings = Changeable(self.setup, self.spec, self.learners)
        names, inner = settings.find(key)
        found = {name: settings.get(name, inner) for name in names}
        first, *others = found.values()
        if any(other != first for other in others):
            told = ", ".join(f"{name}={value!r:.80}" for name, value in found.items())
            raise ConfigError(f"value({key!r}): teams differ, ask for one of {told}")
        return value_at(first, self.clock) if isinstance(first, SCHEDULES) else first

    def change(self, key: str, value: Any) -> None:
        """Give a setting that may change another value, from the next step on. Raises ConfigError."""
        before = Changeable(self.setup, self.spec, self.learners)
        names, inner = before.find(key)
        setup = self.setup
        for name in names:
            setup = Changeable(setup, self.spec, self.learners).put(name, value, inner)
        after = Changeable(setup, self.spec, self.learners)
        kept = {name: to_json(after.get(name)) for name in names}  # or it could not be resumed
        self._use(setup)
        self.changed |= kept
        told = [
            {"step": self.steps, "setting": name, "from": described(before.get(name)), "to": described(after.get(name))}
            for name in names
        ]
        self.changes = [*self.changes, *told][-MOST_CHANGES:]

    def _use(self, setup: Setup) -> None:
        """Go on with a setup in which changeable settings are others. Raises ConfigError, and then nothing changes."""
        before, parts = self.setup, dict(self.parts)
        _check_curricula(before, setup, self.total)
        _check_largest(self.asked, setup)
        moved = [place for place, config in enumerate(setup.configs) if config is not before.configs[place]]
        learners = [(self.learners[place], setup.configs[place]) for place in moved]
        prepared = [one.change(config) for one, config in learners if isinstance(one, TakesChanges)]
        try:
            self._rebuild(setup)
        except MarlError as error:
            self.parts = parts
            self._rebuild(before)
            raise ConfigError(str(error)) from error
        for go_on in prepared:
            go_on()

    def _rebuild(self, setup: Setup) -> None:
        """Parts with other settings are built anew, and go on from the state that they had."""
        before, self.setup = self.setup, setup
        if self._context is not None:
            self._context = replace(self._context, setup=setup)
            self._recipes = recipes(self._context)
        for name in ("shaping", "curriculum"):
            if getattr(setup, name) is not getattr(before, name) and name in self.parts:
                self.saved[name] = self.parts.pop(name).state_dict()
                if name in EARLY or self.environments.training is not None:
                    self.part(name, self.environments.training)
                else:
                    self.bind()  # built when the environment is opened

    def _restore_changes(self, state: Mapping[str, Any]) -> None:
        """Go back to the settings of a saved state. Raises ConfigError for what may not change."""
        setup = self.asked
        for name, value in state.get("changed", {}).items():
            feature = name.partition(".")[0]
            if feature in ("shaping", "curriculum") and not getattr(setup, feature):
                continue  # it holds code and was not given again: nothing can be trained before it is
            settings = Changeable(setup, self.spec, self.learners)
            if name not in settings.places:
                settings.find(name)
                raise ConfigError(f"changed: {name!r} is no name of a setting")
            setup = settings.put(name, from_json(value))
        self._use(setup)
        self.changed, self.changes = dict(state.get("changed", {})), list(state.get("changes", ()))

    # --- the environment ----------------------------------------------------------------------------------------------

    def open(self) -> BatchEnv:
        """The environment, at the step to act on."""
        self.refuse_lost()
        if self.other_ranks:
            logging.getLogger("marl.training").warning(self.other_ranks)
            self.other_ranks = ""
        env = self.environments.open(self.num_envs, self.workers, self.spec)
        self.refill(self.num_envs if self.ranks is None else self.ranks.share(self.num_envs))
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

    def refill(self, copies: int) -> None:
        """:meth:`take_copies`, which says so where a replay is thrown away."""
        if copies != self.copies and self.steps:
            logging.getLogger("marl.training").warning(
                "a replay of rows of %s copies is filled anew with rows of %s: actors have a share of them each",
                *(self.copies, copies),
            )
        self.take_copies(copies)

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

    # --- ranks --------------------------------------------------------------------------------------------------------

    def record(self, finished: Sequence[Episode]) -> None:
        """Take in the episodes that ended in this step; where there are other ranks, at the next update."""
        self.newest = finished
        if self.ranks is None:
            self.finished = len(finished) > 0
            if self.finished:
                self.log.record(finished)
        else:
            self.log.hold(self.steps, finished)

    def exchange(self, updated: bool, logs: bool) -> None:
        """After an update, and at the last step, all ranks take in the same episodes.

        Learners that update at every step talk now and then only, and before they log.
        """
        if self.ranks is None:
            return
        due = updated and (logs or self.steps - self._talked_at >= TALK_EVERY * self.num_envs)
        self._talks = due or (self.total is not None and self.steps >= self.total)  # all ranks say the same
        if self._talks:
            self._talked_at = self.steps
        self.finished = self._talks and self.log.exchange(self.ranks) > 0

    def ends(self, wish: bool, tick: Callable[[], bool] | None) -> bool:
        """Whether training ends after this step, by a wish or by ``tick``, which may save.

        Ranks agree on it where they tell each other of episodes. Rank 0 ticks; the others give it their part of what it
        saves.
        """
        if self.ranks is None:
            return (tick is not None and tick()) or wish
        self._wish |= wish
        if not self._talks:
            return False
        if self.ranks.first:
            self._wish |= tick is not None and tick()
            self.ranks.tell(ranks.DONE)
        else:
            self.answer()
        wish, self._wish = self.ranks.any(self._wish), False
        return wish

    def answer(self) -> None:
        """On other ranks than 0: give rank 0 the part of this one as often as it asks for it."""
        assert self.ranks is not None
        self.ranks.answer(lambda: checkpoint.packed(self._part()))

    def let_go(self) -> None:
        """On rank 0, at the end: nothing more is asked of the other ranks."""
        if self.ranks is not None:
            self.ranks.tell(ranks.DONE)

    def saved_by_rank_0(self) -> bool:
        """Whether this is another rank, where all of them save: then rank 0 is given the part of this one."""
        if self.ranks is None or self.ranks.first:
            return False
        self.ranks.tell(ranks.DONE)  # rank 0 says GATHER here
        self.ranks.collect(checkpoint.packed(self._part()))
        return True

    def _part(self) -> dict[str, Any]:
        """What differs between ranks, and what holds it."""
        state = self._own_state()
        return {name: state[name] for name in ("learners", "env", "torch_rng")}

    def _of_rank(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a checkpoint holds for this rank. With another number of ranks copies begin new episodes."""
        others = state.get("ranks", ())
        rank, size = (0, 1) if self.ranks is None else (self.ranks.rank, self.ranks.size)
        if 1 + len(others) == size:
            return {**state, **others[rank - 1]} if rank else state
        learners = {}
        for team, learner in zip(self.spec.teams, self.learners, strict=True):
            learners[team.name] = _but_for_memory(state["learners"][team.name], learner)
        self.other_ranks = (
            f"not bit-exact: saved by {1 + len(others)} ranks and resumed by {size}: parameters, moments, normalizers "
            "and counters go on; the copies begin new episodes, the rollout that was begun is dropped, and a replay is "
            "filled anew"
        )
        return {**state, "learners": learners, "env": None}

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs, as a tree of tensors, arrays and JSON values.

        With several ranks rank 0 asks the others for theirs, which :meth:`answer` meanwhile.
        """
        state = self._own_state()
        if self.ranks is not None and self.ranks.first:
            self.ranks.tell(ranks.GATHER)
            state["ranks"] = [checkpoint.unpacked(part) for part in self.ranks.collect(b"")]
        return state

    def _own_state(self) -> dict[str, Any]:
        """The state of this rank."""
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
            **({"changed": dict(self.changed), "changes": list(self.changes)} if self.changed else {}),
            "restarts": list(self.restarts),
            "steps": self.steps,
            "total": self.total,
            "logged_at": self.logged_at,
            "pending": dict(self.pending),
            "torch_rng": torch.get_rng_state(),
            **({"copies": self.copies} if self.ranks is None and self.copies != self.num_envs else {}),
            **({"asynchronous": dict(self.asynchronous)} if self.asynchronous else {}),
            **self.log.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state; the environment and what needs it are brought back when training goes on."""
        state = self._of_rank(migrated(state))
        self._restore_changes(state)
        if self.ranks is None:
            self.take_copies(_copies(state, self.num_envs))
        for team, learner in zip(self.spec.teams, self.learners, strict=True):
            learner.load_state_dict(state["learners"][team.name])
        self.saved_env, self.step, self.seen = state["env"], None, None
        self.saved = dict(state["parts"])
        self.lost = next((name for name, own in self.saved.items() if name not in self._recipes), None)
        self.parts = {}
        for name in EARLY:
            if name in self._recipes:
                self.part(name)
        self.bind()
        self.restarts = [int(place) for place in state["restarts"]]
        self.steps, self.total = int(state["steps"]), state["total"]
        self.logged_at, self.pending = int(state["logged_at"]), dict(state["pending"])
        self.asynchronous = dict(state.get("asynchronous", {}))
        self.log.load_state_dict(state)
        torch.set_rng_state(state["torch_rng"])


def _copies(state: Mapping[str, Any], num_envs: int) -> int:
    """How many copies a row of the saved replays has: actors send rows of a share of them."""
    copies = int(state.get("copies", num_envs))
    if not 0 < copies <= num_envs or num_envs % copies:
        raise CheckpointError(f"its replays have rows of {copies} copies, which are no share of {num_envs}")
    return copies


def _but_for_memory(saved: Mapping[str, Any], learner: Learner) -> dict[str, Any]:
    """The state of a learner of other copies, with what this one has of its own."""
    own, found = learner.state_dict(), dict(saved)
    found |= {name: own[name] for name in ("memory", "updates") if name in own}  # which belong to copies
    if "model" in found:
        found["model"] = {  # what it remembers of each copy is of another size
            name: own["model"][name] if value.shape != own["model"][name].shape else value
            for name, value in found["model"].items()
        }
    return found


def _check_curricula(before: Setup, after: Setup, total: int | None) -> None:
    """Raise ConfigError for a curriculum that cannot take the place of another in the middle of a training."""
    if after.curriculum is None or after.curriculum is before.curriculum:
        return
    checked_curricula(after.curriculum, total)
    both = zip(_curricula(before), _curricula(after), strict=True)
    for old, new in both:
        if type(old) is not type(new) or old.parameters != new.parameters:
            raise ConfigError(
                f"change('curriculum'): expected {type(old).__name__} of {', '.join(sorted(old.parameters))}, got "
                f"{type(new).__name__} of {', '.join(sorted(new.parameters))}"
            )


def _check_largest(asked: Setup, after: Setup) -> None:
    """Raise ConfigError for tasks that are larger than what the environment was made for, see ByKwargs."""
    if not isinstance(asked.tasks, ByKwargs) or after.curriculum is None or after.curriculum is asked.curriculum:
        return
    most = largest_task(asked.tasks, task_ranges(asked.curriculum))
    for name, values in task_ranges(after.curriculum).items():
        if name not in asked.tasks.largest and name in most and values.high > most[name]:
            raise ConfigError(
                f"change('curriculum'): {name}: expected at most {most[name]:g}, the largest task so far, got "
                f"{values.high:g}; name it from the beginning with tasks=marl.curriculum.ByKwargs(largest={{...}})"
            )


def _curricula(setup: Setup) -> list[Curriculum]:
    found = setup.curriculum
    return [] if found is None else list(found.values()) if isinstance(found, Mapping) else [found]


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
