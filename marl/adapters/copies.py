"""Copies of one environment stepped together in this process: seeding, autoreset, faults, return to a saved state.

What an episode looks like is the business of `ParallelCopy`, `AECCopy` and `GymnasiumCopy`; this module is the same for
all three.
"""

from __future__ import annotations

import functools
import hashlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np

from marl.adapters.actionlog import ActionLog
from marl.adapters.aec import AECCopy
from marl.adapters.arrays import StepArrays
from marl.adapters.checks import Checks, Gaps
from marl.adapters.describe import describe, interface
from marl.adapters.faults import CRASHES_IN_A_ROW, Ledger
from marl.adapters.gymnasium import GymnasiumCopy
from marl.adapters.lifecycle import NotMade, borrow, close_env, give_back, open_env, own, play_in
from marl.adapters.parallel import ParallelCopy
from marl.adapters.rows import ContractViolation, Rows
from marl.adapters.tasks import (
    ByKwargs,
    BySetter,
    CopyTasks,
    PlainTask,
    Ranges,
    Route,
    declared_space,
    fitted,
    largest_task,
    setter_of,
)
from marl.types import (
    Array,
    BatchEnv,
    CheckpointError,
    ConfigError,
    EnvContractError,
    Episode,
    MarlError,
    Spec,
    Step,
)

RESEED_STEPS = 1_000  # a copy that has gone this far since its seed is seeded again when its next episode starts
BAD_OBS = ("error", "clip", "cast", "drop")
CLOSED = "the environments were closed; make them anew"


class CopyOfEnv(Protocol):
    """Plays episodes of one environment into its rows."""

    env: Any

    def begin(self, seed: int | None, options: Mapping[str, Any] | None) -> None:
        """Start an episode."""
        ...

    def step(self, actions: Sequence[Any]) -> bool:
        """Act; True when the episode is over."""
        ...


PLAYERS: dict[str, Callable[[Any, Rows, int | None], CopyOfEnv]] = {
    "parallel": ParallelCopy,
    "aec": AECCopy,
    "gymnasium": GymnasiumCopy,
}


@dataclass
class Seeding:
    """Where a copy's random stream stands: its ``count``-th seed, and its crashes since it last finished an episode."""

    count: int = 0
    crashes: int = 0


def derived_seed(seed: int, copy: int, count: int) -> int:
    """The ``count``-th seed of a copy: a function of the run's seed and the copy's global index, nothing else."""
    sequence = np.random.SeedSequence([seed, copy], spawn_key=(count,))
    return int(sequence.generate_state(1)[0]) >> 1  # 31 bits: some environments take no more


class LocalBatch:
    """``num_envs`` copies of one environment as a `BatchEnv`, in this process.

    factory: makes one environment; called once per copy, and again when a copy has to be replaced, whose old
        environment is closed first. With ``ByKwargs`` it takes tasks as keyword arguments.
    first: what the factory has made already, if it has been called.
    instance: the factory's answer is an environment of the user's, of which there is no second one.
    lent: that environment is not closed with the copies.
    patterns: how agents form teams (`marl.types.partition`).
    first_copy: global index of the first copy: copy ``e`` draws from the stream of ``(seed, first_copy + e)``.
    state: whether to read ``env.state()`` in every step; it costs mpe2 environments a tenth of their speed.
    infos: whether each step has all infos of the environment.
    max_steps: episodes are truncated after this many steps, with their true successor; None leaves that to the env.
    reset_options: options of every reset.
    tasks: how tasks reach the environment; None: by options of its reset if it declares a ``task_space``.
    task_ranges: the values that tasks will have, for an environment that declares none.
    on_bad_obs: what to do about observations outside their space: ``error``; ``cast`` accepts a wider dtype; ``clip``
        does so and clips to the bounds; ``drop`` throws the episode away, also for NaN and bad rewards. All are counted
        in ``faults``.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        num_envs: int,
        patterns: Sequence[str] | None = None,
        *,
        first_copy: int = 0,
        max_steps: int | None = None,
        on_bad_obs: str = "error",
        state: bool = True,
        infos: bool = False,
        reset_options: Mapping[str, Any] | None = None,
        tasks: Route | None = None,
        task_ranges: Ranges | None = None,
        first: Any = None,
        instance: bool = False,
        lent: bool = False,
    ) -> None:
        """Make the copies and look at the first of them."""
        self._instance, self._lent, self._closed = instance, instance and lent, False
        self._open: list[Any] = []  # the environments that are to be closed
        if first is not None:
            self._keep(first)
        self._factory, self._max_steps, self._on_bad_obs = factory, max_steps, on_bad_obs
        self._first = first_copy
        self._num_envs = num_envs
        try:
            if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
                raise ConfigError(f"num_envs: expected an integer of at least 1, got {num_envs!r}")
            limit = max_steps
            whole = isinstance(limit, int | np.integer) and not isinstance(limit, bool)
            if limit is not None and not (whole and limit >= 1):
                raise ConfigError(f"max_steps: expected an integer of at least 1 or None, got {limit!r}")
            if on_bad_obs not in BAD_OBS:
                raise ConfigError(f"on_bad_obs: expected one of {', '.join(BAD_OBS)}, got {on_bad_obs!r}")
            largest = largest_task(tasks, task_ranges or {})
            envs = list(self._open) or [self._make(largest)]
            if isinstance(tasks, BySetter):
                setter_of(envs[0], tasks)
            self._tasks = CopyTasks(num_envs, declared_space(envs[0]), tasks, task_ranges or {}, reset_options)
            self._made_for = [largest] * num_envs  # keywords that each copy's environment was made with
            self._interface = interface(envs[0])
            self._spec, self._ids = describe(envs[0], patterns, state, reset_options)
            envs += [self._make(largest) for _ in range(1, num_envs)]
            self._ledger = Ledger(self._spec.env)
            self._arrays = StepArrays(self._spec, self._ids, num_envs, infos)
            self._step, self._rows = self._arrays.step, self._arrays.rows
            self._checks = Checks(self._spec, self._arrays, on_bad_obs, self._ledger)
            self._copies = [self._player(env, rows) for env, rows in zip(envs, self._rows, strict=True)]
        except BaseException as error:
            if isinstance(error, NotMade):
                error.made = len(self._open)
            self.close()
            raise
        self._unused = [True] * num_envs
        self._seeding = [Seeding() for _ in envs]
        self._astray = [False] * num_envs  # loaded, but what was saved did not come back; the next step has to tell
        self._log = ActionLog(self._spec, num_envs)
        self._seed: int | None = None
        self._options: Mapping[str, Any] | None = None

    @property
    def spec(self) -> Spec:
        """What the environment looks like."""
        return self._spec

    @property
    def num_envs(self) -> int:
        """``E``."""
        return self._num_envs

    @property
    def envs(self) -> tuple[Any, ...]:
        """The environments themselves, e.g. to render one."""
        return tuple(copy.env for copy in self._copies)

    @property
    def ledger(self) -> Ledger:
        """The faults of these copies."""
        return self._ledger

    # --- tasks -------------------------------------------------------------------------------------------------------

    @property
    def task_space(self) -> Ranges:
        """The parameters of the copies' tasks; none where tasks cannot reach the environment."""
        return self._tasks.space

    def set_tasks(self, tasks: Mapping[str, Any], copies: Sequence[int] | slice = slice(None)) -> None:
        """Choose tasks of some copies, one number for all or one each, from each one's next reset on."""
        self._tasks.choose(tasks, range(self._num_envs)[copies] if isinstance(copies, slice) else copies)

    def assign_tasks(self, tasks: Mapping[int, PlainTask]) -> None:
        """The same from a process that has checked them: whole tasks by copy."""
        for e, task in tasks.items():
            self._tasks.coming[e] = task

    # --- stepping ----------------------------------------------------------------------------------------------------

    def reset(self, seed: int, options: Mapping[str, Any] | None = None) -> Step:
        """Start every copy afresh; copy ``e`` draws from a stream that depends on ``(seed, first_copy + e)`` alone.

        ``options`` go to the environment, but for ``{"task": {name: numbers}}`` if it has tasks: these are chosen as by
        :meth:`set_tasks`.
        """
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ConfigError(f"seed: expected a non-negative integer, got {seed!r}")
        self._take()
        self._seed, self._options = int(seed), self._tasks.taken_from(options)
        self._arrays.wipe()
        self._astray = [False] * self._num_envs
        for e in range(self._num_envs):
            self._seeding[e] = Seeding()
            self._tasks.advance(e)
            self._renew(e)
            self._begin(e, reseed=True)
        self._checks.written(self._breached, look=True)
        return self._arrays.finish(())

    def step(self, actions: Sequence[Array]) -> Step:
        """Take one step; ``actions[k]`` belongs to ``spec.teams[k]``: ``(E, N)`` or ``(E, N, A)``."""
        if self._seed is None or self._closed:
            raise ConfigError(CLOSED if self._closed else "step before reset: call reset(seed) first")
        choices = self._choices(actions)
        self._log.append(actions)
        self._arrays.wipe()
        finished: list[Episode] = []
        for e, copy in enumerate(self._copies):
            rows = self._rows[e]
            if self._astray[e]:
                self._astray[e] = False
                self._discard(e)
                continue
            try:
                over = copy.step(choices[e])
                if rows.has_successor:
                    self._arrays.dirty = True
                    self._checks.successor(e)
            except ContractViolation as error:
                self._breached(e, error)
            except MarlError:
                raise
            except (Exception, SystemExit) as error:
                self._refuse_impossible(e, choices[e], error)
                self._replace(e, error)
            else:
                if over:
                    finished.append(self._episode(e))
                    self._ledger.end(self._first + e)
                    self._begin(e)
        self._checks.written(self._breached)
        return self._arrays.finish(tuple(finished))

    def _choices(self, actions: Sequence[Array]) -> list[Any]:
        """Per copy, something to index by agent: plain integers for discrete actions, rows of arrays otherwise."""
        if len(actions) != len(self._arrays.action_shapes):
            raise ConfigError(f"expected actions of {len(self._arrays.action_shapes)} teams, got {len(actions)}")
        for team, array, shape in zip(self._spec.teams, actions, self._arrays.action_shapes, strict=True):
            if array.shape != shape:
                raise ConfigError(f"actions of team {team.name!r}: expected shape {shape}, got {array.shape}")
        lists: list[Any] = [array.tolist() if array.ndim == 2 else array for array in actions]
        if len(lists) == 1:
            return list(lists[0])
        return [[action for team in lists for action in team[e]] for e in range(self._num_envs)]

    def _begin(self, e: int, reseed: bool = False) -> None:
        """Start copy ``e``'s next episode, replacing the environment if it cannot even do that."""
        if not reseed:
            self._seeding[e].crashes = 0  # an episode was played to its end
        # In the same environment: a new one may be a process that takes seconds to start. One that keeps traces of
        # earlier episodes through a seeded reset does not replay as it was; `load_state_dict` tells.
        reseed = reseed or self._log.since_seeding(e) > RESEED_STEPS
        self._tasks.advance(e)
        if self._made_for[e] != self._tasks.kwargs(e):
            self._remake(e)
            reseed = True
        self._unused[e] = False
        while True:
            seed = self._next_seed(e) if reseed else None
            try:
                self._start(e, seed)
            except ContractViolation as violation:
                raise self._contract_error(e, violation) from None
            except MarlError:
                raise
            except (Exception, SystemExit) as error:
                self._count_crash(e, error)
                self._remake(e)
                reseed = True
            else:
                break
        self._tasks.begun(e, seeded=reseed)
        self._step.started[e] = True
        self._arrays.dirty = True

    def _start(self, e: int, seed: int | None) -> None:
        """Reset copy ``e``'s environment to the task that it plays."""
        copy = self._copies[e]
        self._tasks.tell(e, copy.env)
        copy.begin(seed, self._tasks.options(e, self._options))

    def _next_seed(self, e: int) -> int:
        assert self._seed is not None
        seeding = self._seeding[e]
        seed = derived_seed(self._seed, self._first + e, seeding.count)
        seeding.count += 1
        self._log.restart(e)
        return seed

    def _episode(self, e: int) -> Episode:
        rows = self._rows[e]
        returns = dict(zip(self._spec.agents, rows.returns, strict=True))
        return Episode(self._first + e, returns, rows.length, rows.info() | self._tasks.report(e))

    # --- faults ------------------------------------------------------------------------------------------------------

    @property
    def faults(self) -> dict[str, int]:
        """How often something was mended or thrown away: casts, clips, drops, crashes, huge rewards."""
        total = dict(self._ledger.counts)
        for rows in self._rows:
            for fault, count in rows.faults.items():
                total[fault] = total.get(fault, 0) + count
        return total

    @property
    def lost_episodes(self) -> int:
        """How many episodes were thrown away."""
        return self._ledger.lost

    def _contract_error(self, e: int, violation: ContractViolation) -> EnvContractError:
        who = "" if violation.agent is None else f" agent {violation.agent!r}"
        mended = violation.field != "observation" or self._on_bad_obs != "error"
        other = "" if mended else "; mend it, or say by on_bad_obs= what to do with it ('cast', 'clip' or 'drop')"
        return EnvContractError(
            f"{self._spec.env}: copy {self._first + e}{who} step {self._rows[e].length}: "
            f"{violation.field}: expected {violation.expected}, got {violation.got}{other}"
        )

    def _breached(self, e: int, violation: ContractViolation) -> None:
        if self._on_bad_obs != "drop" or violation.field not in ("observation", "reward", "state"):
            raise self._contract_error(e, violation) from None
        told = str(self._contract_error(e, violation))
        self._ledger.note("drop", f"{told}; the episode is thrown away")
        if self._rows[e].length == 0:  # not even its first observation was right
            self._seeding[e].crashes += 1
            if self._seeding[e].crashes >= CRASHES_IN_A_ROW:
                raise self._contract_error(e, violation) from None
        self._ledger.lose(self._first + e, "drop", told)
        self._discard(e)

    def _refuse_impossible(self, e: int, choices: Sequence[Any], error: BaseException) -> None:
        """An environment that raises at an action outside its space is not to blame."""
        rows = self._rows[e]
        for g, codec in enumerate(rows.codecs):
            if rows.acting[g] and not codec.action_space.contains(codec.decode(choices[g])):
                raise ConfigError(
                    f"action of agent {rows.ids[g]!r} in copy {self._first + e}: expected a member of "
                    f"{codec.action_space}, got {choices[g]}"
                ) from error

    def _replace(self, e: int, error: BaseException) -> None:
        """The environment raised: throw the episode away and go on with a new one from the factory."""
        told = self._count_crash(e, error)
        self._ledger.lose(self._first + e, "crash", told)
        self._tasks.advance(e)
        self._remake(e)
        self._discard(e)

    def _count_crash(self, e: int, error: BaseException) -> str:
        """What happened, in words. Raises EnvContractError after too many in a row."""
        seeding = self._seeding[e]
        seeding.crashes += 1
        who, when = f"{self._spec.env}: copy {self._first + e} raised", f"at step {self._rows[e].length}"
        what = "".join(traceback.format_exception_only(error)).strip()
        told = f"{who} {when}: {what}"
        self._ledger.note("crash", f"{told}; its episode is thrown away, and the environment made anew", error)
        if seeding.crashes >= CRASHES_IN_A_ROW:
            raise EnvContractError(f"{who} {seeding.crashes} times in a row, last {when}: {what}") from error
        return told

    def _discard(self, e: int) -> None:
        """Show the copy as freshly reset, and nothing of the episode that went wrong."""
        rows = self._rows[e]
        rows.reward.fill(0)
        rows.terminated.fill(False)
        rows.truncated.fill(False)
        rows.has_successor = False
        self._tasks.advance(e)
        self._renew(e)
        self._begin(e, reseed=True)
        self._step.discarded[e] = True

    # --- going back to a saved state ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Seeds and the actions since: replaying them brings copies back, checked by a hash of what they show."""
        if self._seed is None:
            raise ConfigError("state_dict before reset: call reset(seed) first")
        copies = []
        for e, seeding in enumerate(self._seeding):
            names = [team.name for team in self._spec.teams]
            copies.append(
                {
                    "seeds": seeding.count,
                    "crashes": seeding.crashes,
                    "actions": dict(zip(names, self._log.actions(e), strict=True)),
                    "forgotten": self._log.forgotten(e),
                    "hash": self._hash(e),
                    "tasks": self._tasks.state(e),
                    "returns": [float(value) for value in self._rows[e].returns],
                    "length": self._rows[e].length,
                    "astray": self._astray[e],
                    "ends": list(astuple(self._checks.ends[e])),
                }
            )
        return {
            "env": self._spec.env,
            "seed": self._seed,
            "options": None if self._options is None else dict(self._options),
            "max_steps": self._max_steps,
            "first_copy": self._first,
            "faults": self.faults,
            "lost": self._ledger.lost,
            "looks": list(astuple(self._checks.looks)),
            "copies": copies,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Step:
        """Seed every copy as it was seeded last, in an environment without a past, and repeat its actions since.

        Copies that then show something else than when they were saved, as those of an environment with a clock or a
        random stream of its own do, and those whose episode is too long to be repeated, begin a new episode, and the
        step that comes back marks them ``discarded``; so does the next step, since what was about to be done belongs to
        an episode that is gone.
        """
        mine = {"env": self._spec.env, "max_steps": self._max_steps, "first_copy": self._first}
        for key, value in mine.items():
            if state[key] != value:
                raise CheckpointError(f"environment state: {key} was {state[key]!r} when saved, is {value!r} now")
        if len(state["copies"]) != self._num_envs:
            raise CheckpointError(f"environment state holds {len(state['copies'])} copies, expected {self._num_envs}")
        self._take()
        self._seed, self._options = int(state["seed"]), state["options"]
        for e, saved in enumerate(state["copies"]):
            self._tasks.load(e, saved.get("tasks"))
            if self._made_for[e] != self._tasks.kwargs(e):
                self._remake(e)
            self._renew(e)
            self._unused[e] = False
        self._arrays.wipe()
        names = [team.name for team in self._spec.teams]
        logs = [[np.asarray(saved["actions"][name]) for name in names] for saved in state["copies"]]
        self._log.load(logs)
        for e, saved in enumerate(state["copies"]):
            self._seeding[e] = Seeding(int(saved["seeds"]), int(saved["crashes"]))
            known = not saved.get("forgotten", False)
            came_back = known and self._replay(e, logs[e]) and self._hash(e) == saved["hash"]
            self._astray[e] = not came_back or bool(saved.get("astray", False))
            self._step.started[e] = self._rows[e].length == 0
            self._step.discarded[e] = False
            if not came_back:
                self._remake(e)
                self._discard(e)
        self._arrays.flags["reward"].fill(0)
        self._arrays.wipe_ends()
        for rows in self._rows:
            rows.faults = {}
        self._ledger.counts.clear()
        self._ledger.counts.update({str(kind): int(count) for kind, count in state["faults"].items()})
        self._ledger.lost = int(state.get("lost", 0))
        self._checks.looks = Gaps(*map(int, state.get("looks", ())))
        self._checks.ends = [Gaps(*map(int, saved.get("ends", ()))) for saved in state["copies"]]
        self._checks.mend()
        self._arrays.dirty = True
        return self._arrays.finish(())

    def _replay(self, e: int, log: Sequence[Array]) -> bool:
        """Repeat one copy's actions since its last seed; whether the environment took them all."""
        assert self._seed is not None
        copy, rows = self._copies[e], self._rows[e]
        seed = derived_seed(self._seed, self._first + e, self._seeding[e].count - 1)
        episode = 0
        try:
            self._tasks.repeat(e, episode)
            self._start(e, seed)
            for t in range(len(log[0])):
                rows.reward.fill(0)
                rows.terminated.fill(False)
                rows.truncated.fill(False)
                rows.has_successor = False
                choice = [action for team in log for action in (team[t].tolist() if team.ndim == 2 else team[t])]
                if copy.step(choice):
                    episode += 1
                    self._tasks.repeat(e, episode)
                    self._start(e, None)
        except (Exception, SystemExit):
            return False
        return True

    def _hash(self, e: int) -> str:
        """A fingerprint of what copy ``e`` shows: observations, who may act and how, state, returns, length."""
        rows = self._rows[e]
        digest = hashlib.sha256()
        parts = [*rows.obs, rows.acting, *(row for row in rows.agent_action_mask if row is not None), rows.state]
        for part in parts:
            if part is not None:
                digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(np.array([*rows.returns, rows.length], dtype=np.float64).tobytes())
        return digest.hexdigest()

    # --- environments ------------------------------------------------------------------------------------------------

    def _player(self, env: Any, rows: Rows) -> CopyOfEnv:
        return PLAYERS[self._interface](env, rows, self._max_steps)

    def _make(self, kwargs: PlainTask) -> Any:
        """One environment more, which is ours to step and, unless it is lent, to close."""
        env = open_env(functools.partial(self._factory, **kwargs) if kwargs else self._factory)
        self._keep(env)
        return env

    def _keep(self, env: Any) -> None:
        if self._instance:
            borrow(env, self, keep=not self._lent)
        else:
            own(env, self)
        self._open.append(env)

    def _take(self) -> None:
        """Mark an instance as in use by these copies."""
        if self._closed:
            raise ConfigError(CLOSED)
        if self._instance:
            play_in(self._open[0], self)

    def _remake(self, e: int) -> None:
        """A new environment for a copy; the old one is closed first, since there may be room for one only."""
        if not self._instance:
            self._close_one(self._copies[e].env)
            kwargs = self._tasks.kwargs(e)
            try:
                env = self._make(kwargs)
            except BaseException as error:
                self.close()  # so that nobody steps a copy whose environment is closed
                if not isinstance(error, ConfigError):
                    raise
                task = f" for the task {kwargs}" if kwargs else ""
                raise EnvContractError(
                    f"{self._spec.env}: copy {self._first + e} had to be replaced{task} and could not be made again: "
                    f"{error}"
                ) from error
            if isinstance(self._tasks.route, ByKwargs):
                self._fit(e, env, kwargs)
        else:
            env = self._copies[e].env
        self._copies[e] = self._player(env, self._rows[e])
        self._unused[e] = True

    def _fit(self, e: int, env: Any, task: PlainTask) -> None:
        """Expect what an environment shows that was made for a task. Raises ConfigError."""
        try:
            teams = fitted(self._spec, self._ids, env, task)
            if teams != self._spec.teams and self._on_bad_obs == "clip":
                raise ConfigError(
                    f"{self._spec.env}: task {task}: on_bad_obs='clip': expected one observation space for all tasks, "
                    "got another one here; use 'error', 'cast' or 'drop'"
                )
        except BaseException:
            self.close()  # as above
            raise
        self._made_for[e] = task
        self._rows[e].fit(teams, resized=teams != self._spec.teams)

    def _renew(self, e: int) -> None:
        """Give a copy that was played in a new environment, so that nothing but its seed decides what comes."""
        if not self._unused[e]:
            self._remake(e)

    def _close_one(self, env: Any) -> None:
        """Close an environment of ours, once."""
        if any(env is one for one in self._open):
            self._open = [one for one in self._open if one is not env]
            close_env(env)

    def close(self) -> None:
        """Close the environments."""
        self._closed = True
        for env in list(self._open):
            if self._lent:
                give_back(env, self)
            else:
                self._close_one(env)


def in_process(
    factory: Callable[..., Any],
    num_envs: int,
    patterns: Sequence[str] | None = None,
    *,
    first_copy: int = 0,
    max_steps: int | None = None,
    on_bad_obs: str = "error",
    env_kwargs: Mapping[str, Any] | None = None,
    state: bool = True,
    reset_options: Mapping[str, Any] | None = None,
    tasks: Route | None = None,
    task_ranges: Ranges | None = None,
) -> BatchEnv:
    """``num_envs`` copies stepped in this process; copy ``e`` draws from the stream of ``(seed, first_copy + e)``."""
    return LocalBatch(
        functools.partial(factory, **env_kwargs) if env_kwargs else factory,
        num_envs,
        patterns,
        first_copy=first_copy,
        max_steps=max_steps,
        on_bad_obs=on_bad_obs,
        state=state,
        reset_options=reset_options,
        tasks=tasks,
        task_ranges=task_ranges,
    )
