"""A raw environment played by its interface; everything that comes back is examined."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterable, Mapping
from copy import deepcopy
from numbers import Real
from typing import Any

import numpy as np
from gymnasium import spaces

from marl.conformance.report import Findings, Unplayable, attempt
from marl.conformance.spaces import KINDS, form, mask_parts, misfits
from marl.conformance.trace import Trace, digest_of, overlap

OPENING_STEPS = 10  # so far episodes are compared of which many begin
HUGE_REWARD = 1e6


class EnvPlayer:
    """Plays episodes of one raw environment and examines everything that comes back.

    Subclasses know one interface each. Every agent is called by its own id; Gymnasium's single agent is ``agent_0``.
    """

    kind = ""

    def __init__(self, env: Any, log: Findings, limit: int) -> None:
        """Episodes of at most ``limit`` steps; findings go to ``log``."""
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
        self.options: dict[str, Any] | None = None  # of every reset
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
        options = {} if self.options is None else {"options": self.options}
        answer = attempt(self.log, what, lambda: self.env.reset(seed=seed, **options))
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
                raise Unplayable
            text = "possible_agents is missing or empty: those of the first reset are taken, and others cannot join"
            self._warn("no_possible_agents", "", f"{text}; list every agent id there")
        return agents

    def _declared(self, name: str, agent: Hashable) -> Any:
        """An agent's space, whatever the environment gives."""
        return getattr(self.env, name)(agent)

    def _space(self, name: str, agent: Hashable) -> spaces.Space[Any]:
        space = attempt(self.log, f"{name}({agent!r})", lambda: self._declared(name, agent))
        if not isinstance(space, spaces.Space):
            self._error("not_a_space", agent, f"{name}: expected a gymnasium Space, got {space!r:.80}")
            raise Unplayable
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
        self.trace[-1][what] = digest_of(value)

    def _observation(self, agent: Hashable, value: Any) -> None:
        key = f"observation of {agent!r}"
        self._see(key, value)
        for rule, text in misfits(self.observation_spaces[agent], value, "observation"):
            self._error(rule, agent, text)
        held = self._held.get(agent)
        if held is not None and overlap(held[0], value) and digest_of(held[0]) != held[1]:
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
                raise Unplayable
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
        parts = mask_parts(space, mask)
        if parts is None:
            self._error("mask_shape", agent, f"action mask: expected one entry per action of {space}, got {form(mask)}")
            raise Unplayable
        for part in parts:
            if not np.isin(part, (0, 1)).all():
                self._error(
                    "mask_not_binary", agent, f"action mask: expected zeros and ones, got {part.tolist()!s:.80}"
                )
                raise Unplayable
            if not part.any():
                text = "action mask: expected a legal action for an agent that is to act, got all zeros"
                self._error("mask_all_zero", agent, f"{text}; end the episode or allow a pass")
                raise Unplayable
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
                raise Unplayable from error
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

    def _announced(self, agents: list[Hashable]) -> None:
        """Members of ``env.agents`` are possible agents, each listed once."""
        unknown = [agent for agent in agents if agent not in self.agents]
        if unknown:
            self._error("unknown_agents", "", f"env.agents holds {unknown}, which possible_agents does not list")
            raise Unplayable
        if len(set(agents)) < len(agents):
            self._error("agents_twice", "", f"env.agents holds an agent twice: {agents}")
            raise Unplayable

    def _keys(self, name: str, value: Any, required: Iterable[Hashable], allowed: Iterable[Hashable]) -> None:
        """Every dictionary holds exactly the agents concerned."""
        if name == "infos" and value is None:
            self._warn(
                "infos_keys", "", "infos: expected a dictionary by agent, got None; return an empty one for each"
            )
            return
        if not isinstance(value, Mapping):
            self._error("not_a_dict", "", f"{name}: expected a dictionary by agent, got {type(value).__name__}")
            raise Unplayable
        missing = [agent for agent in required if agent not in value]
        extra = [agent for agent in value if agent not in set(allowed)]
        if missing:
            text = f"{name}: expected an entry for every agent, missing {missing}; return one for each that acted"
            if name == "infos":
                self._warn("infos_keys", "", text)
            else:
                self._error("missing_agents", "", text)
                raise Unplayable
        if extra:
            unknown = [agent for agent in extra if agent not in self.agents]
            text = f"{name}: expected only agents that act, got {extra} too; leave out who is not in env.agents"
            if name == "infos":
                self._note("infos_keys", "", text)
            elif unknown:
                self._error("unknown_agents", "", f"{text}, and list every agent in possible_agents")
            else:
                self._warn("extra_agents", "", text)
