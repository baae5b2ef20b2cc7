"""What flows through everything: spaces as arrays, one step of all copies and agents, the batched contract.

Axes: ``E`` environment copies, ``N`` agents of one team, ``T`` time, ``B`` batch. Agents are a tensor axis; teams are
the only loop. Everything here is plain numpy: worlds may import this module and nothing else of ``marl``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol, overload, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from marl.renamed import old_attributes

Array = NDArray[Any]
ActionKind = Literal["discrete", "multidiscrete", "multibinary", "box"]


class MarlError(Exception):
    """A mistake we can explain in one line: who, what was expected, what came, what to do."""

    exit_code = 2


class ConfigError(MarlError, ValueError):
    """Bad input: an unknown name, a value out of range, choices that have no meaning together (exit status 2)."""


class EnvContractError(MarlError, RuntimeError):
    """An environment broke the PettingZoo or Gymnasium contract (exit status 3)."""

    exit_code = 3


class NonFiniteError(MarlError, RuntimeError):
    """Training produced NaN or infinity and could not go on (exit status 4)."""

    exit_code = 4


class CheckpointError(MarlError, RuntimeError):
    """A checkpoint that is damaged, incomplete, foreign or does not fit (exit status 5)."""

    exit_code = 5


class ResourceError(MarlError, RuntimeError):
    """Memory, disk, file descriptors or worker processes ran out (exit status 6)."""

    exit_code = 6


def exit_status(error: BaseException) -> int:
    """The exit status of the command line after an error, also in a run's ``summary.json``."""
    if isinstance(error, MarlError):
        return error.exit_code
    text = str(error)
    short = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate")
    if isinstance(error, MemoryError) or any(words in text.lower() for words in short) or lost_gpu(error):
        return 6
    if isinstance(error, OSError):
        full = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
        return 6 if error.errno in full else 1
    return 1


def lost_gpu(error: BaseException) -> bool:
    """Whether CUDA gave up: nothing on that GPU can be read any more by this process."""
    return isinstance(error, RuntimeError) and str(error).startswith("CUDA error")


@dataclass(frozen=True)
class ObsSpec:
    """One team's observation: the padded shape all its agents share, and what each agent truly has.

    shape: ``(O,)`` for vectors (flattened as ``gymnasium.spaces.flatten`` does), ``(C, H, W)`` for images.
    dtype: ``"float32"`` for vectors, ``"uint8"`` for images (networks divide by 255).
    widths: true ``O`` of each agent, shape ``(N,)``; positions beyond it are always zero. For images ``C*H*W``.
    """

    shape: tuple[int, ...]
    dtype: str
    widths: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        """Whether the observation is an image ``(C, H, W)``."""
        return len(self.shape) == 3


@dataclass(frozen=True)
class ActionSpec:
    """One team's action, padded to the widest agent.

    kind ``discrete``: actions ``(E, N)`` int64 in ``[0, sizes[0])``; ``sizes = (n,)`` with the widest agent's ``n``.
    kind ``multidiscrete``: ``(E, N, A)`` int64, component ``a`` in ``[0, sizes[a])``.
    kind ``multibinary``: ``(E, N, A)`` int64 of 0 and 1; ``sizes = (2,) * A``.
    kind ``box``: ``(E, N, A)`` float32 inside ``[low, high]``; ``sizes = ()``; ``low``, ``high``: per agent,
    ``(N, A)``.
    widths: true ``n`` (discrete) or true ``A`` (others) of each agent. Padded choices are illegal; a padded component
    is always 0: of choices the only legal one, of a box the only number within its bounds.
    """

    kind: ActionKind
    sizes: tuple[int, ...]
    widths: tuple[int, ...]
    low: tuple[tuple[float, ...], ...] = ()
    high: tuple[tuple[float, ...], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Trailing shape of one agent's action: ``()`` for discrete, ``(A,)`` otherwise."""
        if self.kind == "discrete":
            return ()
        return (len(self.low[0]) if self.kind == "box" else len(self.sizes),)

    @property
    def dtype(self) -> str:
        """``"float32"`` for boxes, ``"int64"`` otherwise."""
        return "float32" if self.kind == "box" else "int64"

    def of(self, agent: int) -> ActionSpec:
        """One agent's action in the team's padded shape."""
        bounds = (self.low[agent : agent + 1], self.high[agent : agent + 1])
        return ActionSpec(self.kind, self.sizes, (self.widths[agent],), *bounds)

    @property
    def num_choices(self) -> int:
        """Width of the legal mask: all choices of all components laid end to end; 0 for boxes."""
        return sum(self.sizes)


@dataclass(frozen=True)
class TeamSpec:
    """The agents under one learner, in the order of the agent axis, with their padded and true spaces."""

    name: str
    agents: tuple[str, ...]
    obs: ObsSpec
    action: ActionSpec
    observation_spaces: tuple[gymnasium.Space[Any], ...]
    action_spaces: tuple[gymnasium.Space[Any], ...]
    masked: bool = False  # whether the environment gives action masks (or agents differ in their number of actions)

    @property
    def num_agents(self) -> int:
        """``N``."""
        return len(self.agents)


@dataclass(frozen=True)
class Spec:
    """What an environment looks like from the outside: its teams, its global state, how time passes in it."""

    env: str
    teams: tuple[TeamSpec, ...]
    state_shape: tuple[int, ...] | None = None  # env.state() flattened, float32; None where the env has none
    turn_based: bool = False  # AEC: one agent acts per step, the others wait (acting is False)

    @property
    def agents(self) -> tuple[str, ...]:
        """All agent ids, team by team."""
        return tuple(agent for team in self.teams for agent in team.agents)

    def team(self, name: str) -> TeamSpec:
        """The team of that name."""
        for team in self.teams:
            if team.name == name:
                return team
        raise ConfigError(f"no team {name!r}; teams: {', '.join(team.name for team in self.teams)}")


@dataclass(frozen=True)
class Episode:
    """A finished episode of one copy: raw (unshaped) return of every agent, and its length in environment steps."""

    copy: int
    returns: dict[str, float]
    length: int
    info: dict[str, float] = field(default_factory=dict)


class Episodes(Sequence[Episode]):
    """The episodes that ended in one step, as arrays; `Episode` objects are made only for those who look.

    copies ``(K,)`` int64, lengths ``(K,)`` int64, returns ``(K, N)`` float64 in the order of ``agents``.
    """

    __slots__ = ("_chosen", "_info_names", "_rows", "_task_names", "agents")

    def __init__(
        self,
        rows: Array,
        agents: Sequence[str],
        info_names: Sequence[str],
        task_names: Sequence[str],
        chosen: Sequence[str],
    ) -> None:
        """Wrap the arrays of finished episodes."""
        self._rows, self.agents = rows, agents
        self._info_names, self._task_names, self._chosen = info_names, task_names, chosen

    @property
    def copies(self) -> Array:
        """Which copies ended, ``(K,)``."""
        return self._rows[:, 0].astype(np.int64)

    @property
    def lengths(self) -> Array:
        """Environment steps of each episode, ``(K,)``."""
        return self._rows[:, 1].astype(np.int64)

    @property
    def returns(self) -> Array:
        """Unshaped return of each agent, ``(K, N)``."""
        return self._rows[:, 2 : 2 + len(self.agents)]

    @property
    def infos(self) -> dict[str, Array]:
        """What the world reported as each episode ended, ``(K,)`` by name, such as ``success``."""
        first = 2 + len(self.agents)
        return {name: self._rows[:, first + m] for m, name in enumerate(self._info_names)}

    def __len__(self) -> int:
        """``K``."""
        return len(self._rows)

    def _episode(self, k: int) -> Episode:
        row = self._rows[k].tolist()
        n, m = len(self.agents), len(self._info_names)
        info = dict(zip(self._info_names, row[2 + n : 2 + n + m], strict=True))
        for name in self._chosen:
            info[f"task/{name}"] = row[2 + n + m + self._task_names.index(name)]
        return Episode(int(row[0]), dict(zip(self.agents, row[2 : 2 + n], strict=True)), int(row[1]), info)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        """One episode, or a tuple of several."""
        if isinstance(index, slice):
            return tuple(self._episode(k) for k in range(len(self))[index])
        return self._episode(range(len(self))[index])

    def __iter__(self) -> Iterator[Episode]:
        """One after the other."""
        return (self._episode(k) for k in range(len(self)))

    def __repr__(self) -> str:
        """As a list of episodes."""
        return f"Episodes({list(self)!r})"


@old_attributes(alive="acting", legal="action_mask", next_legal="next_action_mask")
@dataclass
class TeamStep:
    """One team's share of a step. Arrays belong to the environment; its next step overwrites them: copy what you keep.

    obs         ``(E, N, *O)``  to act on now; zeros for agents that are dead or have not joined; an idle agent of a
                                turn-based game keeps its last observation
    next_obs    ``(E, N, *O)``  the true successor of the action just taken, never a reset observation. The very same
                                array object as ``obs`` when nobody's episode ended in this step
    reward      ``(E, N)``      float32, unshaped
    terminated  ``(E, N)``      bool: the agent's episode ended here by the task; there is no future
    truncated   ``(E, N)``      bool: it was cut off; bootstrap from ``next_obs``. Never both: termination wins
    acting      ``(E, N)``      bool: may act now. False: dead, not yet joined, or waiting for its turn
    action_mask ``(E, N, L)``   bool, ``L = ActionSpec.num_choices``; None where every choice is always allowed. Rows of
                                agents that do not act are True up to their true width: no row is ever all False
    next_action_mask            the same at the true successor, as ``next_obs``; None where that is not known
    """

    obs: Array
    next_obs: Array
    reward: Array
    terminated: Array
    truncated: Array
    acting: Array
    action_mask: Array | None
    next_action_mask: Array | None = None


@dataclass
class Step:
    """One environment step of all ``E`` copies, autoreset included (in the same step).

    started    ``(E,)`` bool: ``obs`` is the first of a new episode, so recurrent state starts at zero
    discarded  ``(E,)`` bool: the copy crashed or hung and was replaced; nothing of its unfinished
               episode may be learnt from
    state      ``(E, S)`` float32 global state to act on now, or None; next_state: the true
               successor, as for ``next_obs``
    finished   episodes that ended in this step
    infos      for each copy, by agent, all that the environment said in this step; None unless that was asked for
    """

    teams: tuple[TeamStep, ...]
    started: Array
    discarded: Array
    state: Array | None
    next_state: Array | None
    finished: Sequence[Episode]
    infos: Sequence[Mapping[str, Mapping[str, Any]]] | None = None


@runtime_checkable
class BatchEnv(Protocol):
    """``E`` copies of one environment that step together and reset themselves in the step that ends their episode."""

    @property
    def spec(self) -> Spec:
        """What the environment looks like."""
        ...

    @property
    def num_envs(self) -> int:
        """``E``."""
        ...

    def reset(self, seed: int, options: Mapping[str, Any] | None = None) -> Step:
        """Start every copy afresh; copy ``e`` draws from a stream that depends on ``(seed, e)`` alone."""
        ...

    def step(self, actions: Sequence[Array]) -> Step:
        """Take one step; ``actions[k]`` belongs to ``spec.teams[k]``: ``(E, N)`` or ``(E, N, A)``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here: a tree of arrays and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Step:
        """Go back to a saved state: the step to act on. Raises CheckpointError if the env cannot be brought back."""
        ...

    def close(self) -> None:
        """Release processes, shared memory and windows."""
        ...


@runtime_checkable
class StepsElsewhere(Protocol):
    """A `BatchEnv` whose copies step in other processes, so that one can do something else meanwhile."""

    def step_async(self, actions: Sequence[Array]) -> None:
        """Hand the actions out and return at once."""
        ...

    def step_wait(self) -> Step:
        """The step, once it has been taken."""
        ...


class Beside(Protocol):
    """Batches that step in one call."""

    def step(self, actions: Sequence[Array]) -> tuple[Step, list[Step]]:
        """One step by the actions of all, ``(M E, N)`` for each team: the Step of all copies, and of each batch."""
        ...


@runtime_checkable
class StepsBeside(Protocol):
    """A `BatchEnv` that can step in one call with others of its kind."""

    def beside(self, others: Sequence[BatchEnv]) -> Beside | None:
        """Lay these copies and those of ``others`` side by side; None: they are not of one kind.

        Each goes on as before with arrays of its own, which happen to lie there.
        """
        ...


@runtime_checkable
class SupportsBatch(Protocol):
    """An environment that brings its own batched form (native worlds do)."""

    def batch_env(self, num_envs: int, patterns: Sequence[str] | None = None) -> BatchEnv:
        """``num_envs`` copies with the same parameters, the agents divided by ``partition(patterns)``."""
        ...


def pattern_of(agent: str, patterns: Iterable[str], agents: Sequence[str]) -> str | None:
    """The pattern that an agent of ``agents`` goes by; None if none matches it.

    Its own name comes first, then the first shell pattern. A pattern that is some agent's name, such as ``"drone[0]"``,
    names that agent and no other.
    """
    patterns = list(patterns)
    if agent in patterns:
        return agent
    return next((found for found in patterns if found not in agents and fnmatchcase(agent, found)), None)


def partition(agents: Sequence[str], patterns: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Divide agents into teams by shell patterns; each agent joins the pattern that :func:`pattern_of` finds.

    None puts everyone into one team called ``"team"``. A team is named after its pattern without the wildcard:
    ``"adversary_*"`` makes the team ``"adversary"``. Raises ConfigError if an agent matches nothing or a pattern is
    idle.
    """
    if patterns is None:
        return {"team": tuple(agents)}
    teams: dict[str, list[str]] = {pattern: [] for pattern in patterns}
    for agent in agents:
        found = pattern_of(agent, patterns, agents)
        if found is None:
            raise ConfigError(
                f"agent {agent!r} belongs to no team: none of {list(patterns)} matches it; add a pattern for it"
            )
        teams[found].append(agent)
    for pattern, members in teams.items():
        if not members:
            taken = [agent for agent in agents if fnmatchcase(agent, pattern)]
            if taken:
                first = pattern_of(taken[0], patterns, agents)
                why = f"{first!r} stands before it and has its agents; put {pattern!r} first"
                if first == taken[0]:
                    why = f"{first!r} has that agent by its name; leave one of them out"
                raise ConfigError(f"team pattern {pattern!r}: {why}")
            raise ConfigError(f"team pattern {pattern!r} matches no agent; agents: {', '.join(agents)}")
    names = [pattern.rstrip("*?").rstrip("_-") or "team" for pattern in patterns]
    if len(set(names)) < len(names):
        names = list(patterns)
    return {name: tuple(members) for name, members in zip(names, teams.values(), strict=True)}


def zeros_step(spec: Spec, num_envs: int) -> Step:
    """A step's arrays, allocated once: zeros everywhere, every choice legal up to the agents' true widths."""
    teams = []
    for team in spec.teams:
        rows = (num_envs, team.num_agents)
        obs = np.zeros((*rows, *team.obs.shape), dtype=team.obs.dtype)
        action_mask = (
            np.broadcast_to(valid_choices(team.action), (*rows, team.action.num_choices)).copy()
            if team.masked
            else None
        )
        flags = [np.zeros(rows, dtype=bool) for _ in range(3)]
        teams.append(TeamStep(obs, obs, np.zeros(rows, dtype=np.float32), flags[0], flags[1], flags[2], action_mask))
    state = None if spec.state_shape is None else np.zeros((num_envs, *spec.state_shape), dtype=np.float32)
    ends = [np.zeros(num_envs, dtype=bool) for _ in range(2)]
    return Step(tuple(teams), ends[0], ends[1], state, state, ())


def valid_choices(action: ActionSpec) -> Array:
    """The choices each agent truly has, ``(N, L)`` bool: True up to the agent's width, False in the padding.

    Of a padded component the first choice stays legal: with nothing to choose it adds nothing to log-probabilities and
    entropies, and every draw is the same.
    """
    action_mask = np.ones((len(action.widths), action.num_choices), dtype=bool)
    for row, width in zip(action_mask, action.widths, strict=True):
        if action.kind == "discrete":
            row[width:] = False
            continue
        for start, stop in _components(action)[width:]:
            row[start + 1 : stop] = False
    return action_mask


def own_choices(action: ActionSpec) -> Array:
    """The choices of components that an agent truly has, ``(N, L)`` bool; of padded components there is none."""
    own = valid_choices(action)
    if action.kind != "discrete":
        for row, width in zip(own, action.widths, strict=True):
            row[sum(action.sizes[:width]) :] = False
    return own


def _components(action: ActionSpec) -> list[tuple[int, int]]:
    """Where the choices of each component begin and end."""
    ends = np.cumsum(action.sizes, dtype=int).tolist()
    return list(zip([0, *ends], ends, strict=False))
