"""Does an environment keep its contract? What `marl check` runs: stricter than PettingZoo's own tests.

First the raw environment is played as it is, whole episodes, three times with one seed: in two fresh copies and once
more in the second. Everything it returns is examined against its spaces and its own words, and the three plays must
agree. Then episodes begin as all but the first do in training, without a seed. If nothing is wrong it runs through the
adapter that training uses, which gives random returns and speed.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from marl.adapters.describe import interface
from marl.adapters.lifecycle import end_env, is_closed
from marl.types import ActionKind, Array, BatchEnv, ConfigError, MarlError

Level = Literal["error", "warning", "note"]
Trace = list[dict[str, bytes]]  # per step: what was seen, hashed; keys name it in words

RAW_STEPS = 1000  # an episode longer than this is examined up to here
SECOND_STEPS = 50  # so far two copies are compared that begin their second episode without a seed
OPENING_STEPS = 10  # so far episodes are compared of which many begin
OPENINGS = 16  # episodes that begin before random play is said to vary, or to repeat itself
HUGE_REWARD = 1e6
KINDS: dict[type[spaces.Space[Any]], ActionKind] = {
    spaces.Discrete: "discrete",
    spaces.MultiDiscrete: "multidiscrete",
    spaces.MultiBinary: "multibinary",
    spaces.Box: "box",
}
WORDS = {"discrete": "discrete", "multidiscrete": "multi-discrete", "multibinary": "binary", "box": "continuous"}


@dataclass(frozen=True)
class Finding:
    """One thing the check noticed.

    level: ``error`` breaks training or makes its results wrong, ``warning`` may, ``note`` is worth knowing.
    rule: a short name that stays the same between versions, such as ``observation_outside_space``.
    text: who, what was expected, what came, what to do.
    """

    level: Level
    rule: str
    text: str


@dataclass(frozen=True)
class Report:
    """What `check` found.

    facts: ``kind``, ``agents``, ``observation_spaces``, ``action_spaces``, ``masked``, ``state_shape``,
        ``episode_length``, and if the environment is sound ``random_return`` per agent, its sum
        ``random_return_sum`` and ``env_steps_per_second``.
    learners: for every learner ``"yes"``, or ``"no, ..."`` with the reason.
    """

    env: str
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    learners: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no error was found."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that must be mended."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        findings = [{"level": f.level, "rule": f.rule, "text": f.text} for f in self.findings]
        return {"env": self.env, "ok": self.ok, "findings": findings, "facts": self.facts, "learners": self.learners}


def check(env: Any, steps: int = 2000, seed: int = 0, learners: Sequence[type] | None = None) -> Report:
    """Examine an environment: an id, a factory or an instance, whatever `marl.adapters.make` accepts.

    steps: environment steps of random legal play through the adapter, after the raw examination.
    learners: learner config classes to judge, each with its ``action_kinds``; all of `marl.learners` unless given.
    Raises ConfigError if there is no such environment; all that is wrong with it is reported, never raised.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, got {steps}")
    create, only_one = _creator(env)
    log = _Log()
    facts: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        player = _examine(create, only_one, min(steps, RAW_STEPS), seed, log, facts)
        if player is not None and not log.has_errors():
            _run_adapted(env, steps, seed, log, facts, player)
        if player is not None and only_one:
            _close(log, player.env)
    told = [w for w in caught if not issubclass(w.category, DeprecationWarning | PendingDeprecationWarning)]
    for text in sorted({f"{w.category.__name__}: {' '.join(str(w.message).split())}" for w in told}):
        log.add("note", "warns", text, f"the environment warns: {text}")
    table = {} if player is None else _judge(player.action_spaces, learners)
    return Report(_name(env), log.findings(), facts, table)


# --- what is noticed -------------------------------------------------------------------------------------------------


class _Stop(Exception):
    """The environment cannot be played on."""


class _Log:
    """Findings, each kind once per agent, with how often it came."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], tuple[str, int]] = {}

    def add(self, level: Level, rule: str, who: object, text: str) -> None:
        """Note something; repetitions are counted."""
        key = (level, rule, str(who))
        first, count = self._found.get(key, (text, 0))
        self._found[key] = (first, count + 1)

    def has_errors(self) -> bool:
        """Whether anything must be mended."""
        return any(level == "error" for level, _, _ in self._found)

    def findings(self) -> tuple[Finding, ...]:
        """Errors first."""
        order: tuple[Level, ...] = ("error", "warning", "note")
        return tuple(
            Finding(level, rule, text if count == 1 else f"{text} ({count} times)")
            for level in order
            for (found, rule, _), (text, count) in self._found.items()
            if found == level
        )


def _attempt(log: _Log, what: str, action: Callable[[], Any]) -> Any:
    """Run a piece of the environment; if it raises, say so and stop playing."""
    try:
        return action()
    except (_Stop, KeyboardInterrupt, ConfigError):
        raise
    except BaseException as error:
        text = f"{what} raised {type(error).__name__}: {error}; run it alone to see where, and mend it"
        log.add("error", "raises", what, text)
        raise _Stop from error


# --- playing the raw environment -------------------------------------------------------------------------------------


class _Player:
    """Plays episodes of one raw environment and examines everything that comes back.

    Subclasses know one interface each. Every agent is called by its own id; Gymnasium's single agent is ``agent_0``.
    """

    kind = ""

    def __init__(self, env: Any, log: _Log, limit: int) -> None:
        self.env = env
        self.log = log
        self.limit = limit
        self.trace: Trace = []
        self.returns: dict[Hashable, float] = {}
        self.length = 0
        self.ended = False
        self.masked: set[Hashable] = set()
        self.state_shape: tuple[int, ...] | None = None
        self._stateless = False
        self._held: dict[Hashable, tuple[Any, bytes]] = {}
        self._choices = 0
        self._read = False  # agents and spaces as they are after the first reset, where training reads them
        self.agents: list[Hashable] = []
        self.observation_spaces: dict[Hashable, spaces.Space[Any]] = {}
        self.action_spaces: dict[Hashable, spaces.Space[Any]] = {}
        with contextlib.suppress(Exception):  # not everything need be known before
            self.agents = self._listed()
            self.observation_spaces = {agent: self._declared("observation_space", agent) for agent in self.agents}
            self.action_spaces = {agent: self._declared("action_space", agent) for agent in self.agents}

    def play(self, seed: int | None, choices: int) -> Trace:
        """One episode from ``reset(seed=seed)``; random legal actions drawn from ``choices``."""
        self.trace, self.length, self.ended = [], 0, False
        self._held.clear()
        self._choices = choices
        self._episode(seed)
        self._same_spaces()
        return self.trace

    def opening(self, seed: int | None, choices: int, steps: int = OPENING_STEPS) -> Trace:
        """The first steps of an episode; what was noted of the last whole one stays."""
        kept = self.limit, self.length, self.ended
        self.limit = min(self.limit, steps)
        try:
            return self.play(seed, choices)
        finally:
            self.limit, self.length, self.ended = kept

    def _episode(self, seed: int | None) -> None:
        raise NotImplementedError

    def _reset(self, seed: int | None) -> Any:
        """What reset returns. Agents and spaces are read after the first one."""
        what = "reset() without a seed" if seed is None else "reset()"
        answer = _attempt(self.log, what, lambda: self.env.reset(seed=seed))
        if not self._read:
            self._read_spaces()
        self.returns = dict.fromkeys(self.agents, 0.0)
        self._samplers = {agent: deepcopy(space) for agent, space in self.action_spaces.items()}
        for k, space in enumerate(self._samplers.values()):
            space.seed(self._choices + k)
        return answer

    def _read_spaces(self) -> None:
        before = self.observation_spaces, self.action_spaces
        self.agents = self._possible_agents()
        self.observation_spaces = {agent: self._space("observation_space", agent) for agent in self.agents}
        self.action_spaces = {agent: self._space("action_space", agent) for agent in self.agents}
        self._read = True
        self._check_spaces()
        changed = [
            f"{name} of {agent!r} was {old[agent]} before the first reset() and is {space} after it"
            for name, old, new in (
                ("observation_space", before[0], self.observation_spaces),
                ("action_space", before[1], self.action_spaces),
            )
            for agent, space in new.items()
            if agent in old and old[agent] != space
        ]
        if changed and not self.log.has_errors():
            others = f", and so are {len(changed) - 1} other spaces" if len(changed) > 1 else ""
            text = f"{changed[0]}{others}; training takes those after it, other tools may not: make spaces in __init__"
            self._warn("spaces_change_at_reset", "", text)

    def _listed(self) -> list[Hashable]:
        listed = getattr(self.env, "possible_agents", None)
        return [] if listed is None else list(listed)

    def _possible_agents(self) -> list[Hashable]:
        agents = self._listed()
        if not agents:
            agents = list(getattr(self.env, "agents", ()))
            if not agents:
                self.log.add("error", "no_agents", "", "possible_agents is missing or empty: list every agent id there")
                raise _Stop
            text = "possible_agents is missing or empty: those of the first reset are taken, and others cannot join"
            self._warn("no_possible_agents", "", f"{text}; list every agent id there")
        return agents

    def _declared(self, name: str, agent: Hashable) -> Any:
        """An agent's space, whatever the environment gives."""
        return getattr(self.env, name)(agent)

    def _space(self, name: str, agent: Hashable) -> spaces.Space[Any]:
        space = _attempt(self.log, f"{name}({agent!r})", lambda: self._declared(name, agent))
        if not isinstance(space, spaces.Space):
            self._error("not_a_space", agent, f"{name}: expected a gymnasium Space, got {space!r:.80}")
            raise _Stop
        known: spaces.Space[Any] = space
        again = self._declared(name, agent)
        if again != space:
            self._error("unstable_space", agent, f"{name} differs from one call to the next; return the same object")
        elif again is not space:
            text = f"{name} makes a new object at every call, so seeding it does nothing; return the same object"
            self._warn("unstable_space", agent, text)
        return known

    def _same_spaces(self) -> None:
        for agent in self.agents:
            for name, known in (("observation_space", self.observation_spaces), ("action_space", self.action_spaces)):
                if self._declared(name, agent) != known[agent]:
                    self._error("unstable_space", agent, f"{name} changed during play; it must stay what it was")

    def _check_spaces(self) -> None:
        for agent, space in self.action_spaces.items():
            if type(space) not in KINDS:
                names = ", ".join(kind.__name__ for kind in KINDS)
                text = f"actions are {type(space).__name__}, which no learner has; wrap the environment to give {names}"
                self._warn("action_space_unknown", agent, text)
            if isinstance(space, spaces.Box) and not space.is_bounded():
                text = f"actions {space} have no bounds; give the Box finite low and high"
                self._warn("action_space_unbounded", agent, text)

    def _error(self, rule: str, agent: object, text: str) -> None:
        self.log.add("error", rule, agent, f"{self._who(agent)}: {text}")

    def _warn(self, rule: str, agent: object, text: str) -> None:
        self.log.add("warning", rule, agent, f"{self._who(agent)}: {text}")

    def _note(self, rule: str, agent: object, text: str) -> None:
        self.log.add("note", rule, agent, f"{self._who(agent)}: {text}")

    def _who(self, agent: object) -> str:
        when = f" at step {self.length}" if self.trace else ""
        return f"agent {agent!r}{when}" if agent != "" else f"the environment{when}"

    # what comes back

    def _begin_row(self) -> None:
        self.trace.append({})

    def _see(self, what: str, value: Any) -> None:
        self.trace[-1][what] = _digest(value)

    def _observation(self, agent: Hashable, value: Any) -> None:
        key = f"observation of {agent!r}"
        self._see(key, value)
        for rule, text in _misfits(self.observation_spaces[agent], value, "observation"):
            self._error(rule, agent, text)
        held = self._held.get(agent)
        if held is not None and _overlap(held[0], value) and _digest(held[0]) != held[1]:
            text = "an observation returned earlier was overwritten in place; marl copies, but others may not"
            self.log.add("note", "reused_buffer", agent, f"agent {agent!r}: {text}")
        self._held[agent] = (value, self.trace[-1][key])

    def _reward(self, agent: Hashable, value: Any) -> None:
        self._see(f"reward of {agent!r}", value)
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real | np.number):
            got = f"{type(value).__name__} {value!r:.60}"
            self._error("reward_not_a_number", agent, f"reward: expected a number, got {got}; return float(reward)")
        elif not math.isfinite(number := float(value)):
            text = f"reward: expected a finite number, got {value}; look for a division by zero"
            self._error("reward_not_finite", agent, text)
        else:
            self.returns[agent] = self.returns.get(agent, 0.0) + number
            if abs(number) > HUGE_REWARD:
                text = f"reward {number:g} will drown every value estimate; scale rewards down"
                self._warn("reward_huge", agent, text)

    def _flag(self, agent: Hashable, name: str, value: Any) -> bool:
        self._see(f"{name} of {agent!r}", value)
        if not isinstance(value, bool | np.bool_):
            text = f"{name}: expected True or False, got {type(value).__name__} {value!r:.40}; return bool(...)"
            if isinstance(value, int | np.integer) and value in (0, 1):
                self._warn("flag_not_bool", agent, text)
            else:
                self._error("flag_not_bool", agent, text)
                raise _Stop
        return bool(value)

    def _action(self, agent: Hashable, observation: Any, info: Any) -> Any:
        """A random legal action for an agent that is to act, after a look at its mask."""
        space = self._samplers[agent]
        mask = observation.get("action_mask") if isinstance(observation, Mapping) else None
        if mask is None and isinstance(info, Mapping):
            mask = info.get("action_mask")
        if mask is None:
            if agent in self.masked:
                text = "action mask: given before, missing now; give one whenever the agent is to act"
                self._error("mask_missing", agent, text)
            return space.sample()
        self.masked.add(agent)
        self._see(f"action mask of {agent!r}", mask)
        parts = _mask_parts(space, mask)
        if parts is None:
            self._error(
                "mask_shape", agent, f"action mask: expected one entry per action of {space}, got {_shape(mask)}"
            )
            raise _Stop
        for part in parts:
            if not np.isin(part, (0, 1)).all():
                self._error(
                    "mask_not_binary", agent, f"action mask: expected zeros and ones, got {part.tolist()!s:.80}"
                )
                raise _Stop
            if not part.any():
                text = "action mask: expected a legal action for an agent that is to act, got all zeros"
                self._error("mask_all_zero", agent, f"{text}; end the episode or allow a pass")
                raise _Stop
        chosen = [int(space.np_random.choice(np.flatnonzero(part))) for part in parts]
        if isinstance(space, spaces.Discrete):
            return space.start + np.int64(chosen[0])
        return np.asarray(chosen, dtype=space.dtype).reshape(space.shape) + (
            space.start if isinstance(space, spaces.MultiDiscrete) else 0
        )

    def _state(self) -> None:
        if not callable(getattr(self.env, "state", None)) or self._stateless:
            return
        try:
            state = self.env.state()
        except Exception as error:
            text = f"state() raised {type(error).__name__}: {error}"
            if self.state_shape is None:
                self._stateless = True
                if not isinstance(error, NotImplementedError | AttributeError):
                    self._warn("no_state", "", f"{text}; mend it, or marl goes without a global state")
            elif not self.env.agents:
                text = f"{text} once the episode is over; let it show the final state, the successor of the last step"
                self._note("state_raises_at_end", "", text)
            else:
                self._error("state_raises", "", f"{text}, though it worked before; mend it")
                raise _Stop from error
            return
        self._see("state", state)
        array = np.asarray(state)
        if array.dtype.kind not in "biuf":
            self._error("state_not_numbers", "", f"state(): expected numbers, got {type(state).__name__}")
            return
        if self.state_shape is None:
            self.state_shape = array.shape
        if array.shape != self.state_shape:
            text = f"state(): expected shape {self.state_shape} as at first, got {array.shape}; keep it fixed"
            self._error("state_shape", "", text)
        if not np.isfinite(array).all():
            self._error("state_not_finite", "", "state(): expected finite numbers, got NaN or infinity")

    def _keys(self, name: str, value: Any, required: Iterable[Hashable], allowed: Iterable[Hashable]) -> None:
        """Every dictionary holds exactly the agents concerned."""
        if name == "infos" and value is None:
            self._warn(
                "infos_keys", "", "infos: expected a dictionary by agent, got None; return an empty one for each"
            )
            return
        if not isinstance(value, Mapping):
            self._error("not_a_dict", "", f"{name}: expected a dictionary by agent, got {type(value).__name__}")
            raise _Stop
        missing = [agent for agent in required if agent not in value]
        extra = [agent for agent in value if agent not in set(allowed)]
        if missing:
            text = f"{name}: expected an entry for every agent, missing {missing}; return one for each that acted"
            if name == "infos":
                self._warn("infos_keys", "", text)
            else:
                self._error("missing_agents", "", text)
                raise _Stop
        if extra:
            unknown = [agent for agent in extra if agent not in self.agents]
            text = f"{name}: expected only agents that act, got {extra} too; leave out who is not in env.agents"
            if name == "infos":
                self._note("infos_keys", "", text)
            elif unknown:
                self._error("unknown_agents", "", f"{text}, and list every agent in possible_agents")
            else:
                self._warn("extra_agents", "", text)


class _ParallelPlayer(_Player):
    kind = "parallel"

    def _episode(self, seed: int | None) -> None:
        env = self.env
        answer = self._reset(seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            self._error("reset_signature", "", f"reset(): expected (observations, infos), got {_shape(answer)}")
            raise _Stop
        observations, infos = answer
        live: list[Hashable] = list(env.agents)
        self._begin_row()
        self._announced(live)
        if not live:
            self._error("no_agents", "", "env.agents: expected at least one agent after reset, got none")
            raise _Stop
        self._keys("observations", observations, live, live)
        self._keys("infos", infos, live, live)
        for agent in live:
            self._observation(agent, observations[agent])
        self._state()
        dead: set[Hashable] = set()
        gone: set[Hashable] = set()
        lingering: list[Hashable] = []  # ended, but still in env.agents: training sends them actions too
        while self.length < self.limit:
            told = infos or {}
            actions = {agent: self._action(agent, observations.get(agent), told.get(agent)) for agent in live}
            for agent in live:
                self._see(f"action of {agent!r}", actions[agent])
            actions |= {agent: self._samplers[agent].sample() for agent in lingering}
            given = {agent: deepcopy(action) for agent, action in actions.items()}
            answer = _attempt(self.log, "step() with legal actions", lambda given=given: env.step(given))  # type: ignore[misc]
            if not (isinstance(answer, tuple) and len(answer) == 5):
                text = "step(): expected (observations, rewards, terminations, truncations, infos)"
                self._error("step_signature", "", f"{text}, got {_shape(answer)}")
                raise _Stop
            self.length += 1
            self._begin_row()
            observations, infos = answer[0], answer[4]
            members: list[Hashable] = list(env.agents)
            self._announced(members)
            joined = [agent for agent in members if agent not in live and agent not in dead]
            allowed = {*live, *members, *dead}  # a team reward may go on after a member's death
            names = ("observations", "rewards", "terminations", "truncations", "infos")
            for name, value in zip(names, answer, strict=True):
                required = [*live, *joined] if name == "observations" else live
                self._keys(name, value, required, {*self.agents, *allowed} if name == "rewards" else allowed)
            for agent in [*live, *joined]:
                self._observation(agent, observations[agent])
            now_dead: set[Hashable] = set()
            for agent in answer[1]:
                self._reward(agent, answer[1][agent])
                if agent not in allowed and agent in self.agents:
                    text = "is paid before it has joined: its return counts that, and no action of its own earned it"
                    self._warn("reward_without_agent", agent, f"{text}; pay it once it is in env.agents")
            for agent in live:
                terminated = self._flag(agent, "terminated", answer[2][agent])
                truncated = self._flag(agent, "truncated", answer[3][agent])
                if terminated or truncated:
                    now_dead.add(agent)
                elif agent not in members:
                    text = "left env.agents without being terminated or truncated; set one of the two"
                    self._error("left_without_end", agent, text)
            for agent in sorted(gone.intersection(members), key=str):
                self._error(
                    "revived", agent, "came back within the episode after its end; end it for good, or not at all"
                )
                raise _Stop
            for agent in sorted(dead.intersection(answer[2]) - gone, key=str):
                if not (answer[2][agent] or answer[3].get(agent, False)):
                    self._error("revived", agent, "was terminated or truncated and now is not; once ended, stay ended")
            dead |= now_dead
            gone |= dead.difference(members)
            for agent in sorted(now_dead.intersection(members), key=str):
                self._warn("lingers", agent, "has ended but stays in env.agents; take it out in the same step")
            self._state()
            live = [agent for agent in members if agent not in dead]
            lingering = [agent for agent in members if agent in dead]
            if not live:
                self.ended = True
                break
        if self.ended and list(env.agents):
            text = f"every agent has ended but env.agents is {list(env.agents)}; it must be empty then"
            self._error("agents_after_end", "", text)

    def _announced(self, agents: list[Hashable]) -> None:
        unknown = [agent for agent in agents if agent not in self.agents]
        if unknown:
            self._error("unknown_agents", "", f"env.agents holds {unknown}, which possible_agents does not list")
            raise _Stop
        if len(set(agents)) < len(agents):
            self._error("agents_twice", "", f"env.agents holds an agent twice: {agents}")
            raise _Stop


class _AECPlayer(_ParallelPlayer):
    kind = "aec"

    def _episode(self, seed: int | None) -> None:
        env = self.env
        self._reset(seed)
        self._begin_row()
        if not len(env.agents):
            self._error("no_agents", "", "env.agents: expected at least one agent after reset, got none")
            raise _Stop
        gone: set[Hashable] = set()
        known: list[Hashable] = list(env.agents)
        turns = 0
        self._tables()
        self._state()
        while len(env.agents) and self.length < self.limit:
            turns += 1
            self._begin_row()
            agent = env.agent_selection
            self._see("agent_selection", str(agent))
            members: list[Hashable] = list(env.agents)
            self._announced(members)
            for back in sorted(gone.intersection(members), key=str):
                self._error(
                    "revived", back, "came back within the episode after its end; end it for good, or not at all"
                )
                raise _Stop
            if agent not in members:
                text = f"agent_selection: expected one of env.agents {members}, got {agent!r}"
                self._error("selection_not_alive", "", text)
                raise _Stop
            observation, reward, terminated, truncated, info = _attempt(self.log, "last()", env.last)
            self._reward(agent, reward)
            over = self._flag(agent, "terminated", terminated) | self._flag(agent, "truncated", truncated)
            if observation is not None or not over:
                self._observation(agent, observation)
            if over:
                _attempt(self.log, "step(None) of an agent that has ended", lambda: env.step(None))
                if agent in env.agents:
                    self._error("lingers", agent, "has ended but stays in env.agents after step(None)")
                    raise _Stop
                gone.add(agent)
            else:
                action = self._action(agent, observation, info)
                self._see(f"action of {agent!r}", action)
                given = deepcopy(action)
                _attempt(self.log, "step() with a legal action", lambda given=given: env.step(given))  # type: ignore[misc]
                self.length += 1
                for left in [other for other in members if other not in env.agents]:
                    text = (
                        "left env.agents without a turn of its own (step(None)) after its end; what it earned last is "
                        "read from _cumulative_rewards, if it is there"
                    )
                    self._warn("left_without_end", left, text)
                    gone.add(left)
            known += [other for other in env.agents if other not in known]
            self._tables()
            self._state()
            if turns > 4 * self.limit + 4 * len(self.agents):
                break
        self.ended = not len(env.agents)

    def _tables(self) -> None:
        """``rewards``, ``terminations``, ``truncations`` and ``infos`` hold exactly the agents of the moment."""
        env = self.env
        for name in ("rewards", "terminations", "truncations", "infos"):
            self._keys(name, getattr(env, name, None), env.agents, env.agents)


class _GymnasiumPlayer(_Player):
    kind = "gymnasium"
    agent = "agent_0"

    def _listed(self) -> list[Hashable]:
        return [self.agent]

    def _declared(self, name: str, agent: Hashable) -> Any:
        return getattr(self.env, name, None)

    def _episode(self, seed: int | None) -> None:
        env, agent = self.env, self.agent
        answer = self._reset(seed)
        if not (isinstance(answer, tuple) and len(answer) == 2):
            self._error("reset_signature", "", f"reset(): expected (observation, info), got {_shape(answer)}")
            raise _Stop
        observation, info = answer
        self._begin_row()
        self._observation(agent, observation)
        while self.length < self.limit and not self.ended:
            action = self._action(agent, observation, info)
            self._see(f"action of {agent!r}", action)
            given = deepcopy(action)
            answer = _attempt(self.log, "step() with a legal action", lambda given=given: env.step(given))  # type: ignore[misc]
            if not (isinstance(answer, tuple) and len(answer) == 5):
                text = "step(): expected (observation, reward, terminated, truncated, info)"
                self._error("step_signature", "", f"{text}, got {_shape(answer)}")
                raise _Stop
            self.length += 1
            self._begin_row()
            observation, reward, terminated, truncated, info = answer
            self._observation(agent, observation)
            self._reward(agent, reward)
            self.ended = self._flag(agent, "terminated", terminated) | self._flag(agent, "truncated", truncated)


def _examine(
    create: Callable[[], Any], only_one: bool, limit: int, seed: int, log: _Log, facts: dict[str, Any]
) -> _Player | None:
    """Play the raw environment three times and more; returns the player, or None if there is nothing to play."""
    try:
        made = _attempt(log, "creating the environment", create)
    except _Stop:
        return None
    try:
        first = _player(made, log, limit)
    except _Stop:
        _close(log, made)
        return None
    second = first
    alike = "with the same seed and actions"
    try:
        fresh = first.play(seed, seed)
        facts.update(masked=sorted(map(str, first.masked)), state_shape=first.state_shape, episode_length=first.length)
        if not first.ended:
            text = f"no episode ended within {limit} steps of random play; give max_steps to cut it"
            log.add("note", "endless", "", text)
        next_episode = first.opening(None, seed, SECOND_STEPS)
        if only_one:
            log.add("note", "one_instance", "", "an instance was given: determinism of fresh copies cannot be checked")
        else:
            _close(log, first.env)  # before the next one, since there may be room for one only
            made = _attempt(log, "creating the environment again", create)
            second = _player(made, log, limit)
            other = second.play(seed, seed)
            advice = "draw all randomness from reset(seed=)"
            if _compare(log, "error", "fresh_nondeterministic", f"two fresh copies {alike}", fresh, other, advice):
                _compare_next(log, next_episode, second.opening(None, seed, SECOND_STEPS))
        advice = "reset() forgets to put something back, so a resumed training may have to begin new episodes"
        again = second.play(seed, seed)
        who = f"a fresh and a used copy {alike}"
        if _compare(log, "note", "reused_nondeterministic", who, fresh, again, advice) and only_one:
            _compare_next(log, next_episode, second.opening(None, seed, SECOND_STEPS))
        other = second.opening(seed + 1, seed, SECOND_STEPS)
        if other == fresh[: len(other)]:
            log.add(
                "note", "seed_without_effect", "", "another seed gives the very same episode: nothing in it is random"
            )
        _find_repetition(second, log, seed)
    except _Stop:
        pass
    facts.update(
        kind=first.kind,
        agents=[str(agent) for agent in first.agents],
        observation_spaces={str(agent): str(space) for agent, space in first.observation_spaces.items()},
        action_spaces={str(agent): str(space) for agent, space in first.action_spaces.items()},
    )
    if not only_one:
        _close(log, made)
    return first


def _close(log: _Log, env: Any) -> None:
    """Close an environment, if it can be closed and was not yet."""
    if not callable(getattr(env, "close", None)):
        log.add("note", "no_close", "", "close() is missing; training goes on without, and windows stay open")
    elif not is_closed(env):
        with contextlib.suppress(_Stop):
            _attempt(log, "close()", lambda: end_env(env))


def _player(env: Any, log: _Log, limit: int) -> _Player:
    """By the interface that training takes it for."""
    try:
        kind = interface(env)
    except ConfigError as error:
        log.add("error", "not_an_environment", "", str(error))
        raise _Stop from None
    players: dict[str, type[_Player]] = {
        "gymnasium": _GymnasiumPlayer,
        "aec": _AECPlayer,
        "parallel": _ParallelPlayer,
    }
    return players[kind](env, log, limit)


def _compare(log: _Log, level: Level, rule: str, who: str, left: Trace, right: Trace, advice: str) -> bool:
    """Two plays of one seed with the same choices must be the same from end to end; whether they are."""
    for step, (a, b) in enumerate(zip(left, right, strict=False)):
        for what in [*a, *(key for key in b if key not in a)]:
            if a.get(what) != b.get(what):
                log.add(level, rule, "", f"{who} differ at step {step} in {what}; {advice}")
                return False
    if len(left) != len(right):
        log.add(level, rule, "", f"{who} end after {len(left)} and {len(right)} steps; {advice}")
        return False
    return True


def _compare_next(log: _Log, left: Trace, right: Trace) -> None:
    """Episodes after one that was seeded, begun without a seed."""
    who = "second episodes, begun by reset() without a seed after the same first one,"
    advice = (
        "no training of it can be repeated or resumed exactly: go on with the random stream of the last seed, and make "
        "a new one only where a seed is given"
    )
    _compare(log, "error", "unseeded_reset_nondeterministic", who, left, right, advice)


def _find_repetition(player: _Player, log: _Log, seed: int) -> None:
    """Without a seed the next episode has to be another one, wherever seeds make a difference at all.

    Judged are the first observations, then all of the first steps. A start that is drawn from a few alternatives comes
    again by chance, so that many episodes must begin before anything is said.
    """
    for part in (_first_seen, _digest):
        shown = {part(player.opening(None, seed)) for _ in range(3)}
        if len(shown) > 1:
            return
        seen: Counter[bytes] = Counter()
        for k in range(OPENINGS):
            seen[part(player.opening(seed + 1 + k, seed))] += 1
            if max(seen.values()) > OPENINGS // 2:  # seeds, too, mostly lead to the same
                break
        else:
            if len({part(player.opening(None, seed)) for _ in range(OPENINGS)}) == 1:
                for k in range(3):
                    player.opening(seed + 1 + k, seed)
                    shown.add(part(player.opening(None, seed)))
                _say_repetition(log, len(shown) == 1)
            return


def _say_repetition(log: _Log, always: bool) -> None:
    begins = "every reset() without a seed begins the same episode"
    advice = "go on with the running random stream, as np_random does in gymnasium"
    if always:
        text = f"{begins}, whatever the last seed was: training plays that one over and over; {advice}"
        log.add("error", "unseeded_reset_repeats", "", text)
    else:
        text = f"{begins} until another seed is given: training plays one for a thousand steps at a time; {advice}"
        log.add("warning", "unseeded_reset_repeats", "", text)


def _first_seen(trace: Trace) -> bytes:
    """What agents saw first."""
    return next((_digest(seen) for row in trace if (seen := [v for k, v in row.items() if k.startswith("obs")])), b"")


# --- values ----------------------------------------------------------------------------------------------------------


def _digest(value: Any) -> bytes:
    """A fingerprint of any tree of arrays and plain values."""
    digest = hashlib.blake2b(digest_size=16)

    def feed(item: Any) -> None:
        if isinstance(item, Mapping):
            for key in item:
                digest.update(f"key {key!s} ".encode())
                feed(item[key])
        elif isinstance(item, tuple | list):
            digest.update(f"{len(item)} ".encode())
            for entry in item:
                feed(entry)
        elif isinstance(item, np.ndarray | np.generic):
            digest.update(f"{item.dtype} {item.shape} ".encode())
            if item.dtype.hasobject:
                digest.update(repr(item).encode())
            else:
                digest.update(np.ascontiguousarray(item).reshape(-1).view(np.uint8).data)
        else:
            digest.update(f"{type(item).__name__} {item!r} ".encode())

    feed(value)
    return digest.digest()


def _overlap(left: Any, right: Any) -> bool:
    """Whether two values share an array's memory."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return bool(np.may_share_memory(left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return any(key in right and _overlap(left[key], right[key]) for key in left)
    if isinstance(left, tuple | list) and isinstance(right, tuple | list):
        return any(_overlap(a, b) for a, b in zip(left, right, strict=False))
    return left is right


def _misfits(space: spaces.Space[Any], value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Everything about a value that its space does not allow: rule and sentence."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            yield "observation_shape", f"{where}: expected a dictionary with {sorted(space.spaces)}, got {got}"
            return
        for key, inner in space.spaces.items():
            yield from _misfits(inner, value[key], f"{where}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            yield "observation_shape", f"{where}: expected a tuple of {len(space.spaces)}, got {_shape(value)}"
            return
        for k, inner in enumerate(space.spaces):
            yield from _misfits(inner, value[k], f"{where}[{k}]")
    elif isinstance(space, spaces.Box):
        yield from _box_misfits(space, value, where)
    elif not space.contains(value):
        yield "observation_outside_space", f"{where}: expected a member of {space}, got {value!r:.80}"


def _box_misfits(space: spaces.Box, value: Any, where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, np.ndarray | np.generic):
        yield "observation_type", f"{where}: expected a numpy array, got {type(value).__name__}; use np.asarray"
        return
    if value.shape != space.shape:
        yield "observation_shape", f"{where}: expected shape {space.shape}, got {value.shape}"
        return
    if value.dtype != space.dtype:
        text = f"{where}: expected dtype {space.dtype}, got {value.dtype}; cast it with astype or change the space"
        yield "observation_dtype", text
    if value.dtype.kind not in "biuf":
        return
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        yield (
            "observation_not_finite",
            f"{where}: expected finite numbers, got NaN or infinity; look where it is computed",
        )
        return
    array = np.asarray(value)
    outside = (array < space.low) | (array > space.high)
    if outside.any():
        at = tuple(int(k) for k in np.argwhere(outside)[0])
        low, high = space.low[at], space.high[at]
        text = f"{where}: expected values in [{low:g}, {high:g}], got {array[at]:g} at index {list(at)}"
        yield "observation_outside_space", f"{text}; widen the space or clip"


def _mask_parts(space: spaces.Space[Any], mask: Any) -> list[Array] | None:
    """A mask as one array per component, or None if it does not fit the space."""
    if isinstance(space, spaces.Discrete):
        sizes = [int(space.n)]
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = [int(n) for n in space.nvec.reshape(-1)]
    elif isinstance(space, spaces.MultiBinary):
        sizes = [2] * math.prod(space.shape)
    else:
        return None
    try:
        if isinstance(mask, tuple | list) and len(sizes) > 1 and len(mask) == len(sizes):
            flat = np.concatenate([np.asarray(part).reshape(-1) for part in mask])
        else:
            flat = np.asarray(mask).reshape(-1)
    except ValueError:
        return None
    if flat.dtype.kind not in "biuf" or flat.size != sum(sizes):
        return None
    return np.split(flat, np.cumsum(sizes)[:-1])


def _shape(value: Any) -> str:
    """A value's form in a few words."""
    if isinstance(value, np.ndarray):
        return f"shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


# --- through the adapter ---------------------------------------------------------------------------------------------


def _run_adapted(env: Any, steps: int, seed: int, log: _Log, facts: dict[str, Any], player: _Player) -> None:
    """Play as training will: random legal actions through the adapter."""
    limit = None if player.ended else player.limit
    try:
        batch = _adapt(env, player, limit, log)
    except MarlError as error:
        log.add("error", "adapter_refuses", "", f"marl cannot use the environment: {error}")
        return
    except Exception as error:
        log.add("error", "raises", "adapter", f"reset() raised {type(error).__name__} in the adapter: {error}")
        return
    rng = np.random.default_rng(seed)
    totals: dict[str, list[float]] = {}
    lengths: list[int] = []
    try:
        step = batch.reset(seed)
        began = time.perf_counter()
        for _ in range(steps):
            step = batch.step(_random_actions(batch, step.teams, rng))
            for episode in step.finished:
                lengths.append(episode.length)
                for agent, value in episode.returns.items():
                    totals.setdefault(agent, []).append(value)
        facts["env_steps_per_second"] = round(steps / (time.perf_counter() - began))
    except MarlError as error:
        log.add("error", "adapter_breach", "", str(error))
        return
    except Exception as error:
        log.add("error", "raises", "adapter", f"step() raised {type(error).__name__} in long play: {error}")
        return
    finally:
        batch.close()
    if lengths:
        facts["episode_length"] = float(np.mean(lengths))
        facts["random_return"] = {agent: float(np.mean(values)) for agent, values in totals.items()}
        facts["random_return_sum"] = float(sum(facts["random_return"].values()))
    else:
        log.add("note", "no_episode", "", f"no episode ended within {steps} steps: no random return to report")


def _adapt(env: Any, player: _Player, limit: int | None, log: _Log) -> BatchEnv:
    """The environment as a batch of one; agents that cannot share a team get teams of their own."""
    from marl import adapters

    try:
        return adapters.make(env, num_envs=1, max_steps=limit, lent=True)
    except ConfigError as error:
        agents = [str(agent) for agent in player.agents]
        if len(agents) == 1:
            raise
        batch = adapters.make(env, num_envs=1, patterns=agents, max_steps=limit, lent=True)
        log.add("note", "needs_teams", "", f"one team cannot hold all agents ({error}); give each its own learner")
        return batch


def _random_actions(batch: BatchEnv, teams: Sequence[Any], rng: np.random.Generator) -> list[Array]:
    """Uniform over what is legal."""
    actions: list[Array] = []
    for team, now in zip(batch.spec.teams, teams, strict=True):
        action = team.action
        rows = (batch.num_envs, team.num_agents)
        if action.kind == "box":
            low = np.maximum(np.asarray(action.low, dtype=np.float64), -1e3)
            high = np.minimum(np.asarray(action.high, dtype=np.float64), 1e3)
            actions.append(rng.uniform(low, high, (*rows, *action.shape)).astype(np.float32))
            continue
        parts = []
        for size, stop in zip(action.sizes, np.cumsum(action.sizes), strict=True):
            scores = rng.random((*rows, size))
            if now.legal is not None:
                scores = np.where(now.legal[..., stop - size : stop], scores, -1.0)
            parts.append(scores.argmax(-1))
        actions.append(parts[0] if action.kind == "discrete" else np.stack(parts, axis=-1))
    return actions


# --- which learners --------------------------------------------------------------------------------------------------


def _judge(action_spaces: Mapping[Hashable, spaces.Space[Any]], learners: Sequence[type] | None) -> dict[str, str]:
    """For every learner whether it can train these agents, or why not."""
    if learners is None:
        from marl.learners import LEARNERS

        learners = LEARNERS
    kinds = {str(agent): KINDS.get(type(space)) for agent, space in action_spaces.items()}
    known: dict[str, frozenset[str]] = {learner.__name__: frozenset(learner.action_kinds) for learner in learners}  # type: ignore[attr-defined]
    if action_spaces and all(0 in (space.shape or ()) for space in action_spaces.values()):
        return dict.fromkeys(known, "no, there is nothing to decide: no action space has a component")
    verdicts: dict[str, str] = {}
    for name, able in known.items():
        misfit = next(((agent, kind) for agent, kind in kinds.items() if kind is None or kind not in able), None)
        if misfit is None:
            mixed = len(set(kinds.values())) > 1
            verdicts[name] = "yes, with one team for each kind of action" if mixed else "yes"
            continue
        agent, kind = misfit
        if kind is None:
            verdicts[name] = f"no, no learner has actions like those of {agent!r}; wrap the environment"
            continue
        others = [other for other, kinds_of in known.items() if kind in kinds_of]
        advice = f"; use {_either(others)}" if others else "; no learner has them"
        verdicts[name] = f"no, actions of {agent!r} are {WORDS[kind]}{advice}"
    return verdicts


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


# --- where it comes from ---------------------------------------------------------------------------------------------


def _creator(env: Any) -> tuple[Callable[[], Any], bool]:
    """How to make a raw copy, and whether there is only this one."""
    from marl.adapters.resolve import resolve

    factory, instance = resolve(env)
    if instance is not None:
        return lambda: instance, True
    return factory, False


def _name(env: Any) -> str:
    if isinstance(env, str):
        return env
    return str(getattr(env, "__name__", None) or type(env).__name__)
