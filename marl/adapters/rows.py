"""One copy's share of a step's arrays, agent by agent: what the adapters of single environments write into."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from marl.spaces import MASK, AgentCodec, BadValue
from marl.types import Array, Spec, Step, TeamSpec

LARGEST = float(np.finfo(np.float32).max)  # what arrays of rewards, observations and states hold
HUGE_REWARD = 1e6  # beyond this a reward is worth a warning: it will drown every value estimate
CHECKED_STEPS = 20  # full space membership is checked in a copy's first steps; shape and finiteness always are
MOST_NAMES = 64  # different names of numbers in the infos of one batch; names that count something would have no end
OWN_NAMES = ("task/", "absent/")  # how names begin by which curricula and leagues speak through `Episode.info`
# What reading an answer raises that is not what it should be. Exceptions of the environment's own code are crashes.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class ContractViolation(Exception):
    """A violation of the environment API: the agent (None: the whole copy), the field, expected and got."""

    def __init__(self, agent: object, field: str, expected: str, got: str) -> None:
        """``agent``: the environment's own id."""
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.agent, self.field, self.expected, self.got = agent, field, expected, got


def shown(value: object) -> str:
    """A value in a few words: its type and how it begins."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # integers of more than 4,300 digits, and classes whose author made a mistake
        text = ""
    return f"{type(value).__name__} {text:.60}".strip()


def is_flag(value: Any) -> bool:
    """Whether a value says True or False: a bool, 0 or 1, an array that holds one of these, or None."""
    try:
        return value is None or bool(value == 0) or bool(value == 1)
    except Exception:  # arrays of several have no truth value
        return False


class Rows:
    """Views of one copy's rows, indexed by agent ``g`` (all teams laid end to end).

    ids: the environment's own agent ids, in that order. obs[k], action_mask[k], state: this copy's rows of each
    array; next_obs[k], next_action_mask[k], next_state: the second buffer, used only in steps in which an episode ends.
    """

    def __init__(
        self, spec: Spec, ids: Sequence[Hashable], copy: int, step: Step, flags: Mapping[str, Array], spare: Step
    ) -> None:
        """Rows of ``copy`` in ``step`` and its ``flags``; ``spare`` holds the second buffer."""
        self.ids = tuple(ids)
        self.index = {agent: g for g, agent in enumerate(ids)}
        self.obs = [team.obs[copy] for team in step.teams]
        self.next_obs = [team.obs[copy] for team in spare.teams]
        self.action_mask, self.next_action_mask = (
            [None if team.action_mask is None else team.action_mask[copy] for team in found.teams]
            for found in (step, spare)
        )
        self.state = None if step.state is None else step.state[copy]
        self.next_state = None if spare.state is None else spare.state[copy]
        self.reward, self.terminated, self.truncated, self.acting = (
            flags[name][copy] for name in ("reward", "terminated", "truncated", "acting")
        )
        agent_obs, agent_next, action_mask = [], [], []
        for team, now, later in zip(spec.teams, step.teams, spare.teams, strict=True):
            for n in range(team.num_agents):
                agent_obs.append(now.obs[copy, n])
                agent_next.append(later.obs[copy, n])
                action_mask.append(None if now.action_mask is None else now.action_mask[copy, n])
        self.agent_obs = tuple(agent_obs)
        self.agent_next = tuple(agent_next)
        self.agent_action_mask = tuple(action_mask)
        self.masked = any(row is not None for row in action_mask)
        self.returns = [0.0] * len(self.ids)
        self.raw: list[Any] = [None] * len(self.ids)  # what was observed last, to say what was wrong with it
        self.raw_state: Any = None
        self.length = 0
        self.has_successor = False  # next_obs and next_state hold this step's true successors
        self.mends: tuple[str, ...] = ()  # what may be wrong with an observation: "cast", "clip"
        self.faults: dict[str, int] = {}
        self.tell: Callable[[str, str], None] | None = None  # told of casts: the kind of fault, and which
        self.names: dict[str, None] = {}  # what infos have reported so far; all copies of a batch share one
        self.said: dict[str, tuple[float, int]] = {}  # sums over the agents whose episode has ended, and of how many
        self.noted: dict[str, dict[str, Any]] | None = None  # all infos of the step, if somebody wants them
        self.fit(spec.teams, resized=False)

    def fit(self, teams: Sequence[TeamSpec], resized: bool) -> None:
        """Expect observations of these teams' spaces; ``resized``: not those of the rows, where zeros fill up."""
        self.codecs = tuple(AgentCodec(team, n) for team in teams for n in range(team.num_agents))
        self.writers = tuple(codec.writer(row) for codec, row in zip(self.codecs, self.agent_obs, strict=True))
        self.decoders = tuple(codec.decode for codec in self.codecs)
        self.countable = tuple(codec.countable for codec in self.codecs)
        self.resized = resized
        self._checks, self.checking = CHECKED_STEPS, True

    def clear(self) -> None:
        """Forget the episode: nobody is alive, observations are zero, everything is legal."""
        for obs in self.obs:
            obs.fill(0)
        self.acting.fill(False)
        for g, action_mask in enumerate(self.agent_action_mask):
            if action_mask is not None:
                action_mask[...] = self.codecs[g].base_action_mask
        self.returns = [0.0] * len(self.ids)
        self.length = 0
        self.said = {}

    def settle(self) -> None:
        """Called after every step: stop checking space membership once the first steps have passed."""
        if self.checking:
            self._checks -= 1
            self.checking = self._checks > 0

    def check_next(self) -> None:
        """Check space membership in the next step once more."""
        self._checks, self.checking = max(self._checks, 1), True

    def agent(self, agent: Hashable, field: str) -> int:
        """The position of an agent; ids the environment never announced are a breach."""
        try:
            return self.index[agent]
        except (KeyError, TypeError):
            raise ContractViolation(agent, field, f"agents among {list(self.ids)}", repr(agent)) from None

    def observe(self, g: int, raw: Any) -> None:
        """Copy a raw observation into the agent's row."""
        try:
            if self.checking:
                self._check(g, raw)
            self.raw[g] = raw
            self.writers[g](raw)
        except BadValue as error:
            raise ContractViolation(self.ids[g], "observation", error.expected, error.got) from None
        except UNREADABLE as error:
            got = f"{shown(raw)} ({' '.join(str(error).split()):.80})"
            raise ContractViolation(self.ids[g], "observation", f"a member of {self.codecs[g].space}", got) from None

    def _check(self, g: int, raw: Any) -> None:
        try:
            self.codecs[g].check(raw)
        except BadValue as error:
            if error.mend not in self.mends:
                raise
            if error.mend == "cast":
                self.faults["cast"] = self.faults.get("cast", 0) + 1
                if self.tell is not None:
                    self.tell("cast", f"agent {self.ids[g]!r}: observation of {error.got} is cast to {error.expected}")

    def choose(self, g: int, raw: Any, info: Mapping[str, Any] | None) -> None:
        """Write which actions the agent may take now."""
        action_mask = self.agent_action_mask[g]
        if action_mask is not None:
            try:
                self.codecs[g].action_mask(raw, info, action_mask)
            except BadValue as error:
                raise ContractViolation(self.ids[g], "action_mask", error.expected, error.got) from None
            except UNREADABLE:
                raise self._unreadable_mask(g, raw, info) from None
        elif info and self.countable[g] and MASK in info:
            # Nobody had one when the environment was described, so there is no room for it: it would be ignored.
            expected = "masks in the infos of reset too (ones where all is legal), of any agent, or none at all"
            raise ContractViolation(self.ids[g], "action_mask", expected, "the first one now")

    def _unreadable_mask(self, g: int, raw: Any, info: Any) -> ContractViolation:
        if info is not None and not isinstance(info, Mapping):
            return ContractViolation(self.ids[g], "info", "a dictionary or None", shown(info))
        mask = raw.get(MASK) if isinstance(raw, Mapping) else None
        mask = mask if mask is not None or info is None else info.get(MASK)
        return ContractViolation(self.ids[g], "action_mask", "zeros and ones", shown(mask))

    def choose_last(self, g: int, raw: Any, info: Mapping[str, Any] | None) -> None:
        """Write which actions the agent could take if its episode were not cut here; all of its own if nobody says."""
        action_mask = self.agent_action_mask[g]
        if action_mask is not None:
            try:
                self.codecs[g].action_mask(raw, info, action_mask)
            except (BadValue, *UNREADABLE):  # where an episode ends there may be nothing left to do
                action_mask[...] = self.codecs[g].base_action_mask

    def earn(self, g: int, reward: Any) -> None:
        """Add a reward to the agent's row and return. Any scalar number will do; NaN, infinity and arrays will not."""
        if type(reward) is not float:
            reward = self._scalar(g, reward)
        if not -HUGE_REWARD < reward < HUGE_REWARD:
            self._unusual(g, reward)
        self.reward[g] += reward
        self.returns[g] += reward

    def _scalar(self, g: int, reward: Any) -> float:
        try:
            if isinstance(reward, (bool, int, np.bool_, np.integer, np.floating)):
                return float(reward)
            if isinstance(reward, np.ndarray) and reward.shape == () and reward.dtype.kind in "biuf":
                return float(reward)
        except OverflowError:  # an integer beyond the largest float
            pass
        raise ContractViolation(self.ids[g], "reward", "a finite number", shown(reward))

    def _unusual(self, g: int, reward: float) -> None:
        if not math.isfinite(reward):
            raise ContractViolation(self.ids[g], "reward", "a finite number", str(reward))
        if abs(float(self.reward[g]) + reward) > LARGEST:
            raise ContractViolation(self.ids[g], "reward", "a finite number", f"{reward:g}, too large for float32")
        if "huge reward" not in self.faults:
            warnings.warn(f"agent {self.ids[g]!r} got a reward of {reward:g}: consider scaling rewards", stacklevel=2)
        self.faults["huge reward"] = self.faults.get("huge reward", 0) + 1

    def die(self, g: int) -> None:
        """End the agent's part in the episode: its row becomes zero (call `keep_successor` before)."""
        self.acting[g] = False
        self.agent_obs[g].fill(0)
        action_mask = self.agent_action_mask[g]
        if action_mask is not None:
            action_mask[...] = self.codecs[g].base_action_mask

    def keep_successor(self) -> None:
        """Save what the rows hold now as the true successor, before dead agents or a reset overwrite them."""
        for now, spare in zip((*self.obs, *self.action_mask), (*self.next_obs, *self.next_action_mask), strict=True):
            if spare is not None:
                spare[...] = now
        if self.state is not None and self.next_state is not None:
            self.next_state[...] = self.state
        self.has_successor = True

    def end(self, g: int, terminated: Any, truncated: Any, info: Any) -> None:
        """The agent's episode ends in this step; termination wins where both are said. Reads its last info."""
        for field, flag in (("terminated", terminated), ("truncated", truncated)):
            if not is_flag(flag):
                raise ContractViolation(self.ids[g], field, "True or False", shown(flag))
        self.terminated[g] = bool(terminated)
        self.truncated[g] = not terminated
        self.say(info)

    def say(self, info: Any) -> None:
        """Record the finite numbers of an info dictionary."""
        if not isinstance(info, Mapping):
            return
        for name, value in info.items():
            if not isinstance(name, str) or name == MASK or name.startswith(OWN_NAMES):
                continue
            if isinstance(value, np.ndarray):
                if value.shape != () or value.dtype.kind not in "biuf":
                    continue
            elif not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
                continue
            try:
                number = float(value)
            except OverflowError:
                continue
            if math.isfinite(number) and (name in self.names or len(self.names) < MOST_NAMES):
                self.names[name] = None
                total, count = self.said.get(name, (0.0, 0))
                self.said[name] = total + number, count + 1

    def note(self, infos: Mapping[Any, Any]) -> None:
        """Keep all that the environment says in this step, by agent; arrays are copied."""
        self.noted = {
            str(agent): {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in info.items()}
            for agent, info in infos.items()
            if isinstance(info, Mapping)
        }

    def info(self) -> dict[str, float]:
        """What the infos of the episode that has just ended said: means over the agents that said it."""
        return {name: total / count for name, (total, count) in self.said.items()}

    def read_state(self, env: Any) -> None:
        """Write the global state."""
        if self.state is not None:
            self._write_state(env.state())

    def _write_state(self, state: Any) -> None:
        """Pixels become floats in ``[0, 1]``."""
        assert self.state is not None
        self.raw_state = state
        try:
            if type(state) is np.ndarray and state.shape == self.state.shape:
                self.state[...] = state
                return
            array = np.asarray(state)
        except UNREADABLE:
            raise ContractViolation(None, "state", f"{self.state.size} numbers", shown(state)) from None
        if array.dtype.kind not in "biuf":
            raise ContractViolation(None, "state", f"{self.state.size} numbers", shown(state))
        if array.size != self.state.size and not (self.resized and array.size < self.state.size):
            raise ContractViolation(None, "state", f"{self.state.size} values", f"shape {array.shape}")
        self.state[: array.size] = array.reshape(-1)
        self.state[array.size :] = 0
        if array.dtype == np.uint8 and array.ndim > 1:
            self.state /= 255.0

    def non_finite(self, successor: bool) -> ContractViolation | None:
        """Where a NaN or infinity stands in the observations and the state, or in their saved successors."""
        rows = self.agent_next if successor else self.agent_obs
        for g, row in enumerate(rows):
            if row.dtype == np.float32 and not np.isfinite(row).all():
                return ContractViolation(self.ids[g], "observation", "finite numbers", _unfit(self._in_full(g)))
        state = self.next_state if successor else self.state
        if state is not None and not np.isfinite(state).all():
            return ContractViolation(
                None, "state", "finite numbers", _unfit(np.asarray(self.raw_state, dtype=np.float64))
            )
        return None

    def _in_full(self, g: int) -> Array:
        """What an agent observed last, as a row of float64."""
        row = np.zeros(self.codecs[g].obs.shape)
        self.codecs[g].writer(row)(self.raw[g])
        return row

    def outside(self, bounds: Sequence[tuple[Array, Array] | None], successor: bool) -> ContractViolation | None:
        """Where an observation leaves the bounds of its space, ``(N, O)`` of each team (None: images cannot)."""
        if self.resized:  # the bounds are those of other spaces; membership is checked now and then
            return None
        g = 0
        for now, both in zip(self.next_obs if successor else self.obs, bounds, strict=True):
            if both is not None:
                low, high = both
                wrong = (now < low) | (now > high)
                if wrong.any():
                    n, at = (int(k) for k in np.argwhere(wrong)[0])
                    expected = f"values in [{low[n, at]:g}, {high[n, at]:g}] at [{at}]"
                    return ContractViolation(self.ids[g + n], "observation", expected, f"{now[n, at]:g}")
            g += len(now)
        return None


def _unfit(numbers: Array) -> str:
    """Why these numbers are not finite as float32."""
    if not np.isfinite(numbers).all():
        return "NaN or infinity"
    return f"{numbers.flat[np.abs(numbers).argmax()]:g}, too large for float32"
