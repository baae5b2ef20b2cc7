"""One copy's share of a step's arrays, agent by agent: what the adapters of single environments write into."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from marl.spaces import MASK, AgentCodec, BadValue
from marl.types import Array, Spec, Step

LARGEST = float(np.finfo(np.float32).max)  # what arrays of rewards, observations and states hold
HUGE_REWARD = 1e6  # beyond this a reward is worth a warning: it will drown every value estimate
CHECKED_STEPS = 20  # full space membership is checked in a copy's first steps; shape and finiteness always are


class Breach(Exception):
    """An environment broke its contract: which agent (None: the copy as a whole), in what, expected and got."""

    def __init__(self, agent: object, field: str, expected: str, got: str) -> None:
        """``agent``: the environment's own id."""
        super().__init__(f"{field}: expected {expected}, got {got}")
        self.agent, self.field, self.expected, self.got = agent, field, expected, got


class Rows:
    """Views of one copy's rows, indexed by agent ``g`` (all teams laid end to end).

    ids: the environment's own agent ids, in that order. obs[k], legal[k], state: this copy's rows of each array;
    next_obs[k], next_legal[k], next_state: the second buffer, used only in steps that end somebody's episode.
    """

    def __init__(
        self, spec: Spec, ids: Sequence[Hashable], copy: int, step: Step, flags: Mapping[str, Array], spare: Step
    ) -> None:
        """Rows of ``copy`` in ``step`` and its ``flags``; ``spare`` holds the second buffer."""
        self.ids = tuple(ids)
        self.index = {agent: g for g, agent in enumerate(ids)}
        self.obs = [team.obs[copy] for team in step.teams]
        self.next_obs = [team.obs[copy] for team in spare.teams]
        self.legal, self.next_legal = (
            [None if team.legal is None else team.legal[copy] for team in found.teams] for found in (step, spare)
        )
        self.state = None if step.state is None else step.state[copy]
        self.next_state = None if spare.state is None else spare.state[copy]
        self.reward, self.terminated, self.truncated, self.alive = (
            flags[name][copy] for name in ("reward", "terminated", "truncated", "alive")
        )
        codecs, agent_obs, agent_next, legal = [], [], [], []
        for team, now, later in zip(spec.teams, step.teams, spare.teams, strict=True):
            for n in range(team.num_agents):
                codecs.append(AgentCodec(team, n))
                agent_obs.append(now.obs[copy, n])
                agent_next.append(later.obs[copy, n])
                legal.append(None if now.legal is None else now.legal[copy, n])
        self.codecs = tuple(codecs)
        self.agent_obs = tuple(agent_obs)
        self.agent_next = tuple(agent_next)
        self.agent_legal = tuple(legal)
        self.writers = tuple(codec.writer(row) for codec, row in zip(codecs, agent_obs, strict=True))
        self.decoders = tuple(codec.decode for codec in codecs)
        self.masked = any(row is not None for row in legal)
        self.countable = tuple(codec.countable for codec in codecs)
        self.returns = [0.0] * len(self.ids)
        self.raw: list[Any] = [None] * len(self.ids)  # what was observed last, to say what was wrong with it
        self.raw_state: Any = None
        self.length = 0
        self.has_successor = False  # next_obs and next_state hold this step's true successors
        self.mends: tuple[str, ...] = ()  # what may be wrong with an observation: "cast", "clip"
        self.faults: dict[str, int] = {}
        self._checks = CHECKED_STEPS
        self.checking = True

    def clear(self) -> None:
        """Forget the episode: nobody is alive, observations are zero, everything is legal."""
        for obs in self.obs:
            obs.fill(0)
        self.alive.fill(False)
        for g, legal in enumerate(self.agent_legal):
            if legal is not None:
                legal[...] = self.codecs[g].base_legal
        self.returns = [0.0] * len(self.ids)
        self.length = 0

    def settle(self) -> None:
        """Called after every step: stop checking space membership once the first steps have passed."""
        if self.checking:
            self._checks -= 1
            self.checking = self._checks > 0

    def agent(self, agent: Hashable, field: str) -> int:
        """The position of an agent; ids the environment never announced are a breach."""
        try:
            return self.index[agent]
        except (KeyError, TypeError):
            raise Breach(agent, field, f"agents among {list(self.ids)}", repr(agent)) from None

    def observe(self, g: int, raw: Any) -> None:
        """Copy a raw observation into the agent's row."""
        try:
            if self.checking:
                self._check(g, raw)
            self.raw[g] = raw
            self.writers[g](raw)
        except BadValue as error:
            raise Breach(self.ids[g], "observation", error.expected, error.got) from None

    def _check(self, g: int, raw: Any) -> None:
        try:
            self.codecs[g].check(raw)
        except BadValue as error:
            if error.mend not in self.mends:
                raise
            if error.mend == "cast":
                self.faults["cast"] = self.faults.get("cast", 0) + 1

    def choose(self, g: int, raw: Any, info: Mapping[str, Any] | None) -> None:
        """Write which actions the agent may take now."""
        legal = self.agent_legal[g]
        if legal is not None:
            try:
                self.codecs[g].legal(raw, info, legal)
            except BadValue as error:
                raise Breach(self.ids[g], "action_mask", error.expected, error.got) from None
        elif info and self.countable[g] and MASK in info:
            # Nobody had one when the environment was described, so there is no room for it: it would be ignored.
            expected = "masks in the infos of reset too (ones where all is legal), of any agent, or none at all"
            raise Breach(self.ids[g], "action_mask", expected, "the first one now")

    def choose_last(self, g: int, raw: Any, info: Mapping[str, Any] | None) -> None:
        """Write which actions the agent could take if its episode were not cut here; all of its own if nobody says."""
        legal = self.agent_legal[g]
        if legal is not None:
            try:
                self.codecs[g].legal(raw, info, legal)
            except BadValue:  # where an episode ends there may be nothing left to do
                legal[...] = self.codecs[g].base_legal

    def earn(self, g: int, reward: Any) -> None:
        """Add a reward to the agent's row and return. Any scalar number will do; NaN, infinity and arrays will not."""
        if type(reward) is not float:
            reward = self._scalar(g, reward)
        if not -HUGE_REWARD < reward < HUGE_REWARD:
            self._unusual(g, reward)
        self.reward[g] += reward
        self.returns[g] += reward

    def _scalar(self, g: int, reward: Any) -> float:
        if isinstance(reward, (bool, int, np.bool_, np.integer, np.floating)):
            return float(reward)
        if isinstance(reward, np.ndarray) and reward.shape == () and reward.dtype.kind in "biuf":
            return float(reward)
        raise Breach(self.ids[g], "reward", "a finite number", f"{type(reward).__name__} {reward!r:.60}")

    def _unusual(self, g: int, reward: float) -> None:
        if not math.isfinite(reward):
            raise Breach(self.ids[g], "reward", "a finite number", str(reward))
        if abs(float(self.reward[g]) + reward) > LARGEST:
            raise Breach(self.ids[g], "reward", "a finite number", f"{reward:g}, too large for float32")
        if "huge reward" not in self.faults:
            warnings.warn(f"agent {self.ids[g]!r} got a reward of {reward:g}: consider scaling rewards", stacklevel=2)
        self.faults["huge reward"] = self.faults.get("huge reward", 0) + 1

    def die(self, g: int) -> None:
        """The agent acts no more in this episode; its row becomes zero (call `keep_successor` before)."""
        self.alive[g] = False
        self.agent_obs[g].fill(0)
        legal = self.agent_legal[g]
        if legal is not None:
            legal[...] = self.codecs[g].base_legal

    def keep_successor(self) -> None:
        """Save what the rows hold now as the true successor, before dead agents or a reset overwrite them."""
        for now, spare in zip((*self.obs, *self.legal), (*self.next_obs, *self.next_legal), strict=True):
            if spare is not None:
                spare[...] = now
        if self.state is not None and self.next_state is not None:
            self.next_state[...] = self.state
        self.has_successor = True

    def read_state(self, env: Any, ended: bool) -> None:
        """Write the global state. An environment that ends may have torn down its world: then the last state stays."""
        if self.state is None:
            return
        try:
            state = env.state()
        except Exception:
            if not ended:
                raise
            return
        self._write_state(state)

    def _write_state(self, state: Any) -> None:
        """Pixels become floats in ``[0, 1]``."""
        assert self.state is not None
        self.raw_state = state
        if type(state) is np.ndarray and state.shape == self.state.shape:
            self.state[...] = state
            return
        array = np.asarray(state)
        if array.size != self.state.size:
            raise Breach(None, "state", f"{self.state.size} values", f"shape {array.shape}")
        self.state[...] = array.reshape(-1)
        if array.dtype == np.uint8 and array.ndim > 1:
            self.state /= 255.0

    def non_finite(self, successor: bool) -> Breach | None:
        """Where a NaN or infinity stands in the observations and the state, or in their saved successors."""
        rows = self.agent_next if successor else self.agent_obs
        for g, row in enumerate(rows):
            if row.dtype == np.float32 and not np.isfinite(row).all():
                return Breach(self.ids[g], "observation", "finite numbers", _unfit(self._in_full(g)))
        state = self.next_state if successor else self.state
        if state is not None and not np.isfinite(state).all():
            return Breach(None, "state", "finite numbers", _unfit(np.asarray(self.raw_state, dtype=np.float64)))
        return None

    def _in_full(self, g: int) -> Array:
        """What an agent observed last, as a row of float64."""
        row = np.zeros(self.codecs[g].obs.shape)
        self.codecs[g].writer(row)(self.raw[g])
        return row


def _unfit(numbers: Array) -> str:
    """Why these numbers are not finite as float32."""
    if not np.isfinite(numbers).all():
        return "NaN or infinity"
    return f"{numbers.flat[np.abs(numbers).argmax()]:g}, too large for float32"
