"""How tasks reach environments without a batched form of their own, and which task each of their copies plays."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from marl.adapters.describe import layers
from marl.adapters.gymnasium import AGENT
from marl.config import unknown
from marl.spaces import obs_spec
from marl.types import ConfigError, Spec, TeamSpec

PlainTask = dict[str, float]  # numbers by parameter, int where only whole numbers have a meaning


@dataclass(frozen=True)
class ByOptions:
    """Tasks are options of every reset: ``reset(options={"task": {"size": 5}})``.

    Args:
        key: the entry that holds the task. Dots nest: ``"world.task"`` is ``{"world": {"task": {...}}}``. An empty key
            makes every parameter an option of its own.
    """

    key: str = "task"

    def __post_init__(self) -> None:
        """Check the key."""
        if not isinstance(self.key, str) or (self.key and not all(self.key.split("."))):
            raise ConfigError(f"ByOptions.key: expected a name, or names with dots between them, got {self.key!r}")


@dataclass(frozen=True)
class ByKwargs:
    """Tasks are keyword arguments: when a copy's task changes, its environment is closed and made anew with them.

    Args:
        largest: the task with most agents and the widest observations; parameters that it leaves out have the greatest
            value that the curriculum gives them. It decides what networks see: agents that other tasks lack are absent
            there, and narrower observations are padded with zeros.
    """

    largest: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        given = self.largest.items() if isinstance(self.largest, Mapping) else [("", self.largest)]
        for name, value in given:
            if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(name, str) or not name:
                raise ConfigError(f"ByKwargs.largest: expected numbers by parameter, got {self.largest!r}")


@dataclass(frozen=True)
class BySetter:
    """Tasks are handed to a setter before every reset: ``env.set_task({"size": 5})``.

    Args:
        setter: a method of the environment, found through wrappers, or a function of the environment and the task.
    """

    setter: str | Callable[[Any, dict[str, float]], object] = "set_task"

    def __post_init__(self) -> None:
        """Check the setter."""
        if not callable(self.setter) and not (isinstance(self.setter, str) and self.setter.isidentifier()):
            raise ConfigError(f"BySetter.setter: expected a method's name or a function, got {self.setter!r}")


Route = ByOptions | ByKwargs | BySetter


def checked_route(tasks: Any) -> Route | None:
    """How tasks reach the environment; None leaves it to the environment. Raises ConfigError for anything else."""
    if tasks is None or isinstance(tasks, Route):
        return tasks
    hint = f"; that is the class itself: write {tasks.__name__}()" if isinstance(tasks, type) else ""
    raise ConfigError(
        "tasks: expected marl.curriculum.ByOptions(), marl.curriculum.ByKwargs() or "
        f"marl.curriculum.BySetter('set_task'), got {tasks!r:.80}{hint}"
    )


@dataclass(frozen=True)
class TaskRange:
    """The values that a task parameter may have.

    Args:
        low: least value.
        high: greatest value.
        integer: whether only whole numbers have a meaning.
    """

    low: float = -math.inf
    high: float = math.inf
    integer: bool = False


Ranges = Mapping[str, TaskRange]


def declared_space(env: Any) -> Mapping[str, Any] | None:
    """The ``task_space`` of an environment or of what it wraps; None if it declares none."""
    for layer in layers(env):
        with contextlib.suppress(Exception):  # wrappers answer in their own ways for what they do not have
            if isinstance(layer.task_space, Mapping):
                return dict(layer.task_space)
    return None


def as_range(name: str, said: Any) -> TaskRange:
    """A range from what an environment declares: a pair ``(low, high)``, a Discrete, a Box of one number, or an object
    with ``low``, ``high`` and ``integer``. Raises ConfigError for anything else.
    """
    try:
        if isinstance(said, tuple | list):
            low, high = said
            whole = all(isinstance(end, int | np.integer) and not isinstance(end, bool) for end in said)
        elif hasattr(said, "n"):
            low, high, whole = said.start, said.start + said.n - 1, True
        else:
            low, high = (np.asarray(end).item() for end in (said.low, said.high))
            kind = getattr(said, "dtype", None)
            whole = bool(getattr(said, "integer", kind is not None and np.issubdtype(kind, np.integer)))
        found = TaskRange(float(low), float(high), whole)
    except (AttributeError, TypeError, ValueError):
        found = TaskRange(0.0, math.nan)
    if not found.low <= found.high:
        raise ConfigError(
            f"task_space: {name}: expected (low, high), a Discrete, a Box of one number, or an object with low, high "
            f"and integer, got {said!r:.80}"
        )
    return found


def largest_task(route: Route | None, ranges: Ranges) -> PlainTask:
    """What the environment is made with to see its agents and spaces: see :class:`ByKwargs`; else nothing."""
    if not isinstance(route, ByKwargs):
        return {}
    return {name: known.high for name, known in ranges.items()} | dict(route.largest)


def plain_tasks(tasks: Mapping[str, Any], count: int, space: Ranges) -> list[PlainTask]:
    """One task for each of ``count`` copies, from a number or an array ``(count,)`` of each parameter.

    Raises:
        ConfigError: for unknown parameters and for values out of their range.
    """
    found: list[PlainTask] = [{} for _ in range(count)]
    for name, value in tasks.items():
        if name not in space:
            raise ConfigError(unknown("task", name, space, "task parameter"))
        numbers = np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)).tolist()
        low, high, whole = space[name].low, space[name].high, space[name].integer
        for task, number in zip(found, numbers, strict=True):
            if not low <= number <= high or (whole and number != math.floor(number)):
                kind = "a whole number" if whole else "a number"
                raise ConfigError(f"task: {name}: expected {kind} in [{low:g}, {high:g}], got {number:g}")
            task[name] = int(number) if whole else number
    return found


class CopyTasks:
    """The task of each copy: the one it plays, the one of its next episode, and those since it was last seeded.

    route: how they reach the environment; None: not at all.
    playing, coming: by copy.
    """

    def __init__(
        self,
        num_envs: int,
        declared: Mapping[str, Any] | None,
        route: Route | None,
        ranges: Ranges,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        """Nobody has chosen a task yet.

        Args:
            num_envs: how many copies.
            declared: see :func:`declared_space`; such an environment takes tasks by options unless ``route`` says else.
            route: how tasks reach the environment; None: by options, where it declares them.
            ranges: the values that curricula choose, for environments that declare none.
            fixed: options of every reset.
        """
        self.route = ByOptions() if route is None and declared is not None else route
        self.fixed = dict(fixed or {})
        self.playing: list[PlainTask] = [{} for _ in range(num_envs)]
        self.coming: list[PlainTask] = [{} for _ in range(num_envs)]
        self.since_seed: list[list[PlainTask]] = [[] for _ in range(num_envs)]
        self._declared, self._ranges = declared, ranges

    @functools.cached_property
    def space(self) -> Ranges:
        """The parameters: those that the environment declares, else any values of those that curricula choose.

        Empty where tasks cannot reach the environment. Read when first asked for: environments may mean something else
        by ``task_space``. Raises ConfigError if that cannot be read.
        """
        if self._declared is not None:
            return {str(name): as_range(name, said) for name, said in self._declared.items()}
        known = {} if self.route is None else self._ranges
        return {name: TaskRange(integer=values.integer) for name, values in known.items()}

    def choose(self, tasks: Mapping[str, Any], copies: Sequence[int]) -> None:
        """Choose parameters of the next episodes of these copies. Raises ConfigError."""
        for e, task in zip(copies, plain_tasks(tasks, len(copies), self.space), strict=True):
            self.coming[e] = {**self.coming[e], **task}

    def taken_from(self, options: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What is left of the options of a reset of all copies once the tasks in ``options["task"]`` are chosen."""
        if options is None:
            return None
        left = dict(options)
        if self.route is not None and "task" in left:
            self.choose(left.pop("task"), range(len(self.coming)))
            return left or None
        return left

    def advance(self, e: int) -> None:
        """A copy's next episode begins; harmless when repeated."""
        self.playing[e] = self.coming[e]

    def begun(self, e: int, seeded: bool) -> None:
        """It has begun, with a seed or without."""
        if seeded:
            self.since_seed[e] = []
        if self.route is not None:
            self.since_seed[e].append(self.playing[e])

    def repeat(self, e: int, episode: int) -> None:
        """The task of a copy's ``episode``-th episode since its seed is the one to play once more."""
        if episode < len(self.since_seed[e]):
            self.playing[e] = self.since_seed[e][episode]

    def kwargs(self, e: int) -> PlainTask:
        """Keywords that a copy's environment is made with."""
        return dict(self.playing[e]) if isinstance(self.route, ByKwargs) else {}

    def tell(self, e: int, env: Any) -> None:
        """Call the setter, if there is one."""
        if isinstance(self.route, BySetter) and self.playing[e]:
            setter_of(env, self.route)(dict(self.playing[e]))

    def options(self, e: int, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The options of a copy's reset; None if nobody wants any."""
        found = {**self.fixed, **(given or {})}
        if isinstance(self.route, ByOptions) and self.playing[e]:
            found = _with_task(found, self.route.key.split(".") if self.route.key else [], self.playing[e])
        return found if found or given is not None else None

    def report(self, e: int) -> dict[str, float]:
        """What a copy's episode was, as episodes say it."""
        return {f"task/{name}": float(value) for name, value in self.playing[e].items()}

    def state(self, e: int) -> dict[str, Any] | None:
        """The tasks of one copy, as JSON values; None where there are none."""
        if self.route is None:
            return None
        since = [dict(task) for task in self.since_seed[e]]
        return {"playing": dict(self.playing[e]), "coming": dict(self.coming[e]), "since_seed": since}

    def load(self, e: int, state: Mapping[str, Any] | None) -> None:
        """Go back to a saved state of one copy."""
        state = state or {"playing": {}, "coming": {}, "since_seed": []}
        self.playing[e], self.coming[e] = dict(state["playing"]), dict(state["coming"])
        self.since_seed[e] = [dict(task) for task in state["since_seed"]]


def _with_task(options: Mapping[str, Any], keys: Sequence[str], task: PlainTask) -> dict[str, Any]:
    """Options with a task under nested keys; what else stands there stays."""
    if not keys:
        return {**options, **task}
    inner = options.get(keys[0])
    return {**options, keys[0]: _with_task(inner if isinstance(inner, Mapping) else {}, keys[1:], task)}


def setter_of(env: Any, route: BySetter) -> Callable[[dict[str, float]], object]:
    """What takes in a task. Raises ConfigError if the environment has no such method."""
    setter = route.setter
    if callable(setter):
        function = setter
        return lambda task: function(env, task)
    for layer in layers(env):
        with contextlib.suppress(Exception):
            if callable(method := getattr(layer, setter)):
                found: Callable[[dict[str, float]], object] = method
                return found
    raise ConfigError(
        f"tasks: {type(getattr(env, 'unwrapped', env)).__name__} has no method {setter!r}; name another with "
        "BySetter('...'), or give a function of the environment and the task"
    )


# --- environments of other sizes --------------------------------------------------------------------------------------


def fitted(spec: Spec, ids: Sequence[Hashable], env: Any, task: Mapping[str, float]) -> tuple[TeamSpec, ...]:
    """The teams with the observation spaces of an environment that was made for a task.

    Agents may be absent and vectors narrower than in the largest task, whose teams ``spec`` has.

    Raises:
        ConfigError: if there are more agents, wider observations or other actions.
    """
    who = f"{spec.env}: task {dict(task)}"
    largest = "the largest task decides; name it with tasks=marl.curriculum.ByKwargs(largest={...})"
    spaces: dict[Hashable, tuple[Any, Any]]
    if ids == (AGENT,) and not callable(env.observation_space):
        spaces = {AGENT: (env.observation_space, env.action_space)}
    else:
        here = getattr(env, "possible_agents", None) or getattr(env, "agents", None)
        if not here:
            raise ConfigError(f"{who}: ByKwargs needs possible_agents, so that agents are known before a reset")
        spaces = {agent: (env.observation_space(agent), env.action_space(agent)) for agent in here}
    more = [agent for agent in spaces if agent not in ids]
    if more:
        raise ConfigError(f"{who}: expected agents among {list(ids)}, got {more} too; {largest}")
    names = {str(agent): agent for agent in ids}
    teams = []
    for team in spec.teams:
        seen, widths = list(team.observation_spaces), list(team.obs.widths)
        for n, name in enumerate(team.agents):
            if names[name] not in spaces:
                continue
            observation, action = spaces[names[name]]
            if action != team.action_spaces[n]:
                raise ConfigError(
                    f"{who}: agent {name!r}: expected action space {team.action_spaces[n]}, got {action}; actions "
                    "cannot differ between tasks"
                )
            own = obs_spec([name], [observation])
            image = team.obs.is_image or own.is_image
            if (image and own.shape != team.obs.shape) or (not image and own.widths[0] > widths[n]):
                expected = f"images {team.obs.shape}" if team.obs.is_image else f"at most {widths[n]} numbers"
                raise ConfigError(
                    f"{who}: agent {name!r}: expected observations of {expected}, got {observation}; {largest}"
                )
            seen[n], widths[n] = observation, own.widths[0]
        teams.append(replace(team, observation_spaces=tuple(seen), obs=replace(team.obs, widths=tuple(widths))))
    return tuple(teams)
