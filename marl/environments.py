"""A system's environments: the copies that train, further copies, single environments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from marl import adapters, ranks
from marl.adapters import lifecycle
from marl.adapters.describe import render_mode
from marl.adapters.faults import faults_of
from marl.adapters.resolve import another_like, is_instance, resolve
from marl.adapters.spoken import Spoken
from marl.cluster import Actors
from marl.curriculum.state import task_ranges
from marl.playing.evaluate import check_same_spec
from marl.scenario import resolve_scenario
from marl.setup import Setup
from marl.shaping.shaper import reads_state
from marl.types import BatchEnv, ConfigError, Spec

Lent = AbstractContextManager[BatchEnv]
MISSING = (
    "this system was loaded without its environment, which no file can name: name it again, in Python by env= of "
    "MultiAgentSystem.load, on the command line by --env (marl train: WHAT)"
)


class Environments:
    """Makes the environments of one setup, and owns the copies that train.

    world: what was given; None for a system that was loaded without.
    source: the same with messages as actions, where there are any.
    options: what environments are made with.
    tasks: how tasks reach them.
    training: the copies that train, once they are open.
    actors: those of a Ray cluster that step them instead of workers; may be set while they are closed.
    """

    def __init__(self, setup: Setup, known_entries: Sequence[str] = ()) -> None:
        """Opens nothing yet; ``known_entries``: where observations show what others said, as the scenario says."""
        self.known_entries = known_entries
        self.world, self.spoken, self.options = setup.env, setup.channel, setup.options
        self.source = self.world if self.spoken is None or self.world is None else self.spoken.source(self.world)
        self.patterns, self.actors = setup.patterns, setup.on_actors
        self.tasks: dict[str, Any] = {"tasks": setup.tasks, "task_ranges": task_ranges(setup.curriculum)}
        # Asking for the state costs mpe2 a tenth of its speed.
        self.reads_state = any(config.reads_state for config in setup.configs) or reads_state(setup.shaping or ())
        self.training: BatchEnv | None = None
        self.name = ""  # of the environment, once it is known
        self._said = False
        self.ranks = ranks.current()  # who steps copies too

    def open(self, num_envs: int, workers: int, spec: Spec | None = None) -> BatchEnv:
        """The copies that train, made when first needed. Raises ConfigError if they are not those of ``spec``."""
        if self.training is None:
            if self.source is None:
                raise ConfigError(MISSING)
            if self.asynchronous is not None:
                made = self.make(1)  # it tells what actors will play in
            elif self.ranks is None:
                made = self.make(num_envs, workers, actors=self.actors)
            else:
                copies = self.ranks.share(num_envs)
                made = self.make(copies, workers, first_copy=self.ranks.rank * copies)
            if spec is not None:
                try:
                    check_same_spec(spec, made.spec)
                except ConfigError:
                    lifecycle.close(made)
                    raise
            self.training, self.name = made, made.spec.env
        return self.training

    @contextmanager
    def opening(self, num_envs: int, workers: int) -> Iterator[BatchEnv]:
        """The copies that train, given back if what is begun with them fails. Raises ConfigError."""
        opened = self.open(num_envs, workers)
        try:
            yield opened
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Close the copies that train, but leave an instance to its user."""
        if self.training is not None and self.is_instance:
            lifecycle.give_back(self.source, self.training)
        elif self.training is not None:
            lifecycle.close(self.training)

    def close(self) -> None:
        """Close the copies that train; an instance that was given is closed too."""
        training, self.training = self.training, None
        if training is not None:
            lifecycle.close(training)
        elif self.is_instance and not lifecycle.is_closed(self.world):
            lifecycle.close_env(self.source)

    @property
    def asynchronous(self) -> Actors | None:
        """The actors, if they hold the policy too."""
        return None if self.actors is None or self.actors.staleness is None else self.actors

    @property
    def is_instance(self) -> bool:
        """Whether the system trains in one environment instance, of which it cannot make more."""
        return is_instance(self.source)

    @property
    def faults(self) -> dict[str, int]:
        """What went wrong in the copies that train and was survived, by kind, and ``lost_episodes``."""
        return {} if self.training is None else faults_of(self.training)

    def refuse_single(self, what: str) -> None:
        """Raise ConfigError if there is one instance alone and ``what`` plays in environments of its own."""
        if self.is_instance and another_like(self.world) is None:
            raise ConfigError(
                f"train: {what} plays in environments of its own, and this system has one instance: "
                f"{lifecycle.PASS_A_FUNCTION}"
            )

    def other_source(self) -> Any:
        """A source of more environments of the training environment's kind. Raises ConfigError if there is none."""
        if not self.is_instance:
            return self.source
        maker = another_like(self.world)
        if maker is None:
            raise ConfigError(
                f"this system has one environment instance, and more are needed here: {lifecycle.PASS_A_FUNCTION}"
            )
        return maker if self.spoken is None else self.spoken.source(maker)

    def lender(self, source: Any, exactly: bool, recorded: bool) -> Callable[[int, Spoken | None], Lent]:
        """What opens copies beside those that train and closes them again; see :meth:`another`."""

        def lend(wish: int, spoken: Spoken | None) -> Lent:
            return lifecycle.closing_batch(self.another(wish, source, spoken, exactly=exactly, recorded=recorded))

        return lend

    def message_entries(self, batch: BatchEnv) -> Sequence[str]:
        """Where observations show what others said, as the environment or the scenario knows it."""
        world = batch if hasattr(batch, "message_entries") else next(iter(getattr(batch, "envs", ())), None)
        known: Sequence[str] = getattr(world, "message_entries", ())
        return known or self.known_entries

    def another(
        self,
        num_envs: int,
        source: Any = None,
        spoken: Spoken | None = None,
        *,
        exactly: bool = False,
        recorded: bool = False,
    ) -> BatchEnv:
        """Copies beside those that train: one where no more can be made, unless it must be ``exactly`` so many.

        ``recorded``: steps have the state and all infos, whoever reads them.
        An instance is lent as long as no training goes on in it. Raises ConfigError if it does and there is no other.
        """
        like = None
        if source is None and self.is_instance and (lifecycle.is_played(self.world) or lifecycle.is_closed(self.world)):
            like = another_like(self.world)
            if like is not None and not self._said:
                self._said = True
                logging.getLogger("marl.environments").info(
                    "%s: training holds the instance; others play in new ones, made from its spec", self.name
                )
        lent = like is None and is_instance(self.source if source is None else source)
        if lent and not exactly:
            num_envs = 1
        make = partial(self.make, source=source, like=like, spoken=spoken, lent=lent, recorded=recorded)
        try:
            try:
                return make(num_envs)
            except lifecycle.NotMade as error:
                if exactly or not error.made:
                    raise
                found = make(1)
                logging.getLogger("marl.environments").warning("one copy plays instead of %s: %s", num_envs, error)
                return found
        except lifecycle.NotMade as error:
            raise self._explained(error) from error.__cause__

    def _explained(self, error: ConfigError) -> ConfigError:
        """The error for an environment that could not be made, with likely reasons."""
        if self.training is None:
            return error
        return ConfigError(f"{error}; training holds an open one: if no more can exist, call system.close() first")

    def make(
        self,
        num_envs: int,
        workers: int = 0,
        source: Any = None,
        like: Any = None,
        spoken: Spoken | None = None,
        lent: bool = False,
        recorded: bool = False,
        first_copy: int = 0,
        actors: Actors | None = None,
    ) -> BatchEnv:
        """Copies of the environment, or of another one.

        Args:
            num_envs: how many.
            workers: the processes that they are spread over.
            source: another environment, or a scenario: made with its own keywords, given its own reset options, and
                told tasks in its own way. A limit of steps and ``on_bad_obs`` are the system's unless a scenario says.
            like: what makes more of the environment's kind, where it is an instance.
            spoken: over other links than in training.
            lent: an instance among them is not closed with the copies.
            recorded: see :meth:`another`.
            first_copy: the number of the first of them, where other ranks step others.
            actors: those that they are spread over instead of processes.
        """
        options: dict[str, Any] = {"workers": workers, "lent": lent, "infos": recorded, "first_copy": first_copy}
        options |= {"actors": actors, "state": recorded or self.reads_state}
        world = source if source is not None else like if like is not None else self.world
        if world is None:
            raise ConfigError(MISSING)
        if source is None:
            options |= {**self.tasks, **self.options}
        else:
            other = resolve_scenario(source)
            world = source if other is None else other.env
            for name in ("max_steps", "on_bad_obs"):
                options[name] = self.options[name] if other is None else getattr(other, name)
            ranges = self.tasks["task_ranges"]
            if other is not None:
                options |= {"env_kwargs": dict(other.env_kwargs), "reset_options": other.reset_options}
                options |= {"tasks": other.tasks, "task_ranges": {**ranges, **task_ranges(other.curriculum)}}
        if self.spoken is not None:
            plain = world is self.world and spoken is None
            world = self.source if plain else (spoken or self.spoken).source(world)
        return adapters.make(world, num_envs, self.patterns, **options)

    def single(self, **env_kwargs: Any) -> Any:
        """One more environment as its author made it, not batched; keywords such as ``render_mode`` go to it.

        Whoever asks for it closes it. A factory need not take ``render_mode`` if what it makes has that mode already.

        Raises:
            TypeError: if it takes no such keywords.
            ConfigError: if it cannot be made, or not with that ``render_mode``.
        """
        if self.source is None:
            raise ConfigError(MISSING)
        source, keywords = self.other_source(), {**(self.options.get("env_kwargs") or {}), **env_kwargs}
        mode = env_kwargs.get("render_mode")
        try:
            return lifecycle.open_env(resolve(source, keywords)[0])
        except lifecycle.NotMade as error:
            if mode is None or not isinstance(error.__cause__, TypeError):
                if env_kwargs and isinstance(error.__cause__, TypeError):
                    raise error.__cause__ from None
                raise self._explained(error) from error.__cause__
            refused = str(error.__cause__)
        except ConfigError as error:
            if mode is None:
                raise
            refused = str(error)
        del keywords["render_mode"]
        try:
            env = lifecycle.open_env(resolve(source, keywords)[0])
        except lifecycle.NotMade as error:
            raise self._explained(error) from error.__cause__
        if render_mode(env) != mode:
            lifecycle.close_env(env)
            raise ConfigError(
                f"render_mode: {self.name}: the function that makes the environment takes no render_mode "
                f"({' '.join(refused.split())}), and what it makes has {render_mode(env)!r}; let it take the keyword, "
                f"or make the environment with render_mode={mode!r}"
            )
        return env
